"""One training step: worked by hand, and the same to the bit as its two halves."""

import numpy as np
import pytest
from support import OUTPUTS_AND_LOSSES, assert_close, assert_same_bits, make_examples, make_net
from test_optimizers import CLIPPING, OPTIMIZERS

import fastmlp


def test_a_step_worked_by_hand(backend, dtype):
    """Two inputs, two ReLU units of which the second is off, one output, squared error.

    x = (1, 2), y = 1.  z1 = (1*1 + 1*2 + 0, 1*1 - 1*2 + 0) = (3, -1), a1 = (3, 0), y_hat = 2*3 + 1*0 - 1 = 5.
    loss = (5 - 1)^2 = 16.  dz2 = 2*4 = 8.  dW2 = (24, 0), db2 = 8.  da1 = (16, 8), dz1 = (16, 0).
    dW1 = ((16, 32), (0, 0)), db1 = (16, 0).  With lr = 1/8 everything stays exact.
    """
    net = fastmlp.MLP([2, 2, 1], dtype=dtype, backend=backend)
    net.set_weights([np.array([[1, 1], [1, -1]]), np.array([[2, 1]])], [np.array([0, 0]), np.array([-1])])
    X, y = np.array([[1.0, 2.0]], dtype=dtype), np.array([[1.0]], dtype=dtype)
    assert net.forward(X).item() == 5.0
    loss, gradients = net.loss_and_gradients(X, y)
    assert loss == 16.0
    np.testing.assert_array_equal(gradients.weights[0], [[16, 32], [0, 0]])
    np.testing.assert_array_equal(gradients.biases[0], [16, 0])
    np.testing.assert_array_equal(gradients.weights[1], [[24, 0]])
    np.testing.assert_array_equal(gradients.biases[1], [8])
    np.testing.assert_array_equal(gradients.flat, [16, 32, 0, 0, 16, 0, 24, 0, 8])
    assert fastmlp.SGD(lr=0.125).step(net, X, y) == 16.0
    np.testing.assert_array_equal(net.weights[0], [[-1, -3], [1, -1]])
    np.testing.assert_array_equal(net.biases[0], [-2, 0])
    np.testing.assert_array_equal(net.weights[1], [[-1, 1]])
    np.testing.assert_array_equal(net.biases[1], [-2])


def test_the_one_parameter_model_of_the_lecture(backend):
    """y_hat = theta, target 2: theta_n = 2 + (theta_0 - 2) (1 - 2a)^n."""
    for a in (0.1, 0.5, 0.9, 1.1):
        net = fastmlp.MLP([1, 1], dtype="float64", backend=backend)
        net.set_parameters([0.0, -1.0])
        optimizer = fastmlp.SGD(lr=a)
        for n in range(1, 6):
            optimizer.step(net, np.zeros((1, 1)), np.array([[2.0]]))
            assert net.biases[0][0] == pytest.approx(2.0 - 3.0 * (1 - 2 * a) ** n, rel=1e-12, abs=1e-12)


def check_step_is_its_halves(make_one, optimizers, examples, steps=3, sample_weight=None):
    whole, halves = make_one(), make_one()
    X, y = examples
    one, two = optimizers
    for _ in range(steps):
        loss, gradients = halves.loss_and_gradients(X, y, sample_weight, training=True)
        two.apply(halves, gradients)
        assert one.step(whole, X, y, sample_weight) == loss
        assert_same_bits(whole.parameters, halves.parameters)


@pytest.mark.parametrize("n", [1, 7, 40, 512, 513, 1300])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_equals_its_halves(backend, dtype, name, n):
    def make_one():
        return make_net(
            (7, 33, 20, 5), output_activation="softmax", l1=1e-3, l2=1e-2, dropout=0.3, dtype=dtype, backend=backend
        )[0]

    make = OPTIMIZERS[name][0]
    check_step_is_its_halves(make_one, (make(), make()), make_examples(make_one(), n), steps=2 if n > 100 else 3)


@pytest.mark.parametrize("name", CLIPPING)
def test_clipped_step_equals_its_halves(backend, dtype, name):
    def make_one():
        return make_net((7, 33, 5), l2=1e-2, dtype=dtype, backend=backend)[0]

    make = OPTIMIZERS[name][0]
    optimizers = make(clip_norm=0.1), make(clip_norm=0.1)
    check_step_is_its_halves(make_one, optimizers, make_examples(make_one(), 30))


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_step_equals_its_halves_for_every_loss(backend, dtype, output, loss):
    def make_one():
        return make_net(
            (3, 6, 2), activation="silu", output_activation=output, loss=loss, dtype=dtype, backend=backend
        )[0]

    optimizers = fastmlp.Adam(), fastmlp.Adam()
    weight = np.linspace(-0.2, 2.0, 9)
    check_step_is_its_halves(make_one, optimizers, make_examples(make_one(), 9), sample_weight=weight)


def test_step_of_integers_and_strided_data_equals_that_of_their_copies(backend, dtype):
    net, _ = make_net((4, 6, 2), dtype=dtype, backend=backend)
    other, _ = make_net((4, 6, 2), dtype=dtype, backend=backend)
    X = np.arange(80).reshape(20, 4)[::-2] % 7
    y = np.asfortranarray(np.arange(20).reshape(10, 2) % 3)
    one, two = fastmlp.SGD(), fastmlp.SGD()
    for _ in range(2):
        a = one.step(net, X, y)
        b = two.step(other, np.ascontiguousarray(X, dtype=dtype), np.ascontiguousarray(y, dtype=dtype))
        assert a == b
    assert_same_bits(net.parameters, other.parameters)


def test_step_takes_a_single_example(backend, dtype):
    net, _ = make_net((4, 6, 3), output_activation="softmax", dtype=dtype, backend=backend)
    other, _ = make_net((4, 6, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 1)
    assert fastmlp.SGD().step(net, X[0], y[0]) == fastmlp.SGD().step(other, X, y)
    assert_same_bits(net.parameters, other.parameters)


def test_a_step_reads_weights_written_through_the_views(backend, dtype):
    net, _ = make_net((4, 6, 2), dtype=dtype, backend=backend)
    X, y = make_examples(net, 5)
    optimizer = fastmlp.SGD(lr=0.1)
    optimizer.step(net, X, y)
    net.weights[0][...] = 0.0
    net.biases[1][...] = 1.0
    loss, gradients = net.loss_and_gradients(X, y)
    expected = net.parameters.astype(np.float64) - 0.1 * gradients.flat.astype(np.float64)
    assert optimizer.step(net, X, y) == loss
    assert_close(net.parameters, expected, dtype)


def test_a_loss_that_is_not_finite_stops_the_step(backend, dtype):
    net, _ = make_net((4, 6, 2), dtype=dtype, backend=backend)
    X, y = make_examples(net, 5)
    optimizer = fastmlp.Adam()
    optimizer.step(net, X, y)
    before = net.parameters
    for bad in (np.nan, np.inf):
        y_bad = y.copy()
        y_bad[3, 1] = bad
        with pytest.raises(FloatingPointError, match="loss is"):
            optimizer.step(net, X, y_bad)
        assert_same_bits(net.parameters, before)
    # Nor did the state move: the next step is that of an optimizer that never saw them.
    other, _ = make_net((4, 6, 2), dtype=dtype, backend=backend)
    fresh = fastmlp.Adam()
    for _ in range(2):
        fresh.step(other, X, y)
    optimizer.step(net, X, y)
    assert_same_bits(net.parameters, other.parameters)
