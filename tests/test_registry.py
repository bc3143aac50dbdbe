"""Which backend a net gets, what importing costs, and what show_config tells."""

import pytest
from support import BACKENDS, run_python

import fastmlp
from fastmlp import _backends

BLOCKED = """
import sys
for name in {names!r}:
    sys.modules[name] = None
import fastmlp
"""


def test_numpy_is_always_there_and_last():
    available = fastmlp.available_backends()
    assert available[-1] == "numpy"
    assert list(available) == [name for name in ("c", "numba", "numpy") if name in available]


def test_a_net_takes_the_best_backend(monkeypatch):
    monkeypatch.delenv("FASTMLP_BACKEND", raising=False)
    assert fastmlp.MLP([2, 2]).backend == fastmlp.available_backends()[0]


def test_environment_and_argument(monkeypatch, backend):
    monkeypatch.setenv("FASTMLP_BACKEND", backend)
    assert fastmlp.MLP([2, 2]).backend == backend
    assert fastmlp.MLP([2, 2], backend="numpy").backend == "numpy"
    monkeypatch.setenv("FASTMLP_BACKEND", "")
    assert fastmlp.MLP([2, 2]).backend == fastmlp.available_backends()[0]
    monkeypatch.setenv("FASTMLP_BACKEND", "numpy")
    assert fastmlp.MLP([2, 2], backend=backend).backend == backend


def test_unknown_names(monkeypatch):
    with pytest.raises(ValueError, match=r"backend is 'gpu'.*'c'.*'numba'.*'numpy'"):
        fastmlp.MLP([2, 2], backend="gpu")
    with pytest.raises((TypeError, ValueError), match="backend"):
        fastmlp.MLP([2, 2], backend=3)
    monkeypatch.setenv("FASTMLP_BACKEND", "tpu")
    with pytest.raises(ValueError, match="FASTMLP_BACKEND is 'tpu'"):
        fastmlp.MLP([2, 2])


def test_a_missing_backend_is_refused_with_the_reason_and_never_replaced():
    code = (
        BLOCKED.format(names=["fastmlp._fastmlp_c"])
        + """
import os
assert "c" not in fastmlp.available_backends()
for ask in (lambda: fastmlp.MLP([2, 2], backend="c"), lambda: fastmlp.MLP([2, 2])):
    try:
        ask()
    except RuntimeError as error:
        print(error)
    else:
        raise AssertionError("it was replaced")
    os.environ["FASTMLP_BACKEND"] = "c"
fastmlp.show_config()
"""
    )
    output = run_python(code, FASTMLP_BACKEND="numpy").splitlines()
    assert "backend is 'c'" in output[0] and "cannot be used" in output[0]
    assert "FASTMLP_BACKEND is 'c'" in output[1]
    assert any("missing" in line and "C kernels" in line for line in output[2:])


def test_without_compiled_backends_numpy_serves_with_one_warning():
    code = (
        BLOCKED.format(names=["fastmlp._fastmlp_c", "numba", "llvmlite", "llvmlite.binding"])
        + """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    nets = [fastmlp.MLP([2, 2]) for _ in range(3)]
assert [net.backend for net in nets] == ["numpy"] * 3
assert fastmlp.available_backends() == ("numpy",)
print(len(caught), caught[0].category.__name__, caught[0].message)
"""
    )
    output = run_python(code, FASTMLP_BACKEND="")
    assert output.startswith("1 RuntimeWarning") and "numba" in output


def test_importing_is_light():
    code = """
import sys
import fastmlp
net = fastmlp.MLP([2, 3, 1], backend="numpy")
net.fit([[1, 2]], [[3]])
heavy = ["numba", "matplotlib", "sklearn", "scipy", "tqdm", "cffi", "pandas"]
print([name for name in [*heavy, "llvmlite", "fastmlp._fastmlp_c"] if name in sys.modules])
best = fastmlp.available_backends()[0]
fastmlp.show_config()
fastmlp.MLP([2, 3, 1], backend="numpy" if best == "numba" else best)
print([name for name in heavy if name in sys.modules])
"""
    lines = run_python(code).splitlines()
    assert (lines[0], lines[-1]) == ("[]", "[]")


def test_what_importing_leaves_for_later():
    """Each of these would take as long as the rest, or longer."""
    code = """
import sys
import numpy
heavy = {"numpy.random", "numpy.ma", "pathlib", "hashlib", "fastmlp._checkpoint", "fastmlp.schedules"}
heavy -= set(sys.modules)
import fastmlp
print(sorted(heavy & set(sys.modules)))
assert set(fastmlp.__all__) <= set(dir(fastmlp))
net = fastmlp.MLP([2, 3, 1], backend="numpy")
net.fit(numpy.ones((3, 2)), numpy.ones(3))
print(sorted((heavy - {"numpy.random", "pathlib", "hashlib"}) & set(sys.modules)))
print(fastmlp.schedules.step, fastmlp.Checkpoint.__module__)
"""
    assert run_python(code).splitlines()[:2] == ["[]", "[]"]


def test_numba_starts_at_first_use():
    if "numba" not in fastmlp.available_backends():
        pytest.skip(f"numba is missing: {_backends.why_missing()['numba']}")
    code = """
import sys
import fastmlp
assert "numba" in fastmlp.available_backends()
before = {name for name in sys.modules if name.startswith("fastmlp._backends._numba.")}
assert "numba" not in sys.modules and len(before) <= 2, before
fastmlp.MLP([2, 3, 1], backend="numba").forward([1, 2])
print("fastmlp._backends._numba._kernels" in sys.modules)
"""
    assert run_python(code).strip() == "True"


def test_reasons():
    reasons = _backends.why_missing()
    assert set(reasons) == set(BACKENDS) - set(fastmlp.available_backends())
    assert all(isinstance(reason, str) and reason for reason in reasons.values())


def test_show_config(capsys, backend):
    fastmlp.show_config()
    output = capsys.readouterr().out
    for word in ("fastmlp", fastmlp.__version__, "threads", "numpy", "numba", "python"):
        assert word in output
    (line,) = [line for line in output.splitlines() if line.split()[0] == backend and line.startswith("  ")]
    assert "available" in line and _backends.instruction_set(backend) in line


def test_public_names():
    with pytest.raises(AttributeError, match="'fastmlp' has no attribute 'Perceptron'"):
        fastmlp.Perceptron  # noqa: B018
    for name in fastmlp.__all__:
        assert hasattr(fastmlp, name)
        if name not in ("__version__", "schedules"):
            assert getattr(fastmlp, name).__doc__, name
