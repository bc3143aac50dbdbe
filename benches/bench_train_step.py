"""One training step, called from Python, on small, middle and large nets."""

import pytest
from workloads import BACKENDS, make_net, note

import fastmlp
from fastmlp._bench._workload import Workload

WORKLOADS = (
    Workload((2, 2, 1), "sigmoid", "sigmoid", 4),
    Workload((64, 100, 10), "relu", "softmax", 64),
    Workload((784, 800, 800, 10), "relu", "softmax", 128),
)
OPTIMIZERS = {"SGD": lambda: fastmlp.SGD(lr=1e-3), "Adam": lambda: fastmlp.Adam(lr=1e-5)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_step(benchmark, workload, optimizer_name, backend):
    net, (X, y) = make_net(workload, backend), workload.examples()
    optimizer = OPTIMIZERS[optimizer_name]()
    benchmark.group = f"{optimizer_name} step of {workload.n} examples, {workload.name}"
    # Also compiles what is compiled at first use.
    assert optimizer.step(net, X, y) == pytest.approx(make_net(workload, "numpy").loss(X, y), rel=1e-4)
    benchmark(optimizer.step, net, X, y)
    note(benchmark, net, workload.step_flop, workload.n)
