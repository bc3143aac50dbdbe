"""Per-datum loops against batched computation: forward passes and gradients of one batch, computed three ways.

Each bench first checks that its way gives the same numbers as the NumPy loop. Timed, the batched way must lead the
NumPy loop tenfold and calls of our own with single examples by half.
"""

from collections.abc import Callable

import numpy as np
import pytest
from per_datum import PerDatumNet
from timings import BATCHED, NUMPY_LOOP, SINGLE_CALLS, Key, Timings
from workloads import BACKENDS, make_net, note

from fastmlp._bench._workload import Workload

N = 256
WORKLOADS = (
    Workload((2, 2, 1), "sigmoid", "sigmoid", N),
    Workload((8, 64, 64, 4), "tanh", "identity", N),
    Workload((64, 100, 10), "relu", "softmax", N),
)
TASKS = ("forward", "gradients")
LEAD_OVER_NUMPY_LOOP = 10.0
LEAD_OVER_SINGLE_CALLS = 1.5

# Of float32, summed over 256 examples in different orders; ATOL is relative to the largest element.
RTOL, ATOL = 1e-4, 1e-5


@pytest.fixture(params=WORKLOADS, ids=lambda workload: workload.name)
def workload(request) -> Workload:
    return request.param


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


def expected_result(workload: Workload, task: str) -> np.ndarray:
    """The NumPy loop's result in float64."""
    per_datum, (X, y) = PerDatumNet(make_net(workload, "numpy")), workload.examples()
    per_datum.weights = [W.astype(np.float64) for W in per_datum.weights]
    per_datum.biases = [b.astype(np.float64) for b in per_datum.biases]
    return per_datum.forward(X) if task == "forward" else per_datum.gradients(X, y)


def check(actual: np.ndarray, workload: Workload, task: str) -> None:
    expected = expected_result(workload, task)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL * largest)
    assert largest > 0.0


def measure(benchmark, way: Callable[[], object], workload: Workload, key: Key, timings: Timings) -> None:
    benchmark.group = f"{key.task} of {workload.n} examples, {key.net}"
    benchmark(way)
    if benchmark.enabled:
        timings[key] = benchmark.stats.stats.min / workload.n


def flop_of(workload: Workload, task: str) -> int:
    return workload.forward_flop if task == "forward" else workload.step_flop


def test_numpy_loop(benchmark, workload, task, timings):
    net, (X, y) = make_net(workload, "numpy"), workload.examples()
    per_datum = PerDatumNet(net)

    def way():
        return per_datum.forward(X) if task == "forward" else per_datum.gradients(X, y)

    check(way(), workload, task)
    measure(benchmark, way, workload, Key(task, workload.name, NUMPY_LOOP), timings)
    flop = flop_of(workload, task)
    benchmark.extra_info.update(backend="NumPy loop", flop=flop, examples=workload.n)


def test_single_calls(benchmark, workload, task, backend, timings):
    net, (X, y) = make_net(workload, backend), workload.examples()
    rows = list(X)
    pairs = [(X[i : i + 1], y[i : i + 1]) for i in range(workload.n)]

    # The calls alone are timed: their results are not kept or summed.
    def forward():
        for x in rows:
            net.forward(x)

    def gradients():
        for x, target in pairs:
            net.loss_and_gradients(x, target)

    if task == "forward":
        check(np.array([net.forward(x) for x in rows]), workload, task)
    else:
        every = [net.loss_and_gradients(x, target)[1].flat for x, target in pairs]
        check(np.mean(every, axis=0, dtype=np.float64), workload, task)
    way = forward if task == "forward" else gradients
    measure(benchmark, way, workload, Key(task, workload.name, SINGLE_CALLS, backend), timings)
    note(benchmark, net, flop_of(workload, task), workload.n)


def test_batched(benchmark, workload, task, backend, timings):
    net, (X, y) = make_net(workload, backend), workload.examples()

    def forward():
        return net.forward(X)

    def gradients():
        return net.loss_and_gradients(X, y)[1]

    check(forward() if task == "forward" else gradients().flat, workload, task)
    way = forward if task == "forward" else gradients
    measure(benchmark, way, workload, Key(task, workload.name, BATCHED, backend), timings)
    note(benchmark, net, flop_of(workload, task), workload.n)
    lead = timings.lead(task, workload.name, backend)
    if lead is not None:
        assert lead.over_loop >= LEAD_OVER_NUMPY_LOOP, lead
        assert lead.over_single_calls >= LEAD_OVER_SINGLE_CALLS, lead
