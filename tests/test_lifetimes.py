"""Who owns memory: views that outlive their net, and nets and steps that leave nothing behind."""

import gc
from pathlib import Path

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net, run_python

import fastmlp

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much is resident")


def crowd_out(backend):
    """Nets and arrays of the sizes that have just been freed, full of other numbers."""
    for seed in range(20):
        net, _ = make_net((5, 30, 3), seed=seed, scale=100.0, backend=backend)
        net.forward(np.full((40, 5), 7.0))
    return [np.full(n, 7, np.uint8) for n in range(500, 8000, 100)]


def test_views_outlive_their_net(backend, dtype):
    net, _ = make_net((5, 30, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 40)
    gradients = net.loss_and_gradients(X, y)[1]
    backward = net.backward(X, np.ones((40, 3), dtype), input_gradient=True)
    outputs = net.activations_of(X)
    one = net.forward(X[0])
    views = [*net.weights, *net.biases, *gradients.weights, *gradients.biases, backward.input, *outputs, one]
    expected = [view.copy() for view in views]
    del net, gradients, backward, outputs, one
    gc.collect()
    crowd_out(backend)
    for view, values in zip(views, expected):
        assert_same_bits(view.copy(), values)
        view[...] = -1.0  # and it can still be written
    crowd_out(backend)
    assert all((view == -1.0).all() for view in views)


def test_views_outlive_their_engine(compiled_backend):
    """A new number of threads makes a new engine over the same parameters."""
    net, _ = make_net((5, 30, 3), backend=compiled_backend)
    X, _ = make_examples(net, 40)
    weights = net.weights[0]
    fastmlp.set_num_threads(1)
    try:
        weights[...] = 0.0
        net.biases[1][...] = net.weights[1][...] = 0.0
        assert not net.forward(X).any()
        net.biases[1][...] = 2.0
        assert (net.forward(X) == 2.0).all()
    finally:
        fastmlp.set_num_threads(None)


def test_an_optimizer_outlives_its_net(backend):
    net, _ = make_net((5, 30, 3), backend=backend)
    X, y = make_examples(net, 40)
    optimizer = fastmlp.Adam()
    optimizer.step(net, X, y)
    del net
    gc.collect()
    crowd_out(backend)
    other, _ = make_net((5, 30, 3), backend=backend)
    with pytest.raises(RuntimeError, match="reset"):
        optimizer.step(other, X, y)
    optimizer.reset()
    assert np.isfinite(optimizer.step(other, X, y))


@needs_proc
def test_nothing_is_left_behind(backend):
    """A kilobyte a net, or a hundred bytes a step, would show; measure_leaks.py makes 100,000 nets."""
    code = f"""
import measure_leaks
print(measure_leaks.growth_over_nets({backend!r}, 2500), measure_leaks.growth_over_steps({backend!r}, 25000))
"""
    nets, steps = map(int, run_python(code).split())
    assert nets < 1_500_000 and steps < 1_500_000, (nets, steps)
