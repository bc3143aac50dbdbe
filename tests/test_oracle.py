"""The oracle against published vectors, against its own vectorised twin, and against central differences."""

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
from support import HIDDEN_ACTIVATIONS, LOSS_OF_OUTPUT, OUTPUT_ACTIVATIONS, OUTPUTS_AND_LOSSES


def random_net(layer_sizes, activation, output, loss, seed=0, **settings):
    random = np.random.default_rng(seed)
    pairs = list(zip(layer_sizes[1:], layer_sizes))
    return oracle.Net(
        tuple(layer_sizes),
        (activation,) * (len(layer_sizes) - 2),
        output,
        loss,
        [random.normal(0, 1 / math.sqrt(n_in), (n_out, n_in)) for n_out, n_in in pairs],
        [random.normal(0, 0.5, n_out) for n_out, _ in pairs],
        **settings,
    )


def random_examples(net, n, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, net.layer_sizes[0]))
    k = net.layer_sizes[-1]
    if net.loss == "cross_entropy":
        return X, random.integers(0, k, n)
    return X, random.random((n, k))


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # kat_vectors of Random123
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert oracle.philox4x32(counter, key) == expected


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS + ("exp",))
def test_derivatives_are_central_differences(name):
    for z in (-30.0, -3.1, -1.0, -0.2, 0.3, 1.0, 2.7, 20.0):
        h = 1e-5
        f = oracle.ACTIVATIONS[name]
        expected = (f(z + h) - f(z - h)) / (2 * h)
        assert oracle.DERIVATIVES[name](z) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS + ("exp",))
def test_second_derivatives_are_central_differences(name):
    for z in (-30.0, -3.1, -1.0, -0.2, 0.3, 1.0, 2.7, 20.0):
        h = 1e-5
        f = oracle.DERIVATIVES[name]
        expected = (f(z + h) - f(z - h)) / (2 * h)
        assert oracle.SECOND_DERIVATIVES[name](z) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_hvp_is_the_central_difference_of_gradients(activation, output, loss):
    net = random_net((3, 5, 4, 2), activation, output, loss, l1=0.01, l2=0.1)
    X, y = random_examples(net, 4)
    weight = np.array([0.5, 2.0, -1.0, 1.5])
    random = np.random.default_rng(1)
    v_weights = [random.normal(size=w.shape) for w in net.weights]
    v_biases = [random.normal(size=b.shape) for b in net.biases]
    h = 1e-5
    up, down = (
        oracle.loss_and_gradients(
            replace(
                net,
                weights=[w + s * h * v for w, v in zip(net.weights, v_weights)],
                biases=[b + s * h * v for b, v in zip(net.biases, v_biases)],
            ),
            X,
            y,
            weight,
        )
        for s in (1, -1)
    )
    actual = oracle.hvp(net, X, y, v_weights, v_biases, weight)
    for part in (0, 1):
        for layer in range(net.n_layers):
            expected = (up[part + 1][layer] - down[part + 1][layer]) / (2 * h)
            np.testing.assert_allclose(actual[part][layer], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_jacobians_are_central_differences(output):
    net = random_net((3, 5, 4, 2), "silu", output, LOSS_OF_OUTPUT.get(output, "mse"))
    X, _ = random_examples(net, 4)
    T = np.random.default_rng(1).normal(size=X.shape)
    h = 1e-5
    expected = (oracle.forward(net, X + h * T) - oracle.forward(net, X - h * T)) / (2 * h)
    np.testing.assert_allclose(oracle.jvp(net, X, T), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.einsum("nkj,nj->nk", oracle.jacobian(net, X), T), expected, rtol=1e-6, atol=1e-8)


def test_known_values_of_activations():
    assert oracle.ACTIVATIONS["gelu"](1.0) == pytest.approx(0.8413447460685429, rel=1e-15)
    assert oracle.ACTIVATIONS["silu"](1.0) == pytest.approx(0.7310585786300049, rel=1e-15)
    assert oracle.ACTIVATIONS["softplus"](0.0) == math.log(2.0)
    assert oracle.ACTIVATIONS["softplus"](1000.0) == 1000.0
    assert oracle.ACTIVATIONS["elu"](-1.0) == pytest.approx(1 / math.e - 1, rel=1e-15)
    assert oracle.ACTIVATIONS["leaky_relu"](-2.0) == -0.02
    assert math.isnan(oracle.ACTIVATIONS["relu"](math.nan))


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_gradients_are_central_differences(output, loss):
    net = random_net((3, 4, 2), "tanh", output, loss, l1=0.01, l2=0.02)
    X, y = random_examples(net, 5)
    weight = np.array([1.0, 2.0, 0.5, -1.0, 0.0])
    _, d_weights, d_biases, dX = oracle.loss_and_gradients(net, X, y, weight)
    h = 1e-6
    for arrays, gradients in ((net.weights, d_weights), (net.biases, d_biases), ([X], [dX])):
        for array, gradient in zip(arrays, gradients):
            for index in np.ndindex(array.shape):
                old = array[index]
                array[index] = old + h
                up = oracle.loss(net, X, y, weight)
                array[index] = old - h
                down = oracle.loss(net, X, y, weight)
                array[index] = old
                assert gradient[index] == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "exp", "tanh"])
def test_backward_is_the_gradient_of_a_weighted_sum_of_outputs(output):
    net = random_net((3, 4, 2), "silu", output, "mse")
    X, _ = random_examples(net, 3)
    dY = np.random.default_rng(5).normal(size=(3, 2))
    d_weights, d_biases, dX = oracle.backward(net, X, dY)
    h = 1e-6
    for arrays, gradients in ((net.weights, d_weights), (net.biases, d_biases), ([X], [dX])):
        for array, gradient in zip(arrays, gradients):
            for index in np.ndindex(array.shape):
                old = array[index]
                array[index] = old + h
                up = np.sum(oracle.forward(net, X) * dY)
                array[index] = old - h
                down = np.sum(oracle.forward(net, X) * dY)
                array[index] = old
                assert gradient[index] == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_vectorised_twin_agrees_with_the_loops(output, loss):
    net = random_net((5, 7, 6, 3), "gelu", output, loss, l1=0.01, l2=0.02, dropout=(0.3, 0.0))
    X, y = random_examples(net, 9)
    weight = np.linspace(-1, 2, 9)
    factors = oracle.dropout_factors(net, 123456789012345, 7, 9)
    loops = oracle.loss_and_gradients(net, X, y, weight, factors)
    fast = oracle.fast_loss_and_gradients(net, X, y, weight, factors)
    assert fast[0] == pytest.approx(loops[0], rel=1e-13)
    for expected, actual in zip(loops[1] + loops[2] + [loops[3]], fast[1] + fast[2] + [fast[3]]):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(oracle.fast_forward(net, X), oracle.forward(net, X), rtol=1e-13)


def test_dropout_factor_keeps_the_rest_in_proportion():
    factor = oracle.dropout_factor(seed=2**40 + 3, step=2**32 + 1, layer=1, n_rows=100, n_units=30, rate=0.25)
    assert set(np.unique(factor)) == {0.0, 1.0 / 0.75}
    assert np.mean(factor == 0.0) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(factor, oracle.dropout_factor(2**40 + 3, 1, 1, 100, 30, 0.25))
