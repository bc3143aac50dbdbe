"""Numba's kernels on disk: what a wheel brings, what is kept, and for which processors."""

import pytest
from support import require, run_python

from fastmlp import _backends


@pytest.fixture(autouse=True)
def needs_numba():
    require("numba")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The module, with folders of the test's own."""
    from fastmlp._backends._numba import _cache

    monkeypatch.setattr(_cache, "_SHIPPED", tmp_path / "objects")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return _cache


@pytest.fixture
def targets():
    """Those that a wheel brings kernels for: AVX2, AVX-512."""
    from fastmlp._backends._numba._target import shipped_targets

    found = shipped_targets()
    if not found:
        pytest.skip("wheels for this platform bring none")
    return found


@pytest.fixture
def processor(monkeypatch):
    """Sets the features, by LLVM's names, that this processor seems to have; returns what kernels are compiled for."""
    from fastmlp._backends._numba import _target

    def find(features, limit="avx512"):
        monkeypatch.setattr(_target.llvm, "get_host_cpu_features", lambda: dict.fromkeys(features, True))
        return _target.find_target.__wrapped__(limit)

    return find


def test_a_wheels_object_is_found_before_one_that_was_kept(cache, targets, tmp_path):
    for target in targets:
        assert cache.load("float32", target) is None
        cache.keep("float32", target, b"kept")
        assert cache.load("float32", target) == b"kept"
        cache.ship(tmp_path / "objects", "float32", target, b"shipped")
        assert cache.load("float32", target) == b"shipped"
        assert cache.load("float64", target) is None
        assert cache.load("float32", target._replace(features="-movbe")) is None


def test_damaged_and_stale_objects_are_passed_over(cache, targets, tmp_path, monkeypatch):
    cache.keep("float32", targets[0], b"kept")
    cache.ship(tmp_path / "objects", "float32", targets[0], b"shipped")
    (shipped,) = (tmp_path / "objects").iterdir()
    (kept,) = (tmp_path / "cache").iterdir()
    content = shipped.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"x", b""):
        shipped.write_bytes(damaged)
        assert cache.load("float32", targets[0]) == b"kept"
    kept.write_bytes(kept.read_bytes()[::-1])
    assert cache.load("float32", targets[0]) is None
    shipped.write_bytes(content)
    assert cache.load("float32", targets[0]) == b"shipped"
    monkeypatch.setattr(cache, "_first_digest", lambda: b"of other sources")
    assert cache.load("float32", targets[0]) is None


def test_processors_share_code(processor, targets):
    from fastmlp._backends._numba._target import _V3, _V4

    avx2, avx512 = targets
    assert processor(_V4) == processor((*_V4, "avx512vnni", "sse4a", "clzero")) == avx512
    assert processor(_V3) == processor(_V4, "avx2") == avx2
    assert processor((*_V3, "avx512f", "avx512cd")) == avx2
    baseline = processor(())
    assert baseline.isa == "baseline"
    assert baseline == processor(_V4, "baseline") == processor(set(_V3) - {"fma"}) == processor(set(_V4) - {"avx2"})


def test_what_a_processor_lacks_is_not_used(processor, targets):
    from fastmlp._backends._numba._target import _V3, _V4

    assert processor(set(_V3) - {"movbe", "bmi2"}) == targets[0]._replace(features="-bmi2,-movbe")
    assert processor(set(_V4) - {"avx512cd"}) == targets[1]._replace(features="-avx512cd,-prefer-256-bit")


def test_a_wheels_kernels_need_no_numba(targets, tmp_path):
    """And give the bits of those that are compiled here."""
    if _backends.instruction_set("numba") == "baseline":
        pytest.skip("a wheel brings none for this processor")
    code = f"""
from pathlib import Path
from fastmlp._backends._numba import _ship, _target
_ship.ship(Path({str(tmp_path)!r}), "float32", _target.shipped_targets()[0])
"""
    run_python(code)
    fit = """
import sys
import numpy as np
import fastmlp
net = fastmlp.MLP([7, 20, 3], output_activation="softmax", backend="numba", rng=0)
X = np.random.default_rng(1).standard_normal((50, 7), dtype=np.float32)
net.fit(X, np.arange(50) % 3, optimizer=fastmlp.Adam(), epochs=3, batch_size=8, rng=2)
print(net.parameters.tobytes().hex(), "numba" in sys.modules)
"""
    shipped = f"""
from pathlib import Path
from fastmlp._backends._numba import _cache
_cache._SHIPPED = Path({str(tmp_path)!r})
{fit}"""
    expected = run_python(fit).split()[0]
    empty = str(tmp_path / "empty")
    assert run_python(shipped, NUMBA_CACHE_DIR=empty, FASTMLP_ISA="avx2").split() == [expected, "False"]
