"""What more threads are worth: steps and forward passes with one, two, four ... and the default number of threads.

The numbers go up to the default of this process, which affinity, cgroup quota, OMP_NUM_THREADS and FASTMLP_NUM_THREADS
bound. With every number the results must be the same bits. All is timed once on the machine as it is, and once beside
another process that keeps a core busy.
"""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from peers import OURS, maker
from tables import microseconds, times
from workloads import cases, require

from fastmlp._bench._check import LEARNING_RATE, check
from fastmlp._bench._contenders import Make
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._tasks import TASKS, way_of
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS
from fastmlp._threads import threads_for

pytestmark = pytest.mark.only_when_named

SECONDS = 0.3
DEFAULT = "default"


def numbers_of_threads() -> list[int]:
    """1, 2, 4 ... and the default."""
    most = threads_for(None)
    return sorted({most, *(2**power for power in range(most.bit_length()))})


def makes_of(workload: Workload, backend: str) -> dict[str, Make]:
    """The contender with each number of threads, and left alone."""
    numbers = {str(n): n for n in numbers_of_threads()} | {DEFAULT: None}
    return {name: maker(OURS + backend, workload, n) for name, n in numbers.items()}


def result(make: Make, workload: Workload) -> bytes:
    """The parameters after a step, and the logits then."""
    contender, (X, y) = make(LEARNING_RATE), workload.examples()
    contender.step(X, y)()
    arrays = [contender.logits(X)(), *(part for layer in contender.parameters() for part in layer)]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


@pytest.fixture(params=["alone", pytest.param("beside a busy process", marks=pytest.mark.only_timed)])
def company(request) -> Iterator[str]:
    """Whether another process computes at the same time."""
    if request.param == "alone":
        yield request.param
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield request.param
    busy.kill()
    busy.wait()


@pytest.mark.parametrize(
    "case", cases("policy", "digits", "matexp-full", "mnist", "mnist-deep", "tabular", "mnist-wide", "wide")
)
@pytest.mark.parametrize("task", ["step", "forward", "one"])
@pytest.mark.parametrize("backend", ["c", "numba"])
def test_threads(case, task, backend, company, timed, tables):
    require(backend)
    workload = WORKLOADS[case]
    makes = makes_of(workload, backend)
    check(makes["1"], task, workload)
    expected = result(makes["1"], workload)
    for number, make in makes.items():
        assert result(make, workload) == expected, f"{number} threads give other bits than one"
    if timed:
        ways = {number: way_of(make, task, workload) for number, make in makes.items()}
        seconds = time_in_rounds({number: stopwatch(way) for number, way in ways.items()}, SECONDS)
        speed_ups = {number: times(seconds["1"] / taken) for number, taken in seconds.items() if number != "1"}
        tables.add(
            f"Speed-up by threads, {company}, {task}: {TASKS[task]}; {backend}, {workload.dtype}",
            ["net", "1 thread µs", *speed_ups],
            [f"{case} {workload.name} b{workload.n}", microseconds(seconds["1"]), *speed_ups.values()],
        )
