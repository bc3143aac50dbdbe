"""Every instruction set this machine has, by FASTMLP_ISA: right on each, and the same bits on those with FMA."""

import functools
import platform
from pathlib import Path

import pytest
from support import run_python

LEVELS = {"baseline": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}


@functools.cache
def processor_flags():
    """What /proc/cpuinfo lists; None where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), None)


@functools.cache
def run_worker(backend, level):
    """The instruction set that was used, and the digest of the results."""
    return tuple(run_python(f"import isa_worker; isa_worker.main({backend!r})", FASTMLP_ISA=level).split())


def require_level(level):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"FASTMLP_ISA chooses between instruction sets of x86; this is {platform.machine()}")
    flags = processor_flags()
    if flags is None:
        pytest.skip("no /proc/cpuinfo tells what this processor has")
    if not flags >= LEVELS[level]:
        pytest.skip(f"this processor has no {level}")


@pytest.mark.parametrize("level", LEVELS)
def test_results_are_right(compiled_backend, level):
    require_level(level)
    used, _ = run_worker(compiled_backend, level)
    assert used == level


def test_bits_do_not_depend_on_the_vector_length(compiled_backend):
    require_level("avx2")
    require_level("avx512")
    assert run_worker(compiled_backend, "avx2")[1] == run_worker(compiled_backend, "avx512")[1]


@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_bits_do_not_depend_on_the_backend(both_compiled_backends, level):
    require_level(level)
    assert run_worker("c", level)[1] == run_worker("numba", level)[1]


def test_an_unknown_level_is_refused(compiled_backend):
    code = f"""
import fastmlp
try:
    fastmlp.MLP([2, 2], backend={compiled_backend!r})
except (ValueError, RuntimeError) as error:
    print(error)
"""
    message = run_python(code, FASTMLP_ISA="sse9")
    assert "FASTMLP_ISA" in message and "sse9" in message and "avx2" in message
