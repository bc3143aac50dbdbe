"""How weights start: by name, by a callable, from a seed."""

import math

import numpy as np
import pytest
from support import assert_same_bits

import fastmlp

N_IN, N_OUT = 300, 200
DEVIATIONS = {
    "he": math.sqrt(2 / N_IN),
    "glorot": math.sqrt(2 / (N_IN + N_OUT)),
    "lecun": math.sqrt(1 / N_IN),
}


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("rule", DEVIATIONS)
def test_spread(dtype, rule, distribution):
    net = fastmlp.MLP([N_IN, N_OUT], initializer=f"{rule}_{distribution}", dtype=dtype, rng=0, backend="numpy")
    weights = net.weights[0].astype(np.float64)
    deviation = DEVIATIONS[rule]
    # Of 60000 draws the deviation is known to 0.3 %, the mean to 0.4 % of it.
    assert np.std(weights) == pytest.approx(deviation, rel=0.02)
    assert np.mean(weights) == pytest.approx(0.0, abs=0.03 * deviation)
    limit = math.sqrt(3) * deviation
    if distribution == "uniform":
        assert np.max(np.abs(weights)) <= limit * (1 + 1e-6)
        assert np.max(np.abs(weights)) > 0.99 * limit
    else:
        assert np.max(np.abs(weights)) > 3 * deviation
    assert not net.biases[0].any()


@pytest.mark.parametrize(
    "activation, rule",
    [
        ("relu", "he"),
        ("leaky_relu", "he"),
        ("elu", "he"),
        ("softplus", "he"),
        ("gelu", "he"),
        ("silu", "he"),
        ("sigmoid", "glorot"),
        ("tanh", "glorot"),
        ("identity", "glorot"),
    ],
)
def test_auto_goes_by_the_activation(activation, rule):
    name = {"he": "he_normal", "glorot": "glorot_uniform"}[rule]
    auto = fastmlp.MLP([N_IN, N_OUT, 5], activation=activation, rng=0, backend="numpy")
    named = fastmlp.MLP([N_IN, N_OUT, 5], activation=activation, initializer=name, rng=0, backend="numpy")
    assert_same_bits(auto.weights[0], named.weights[0])
    assert np.std(auto.weights[0]) == pytest.approx(DEVIATIONS[rule], rel=0.02)


def test_auto_of_the_output_goes_by_its_own_activation():
    net = fastmlp.MLP([N_IN, N_OUT], output_activation="softmax", rng=0, backend="numpy")
    assert np.std(net.weights[0]) == pytest.approx(DEVIATIONS["glorot"], rel=0.02)


def test_zeros():
    net = fastmlp.MLP([4, 6, 3], initializer="zeros")
    assert not net.parameters.any()


def test_callable(dtype):
    shapes = []

    def initializer(rng, shape):
        assert isinstance(rng, np.random.Generator)
        shapes.append(shape)
        return np.full(shape, len(shapes))

    net = fastmlp.MLP([4, 6, 3], initializer=initializer, dtype=dtype)
    assert shapes == [(6, 4), (3, 6)]
    assert (net.weights[0] == 1).all() and (net.weights[1] == 2).all() and not net.biases[1].any()


def test_wrong_callables():
    with pytest.raises(ValueError, match="initializer"):
        fastmlp.MLP([4, 6, 3], initializer=lambda rng, shape: np.zeros(shape[::-1]))
    with pytest.raises(TypeError, match="initializer"):
        fastmlp.MLP([4, 6, 3], initializer=lambda rng, shape: np.zeros(shape, dtype=complex))


def test_same_seed_same_weights(backend, dtype):
    def parameters(rng):
        return fastmlp.MLP([4, 6, 3], rng=rng, dtype=dtype, backend=backend).parameters

    assert_same_bits(parameters(5), parameters(5))
    assert_same_bits(parameters(5), parameters(np.random.default_rng(5)))
    assert np.any(parameters(5) != parameters(6))
    assert np.any(parameters(None) != parameters(None))
    generator = np.random.default_rng(5)
    assert np.any(parameters(generator) != parameters(generator))


def test_every_backend_starts_from_the_same_weights(backend):
    expected = fastmlp.MLP([4, 6, 3], rng=5, backend="numpy").parameters
    assert_same_bits(fastmlp.MLP([4, 6, 3], rng=5, backend=backend).parameters, expected)
