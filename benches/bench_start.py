"""A fresh process: importing fastmlp on top of NumPy, and its first fit: with Numba's kernels from the wheel, and in a
copy of the package without them from a cold and from a warm cache.

The net is 64-100-10, the fit one epoch of ten steps; the time is from making the net to the end of the fit. Kernels of
the Numba backend are kept where NUMBA_CACHE_DIR says: here in folders of the benches' own. Python's byte code is kept,
as an installation does: without it (PYTHONDONTWRITEBYTECODE, in a checkout) each process compiles the sources again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tables import Tables
from workloads import require

import fastmlp
from fastmlp import _backends

pytestmark = pytest.mark.only_when_named

PACKAGE = Path(fastmlp.__file__).parent
SCRIPT = Path(__file__).with_name("first_fit.py")
N_PROCESSES = 9
N_COLD = 3


def first_fit(backend: str, cache: str, package: Path = PACKAGE) -> dict[str, Any]:
    """Seconds of the import and of the fit in a fresh process, its loss, and whether it imported Numba."""
    environment = os.environ | {
        "NUMBA_CACHE_DIR": cache,
        "PYTHONPATH": os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(SCRIPT), backend]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


@pytest.fixture(scope="module")
def cache() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        yield folder


@pytest.fixture(scope="module")
def expected_loss(cache: str) -> float:
    return first_fit("numpy", cache)["loss"]


@pytest.mark.parametrize("backend", ["c", "numpy"])
def test_ready_made(backend, cache, expected_loss, timed, tables):
    require(backend)
    starts = [first_fit(backend, cache) for _ in range(N_PROCESSES + 1 if timed else 1)]
    for start in starts:
        assert start["loss"] == pytest.approx(expected_loss, rel=1e-5)
        assert not start["numba"], "it imported Numba"
    if timed:
        add_row(tables, backend, starts[1:])  # the first one leaves byte code


@pytest.fixture(scope="module")
def bare() -> Iterator[Path]:
    """The package without the kernels that a wheel brings."""
    with TemporaryDirectory() as folder:
        yield Path(shutil.copytree(PACKAGE, Path(folder, "fastmlp"), ignore=shutil.ignore_patterns("objects")))


@pytest.mark.only_timed
def test_numba_from_the_wheel(cache, expected_loss, tables):
    require("numba")
    if not (PACKAGE / "_backends/_numba/objects").is_dir() or _backends.instruction_set("numba") == "baseline":
        pytest.skip("this installation brings no kernels for this processor")
    starts = [first_fit("numba", cache) for _ in range(N_PROCESSES + 1)]
    for start in starts:
        assert start["loss"] == pytest.approx(expected_loss, rel=1e-5)
        assert not start["numba"], "the wheel's kernels were not taken"
    add_row(tables, "numba, from the wheel", starts[1:])


@pytest.mark.only_timed  # compiling takes seconds
def test_numba_from_a_cold_cache(bare, expected_loss, tables):
    require("numba")
    starts = []
    with TemporaryDirectory() as folder:
        first_fit("numba", folder, bare)  # leaves byte code
    for _ in range(N_COLD):
        with TemporaryDirectory() as folder:
            starts.append(first_fit("numba", folder, bare))
            assert os.listdir(folder), "nothing was kept"
        assert starts[-1]["loss"] == pytest.approx(expected_loss, rel=1e-5)
    add_row(tables, "numba, cold cache", starts)


@pytest.mark.only_timed
def test_numba_from_a_warm_cache(bare, cache, expected_loss, tables):
    require("numba")
    first_fit("numba", cache, bare)
    starts = [first_fit("numba", cache, bare) for _ in range(N_PROCESSES)]
    for start in starts:
        assert start["loss"] == pytest.approx(expected_loss, rel=1e-5)
        assert not start["numba"], "it compiled again"
    add_row(tables, "numba, warm cache", starts)


def add_row(tables: Tables, name: str, starts: list[dict[str, Any]]) -> None:
    figures = [f(start[key] for start in starts) for key in ("import", "fit") for f in (median, min)]
    tables.add(
        "Start of a fresh process, ms: `import fastmlp` after `import numpy`, then the first fit",
        ["backend", "import, median", "least", "first fit, median", "least", "processes"],
        [name, *(f"{1e3 * seconds:.1f}" for seconds in figures), str(len(starts))],
    )
