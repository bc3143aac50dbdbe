"""The forward pass: a batch on small, middle and large nets, and a single example."""

import numpy as np
import pytest
from workloads import BACKENDS, make_net, note

from fastmlp._bench._workload import Workload

WORKLOADS = (
    Workload((2, 2, 1), "sigmoid", "sigmoid", 4),
    Workload((64, 100, 10), "relu", "softmax", 64),
    Workload((784, 800, 800, 10), "relu", "softmax", 128),
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_batch(benchmark, workload, backend):
    net, (X, _) = make_net(workload, backend), workload.examples()
    benchmark.group = f"forward pass of {workload.n} examples, {workload.name}"
    check(net.forward(X), workload)
    benchmark(net.forward, X)
    note(benchmark, net, workload.forward_flop, workload.n)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_single_example(benchmark, workload, backend):
    workload = workload._replace(n=1)
    net, (X, _) = make_net(workload, backend), workload.examples()
    benchmark.group = f"forward pass of a single example, {workload.name}"
    check(net.forward(X[0])[None], workload)
    benchmark(net.forward, X[0])
    note(benchmark, net, workload.forward_flop, 1)


def check(actual: np.ndarray, workload: Workload) -> None:
    """Compare with the numpy backend; this also compiles what is compiled at first use."""
    X, _ = workload.examples()
    np.testing.assert_allclose(actual, make_net(workload, "numpy").forward(X), rtol=1e-4, atol=1e-6)
