"""What the benches share: workloads as parameters of tests, the net of one, and what is noted beside each time."""

import os
from typing import Any

import pytest

import fastmlp
from fastmlp import _backends
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS

BACKENDS = ("c", "numba", "numpy")

# One by default, for BLAS too: a second thread that waits for a busy core made small products 100 times slower.
N_THREADS = int(os.environ.get("FASTMLP_NUM_THREADS", "1"))
THREADS = "one thread" if N_THREADS == 1 else f"{N_THREADS} threads"


# The float64 check of a larger step would take too long for a test.
LARGEST_TESTED_FLOP = 1e7


def cases(*names: str) -> list[Any]:
    """Parameters of a test: names of workloads, of which the large ones are left out where nothing is timed."""
    return [
        pytest.param(name, marks=[pytest.mark.only_timed] if WORKLOADS[name].step_flop > LARGEST_TESTED_FLOP else [])
        for name in names
    ]


def require(backend: str) -> None:
    """Go on only with a backend that is there. Where all are demanded, a missing one is a failure."""
    if backend not in fastmlp.available_backends():
        left_out = backend in os.environ.get("FASTMLP_TEST_WITHOUT", "").split()
        demanded = os.environ.get("CI") or os.environ.get("FASTMLP_REQUIRE_C")
        give_up = pytest.fail if demanded and not left_out else pytest.skip
        give_up(f"the {backend} backend is missing: {_backends.why_missing()[backend]}")


def make_net(workload: Workload, backend: str) -> fastmlp.MLP:
    """The workload's net on a backend."""
    require(backend)
    return workload.net(backend, N_THREADS)


def note(benchmark: Any, net: fastmlp.MLP, flop: int, n: int) -> None:
    """Keep beside a time, in extra_info, what computed it and how fast that is."""
    info = {
        "backend": net.backend,
        "instruction_set": _backends.instruction_set(net.backend),
        "threads": N_THREADS,
        "flop": flop,
        "examples": n,
    }
    if benchmark.enabled:
        seconds = benchmark.stats.stats.median
        info |= {"gflops": flop / seconds / 1e9, "examples_per_second": n / seconds}
    benchmark.extra_info.update(info)
