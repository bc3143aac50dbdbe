"""One example at a time: the bound predictor and the net inside compiled code, beside net.forward and other libraries.

All of it is first checked against float64. Every library is called from Python with one array that is there already,
and returns the logits; "in @njit" is a call inside a compiled loop.
"""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from peers import OURS, contenders
from race import prepare, race, team
from tables import Tables, microseconds
from worker import Worker
from workloads import BACKENDS, N_THREADS, THREADS, require

import fastmlp
from fastmlp._bench._handwritten import HandwrittenNet
from fastmlp._bench._rounds import Timer, stopwatch
from fastmlp._bench._workload import Workload

pytestmark = pytest.mark.only_when_named

numba = pytest.importorskip("numba")

WORKLOADS = (Workload((8, 64, 64, 4), "relu", "softmax", 1), Workload((17, 64, 64, 6), "tanh", "softmax", 1))


@pytest.fixture(scope="module")
def workers(pytestconfig) -> Iterator[list[Worker]]:
    names = contenders() if pytestconfig.option.benchmark else []  # tests/test_bench.py has the others checked
    with team(names, N_THREADS) as workers:
        yield workers


@numba.njit
def loop(f, x, out, n):
    for _ in range(n):
        f(x, out)


@numba.njit
def loop_of_jacobians(f, x, out, J, n):
    for _ in range(n):
        f.value_and_jacobian(x, out, J)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_one(workload, workers, timed, tables):
    ready = prepare(workers, "one", workload)
    timers = {name: timer for backend in BACKENDS for name, timer in our_timers(workload, backend)}
    timers |= compiled_timers(workload)
    if timed:
        add_row(tables, workload, race(ready, "one", workload, **timers))


def net_of(workload: Workload, backend: str) -> fastmlp.MLP:
    """The workload's net without its output activation, as the others compute it."""
    require(backend)
    net = fastmlp.MLP(workload.layer_sizes, activation=workload.activation, rng=0, backend=backend, n_threads=N_THREADS)
    net.set_weights(*zip(*workload.parameters()))
    return net


def our_timers(workload: Workload, backend: str) -> Iterator[tuple[str, Timer]]:
    """p.run(), p() and p(x) of a bound predictor."""
    predictor, x = net_of(workload, backend).bind(), workload.examples()[0][0].copy()
    predictor.x[:] = x
    check(predictor(), workload)
    check(predictor(x), workload)
    yield f"p.run(), {backend}", stopwatch(predictor.run)
    yield f"p(), {backend}", stopwatch(predictor)
    yield f"p(x), {backend}", stopwatch(partial(predictor, x))


def compiled_timers(workload: Workload) -> dict[str, Timer]:
    """A call, and one with the Jacobian, inside a compiled loop."""
    f, x = net_of(workload, "numba").jit(), workload.examples()[0][0].copy()
    out, J = np.zeros(f.n_outputs, f.dtype), np.zeros((f.n_outputs, f.n_inputs), f.dtype)

    def seconds(function, *arguments) -> Timer:
        function(*arguments, 1)
        check(out, workload)

        def timer(n: int) -> float:
            started = time.perf_counter()
            function(*arguments, n)
            return time.perf_counter() - started

        return timer

    return {
        "in @njit": seconds(loop, f, x, out),
        "in @njit, with Jacobian": seconds(loop_of_jacobians, f, x, out, J),
    }


def check(actual: np.ndarray, workload: Workload) -> None:
    expected = HandwrittenNet(workload, 0.1, "float64").logits(workload.examples()[0].astype("float64"))[0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def add_row(tables: Tables, workload: Workload, seconds: dict[str, float]) -> None:
    names = {name: f"forward, {name.removeprefix(OURS)}" if name.startswith(OURS) else name for name in seconds}
    title = f"One example from Python and in compiled code; float32, {THREADS}, µs"
    case = f"{workload.name} {workload.activation}"
    for name, value in seconds.items():
        tables.add(title, ["net", "way", "µs", "as many as p(), c"], [case, names[name], microseconds(value),
                   f"{value / seconds['p(), c']:.2f}"])  # fmt: skip
