"""``fastmlp bench``: training steps of every backend beside the same net written by hand in NumPy."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from fastmlp import _backends
from fastmlp._bench._check import WrongResult, check
from fastmlp._bench._contenders import FastMLP, HandwrittenNumPy, Make
from fastmlp._bench._environment import with_threads
from fastmlp._bench._machine import machine
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._tasks import way_of
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS
from fastmlp._demos._table import format_table
from fastmlp._threads import threads_for

BY_HAND = "NumPy by hand"
NAMES = ("xor", "policy", "digits", "mnist", "mnist-wide")
QUICK_NAMES = ("xor", "policy", "digits")
SECONDS, QUICK_SECONDS = 0.3, 0.01

HEADER = ("case", "net", "by", "batch", "µs per step", "GFLOP/s", "lead")


def run_apart(backend: str | None, n_threads: int, quick: bool) -> int:
    """`run` in a process of its own, because NumPy's BLAS takes its number of threads at start; its exit code."""
    arguments = [backend or "", "quick" if quick else ""]
    command = [sys.executable, "-m", "fastmlp._bench", *arguments]
    return subprocess.run(command, env=with_threads(n_threads), check=False).returncode


def run(backend: str | None, quick: bool) -> int:
    """Check and time every case, then print the table; the exit code."""
    backends = [backend] if backend else list(_backends.available_backends())
    rows: list[Sequence[str]] = []
    try:
        for case in QUICK_NAMES if quick else NAMES:
            rows += rows_of(case, backends, QUICK_SECONDS if quick else SECONDS)
    except WrongResult as error:
        print(f"fastmlp: {error}", file=sys.stderr)
        return 1
    print(machine())
    print(f"One SGD step in float32, threads: {threads_for(None)}; checked against float64 before it was timed.")
    print(f"lead: how many times faster than {BY_HAND}.\n")
    print(format_table(HEADER, rows, left=3))
    return 0


def rows_of(case: str, backends: Sequence[str], seconds: float) -> Iterator[Sequence[str]]:
    """The lines of one case: by hand, then every backend."""
    workload = WORKLOADS[case]
    medians = step_seconds(workload, backends, seconds)
    for by, taken in medians.items():
        gflops = workload.step_flop / taken / 1e9
        lead = "" if by == BY_HAND else f"{medians[BY_HAND] / taken:.2f}x"
        case_and_net = (case, workload.name) if by == BY_HAND else ("", "")
        yield (*case_and_net, by, str(workload.n), f"{1e6 * taken:.2f}", f"{gflops:.2f}", lead)


def step_seconds(workload: Workload, backends: Sequence[str], seconds: float) -> dict[str, float]:
    """Median seconds of a step by hand and of every backend; raises WrongResult before anything is timed."""
    makes: dict[str, Make] = {BY_HAND: partial(HandwrittenNumPy, workload)}
    makes |= {backend: partial(FastMLP, workload, n_threads=None, backend=backend) for backend in backends}
    for by, make in makes.items():
        try:
            check(make, "step", workload)
        except WrongResult as error:
            raise WrongResult(f"{by}: {error}") from error
    ways = {by: way_of(make, "step", workload) for by, make in makes.items()}
    return time_in_rounds({by: stopwatch(way) for by, way in ways.items()}, seconds)
