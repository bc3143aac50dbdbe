"""Reading and writing parameters: live views, setters, blending, folding, and what a net tells of itself."""

import numpy as np
import pytest
from support import assert_close, assert_same_bits, flat, make_examples, make_net

import fastmlp


def test_attributes():
    net = fastmlp.MLP([4, 6, 5, 3], activation=["tanh", "relu"], output_activation="softmax", backend="numpy")
    assert tuple(net.layer_sizes) == (4, 6, 5, 3)
    assert net.n_layers == 3
    assert net.n_parameters == 6 * 5 + 5 * 7 + 3 * 6
    assert tuple(net.activations) == ("tanh", "relu")
    assert (net.output_activation, net.loss_name, net.backend) == ("softmax", "cross_entropy", "numpy")
    assert net.dtype == np.float32


def test_repr_and_summary():
    net = fastmlp.MLP([64, 100, 10], output_activation="softmax", backend="numpy")
    text = repr(net)
    assert text.startswith("MLP(") and "\n" not in text
    for part in ("64, 100, 10", "softmax", "float32"):
        assert part in text
    summary = net.summary().replace(",", "")
    for part in ("6500", "1010", "7510", "relu", "softmax", "cross_entropy", "float32"):
        assert part in summary


def test_shapes_and_flat_order(backend, dtype):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    assert isinstance(net.weights, tuple) and isinstance(net.biases, tuple)
    assert [w.shape for w in net.weights] == [(6, 4), (3, 6)]
    assert [b.shape for b in net.biases] == [(6,), (3,)]
    assert net.parameters.shape == (net.n_parameters,) and net.parameters.dtype == dtype
    assert_same_bits(net.parameters, flat(net.weights, net.biases))


@pytest.mark.parametrize("n", [1, 5, 40])
def test_views_are_live(backend, dtype, n):
    """What is written through a view is what the next call of any kind uses."""
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, n)
    weights, biases = net.weights, net.biases
    for call in (net.forward, lambda X: net.loss(X, y), lambda X: net.loss_and_gradients(X, y)[0]):
        call(X)
        weights[1][...] = 0.0
        biases[1][...] = 2.5
        np.testing.assert_array_equal(net.forward(X), np.full((n, 3), 2.5))
        weights[1][...] = 1.0
        biases[1][...] = -2.0
        expected = net.activations_of(X)[0].astype(np.float64).sum(axis=1) - 2.0
        assert_close(net.forward(X), np.repeat(expected[:, None], 3, axis=1), dtype)
    fastmlp.SGD(lr=0.1).step(net, X, y)
    assert net.weights[0][0, 0] == weights[0][0, 0]
    assert_same_bits(weights[1], net.weights[1])


def test_parameters_are_a_copy(backend):
    net, _ = make_net((4, 6, 3), backend=backend)
    before = net.parameters
    net.parameters[...] = 0.0
    assert_same_bits(net.parameters, before)


@pytest.mark.parametrize("name", ["weights", "biases", "parameters"])
def test_assigning_names_the_setter(name):
    net = fastmlp.MLP([4, 6, 3])
    with pytest.raises(AttributeError, match="set_"):
        setattr(net, name, getattr(net, name))
    if name != "parameters":
        with pytest.raises(TypeError):
            getattr(net, name)[0] = np.zeros(3)


def test_set_weights(backend, dtype):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    other, _ = make_net((4, 6, 3), seed=9, dtype=dtype, backend=backend)
    views = net.weights
    net.set_weights(other.weights, other.biases)
    assert_same_bits(net.parameters, other.parameters)
    assert_same_bits(views[0], other.weights[0])
    X, _ = make_examples(net, 5)
    assert_same_bits(net.forward(X), other.forward(X))
    net.set_weights([w.tolist() for w in other.weights], [b.tolist() for b in other.biases])
    assert_same_bits(net.parameters, other.parameters)


def test_set_parameters(backend, dtype):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    values = np.arange(net.n_parameters, dtype=np.float64) / 8
    net.set_parameters(values)
    np.testing.assert_array_equal(net.parameters, values)
    np.testing.assert_array_equal(net.weights[0], values[:24].reshape(6, 4))
    np.testing.assert_array_equal(net.biases[0], values[24:30])
    net.set_parameters(values.tolist())
    np.testing.assert_array_equal(net.biases[1], values[-3:])


def test_wrong_parameters_change_nothing(backend):
    net, _ = make_net((4, 6, 3), backend=backend)
    before = net.parameters
    good_weights, good_biases = [np.ones((6, 4)), np.ones((3, 6))], [np.ones(6), np.ones(3)]
    for weights, biases in (
        (good_weights[:1], good_biases),
        (good_weights, good_biases[:1]),
        ([np.ones((6, 4)), np.ones((6, 3))], good_biases),
        (good_weights, [np.ones(6), np.ones(4)]),
        ([np.ones((6, 4)), np.ones(3)], good_biases),
        (good_weights, [np.ones(6), 1.0]),
    ):
        with pytest.raises(ValueError, match="weights|biases"):
            net.set_weights(weights, biases)
    for values in (np.ones(net.n_parameters - 1), np.ones((net.n_parameters, 1)), 1.0):
        with pytest.raises(ValueError, match="parameters|flat"):
            net.set_parameters(values)
    with pytest.raises((TypeError, ValueError), match="complex"):
        net.set_parameters(np.ones(net.n_parameters, dtype=complex))
    assert_same_bits(net.parameters, before)


@pytest.mark.parametrize("tau", [1.0, 0.25, 0.0])
def test_copy_parameters_from(backend, dtype, tau):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    other, _ = make_net((4, 6, 3), seed=9, dtype=dtype, backend=backend)
    before, theirs = net.parameters.astype(np.float64), other.parameters
    net.copy_parameters_from(other, tau=tau)
    assert_close(net.parameters, (1 - tau) * before + tau * theirs, dtype)
    assert_same_bits(other.parameters, theirs)
    net.copy_parameters_from(other)
    assert_same_bits(net.parameters, theirs)


def test_copying_across_dtypes(backend):
    net, _ = make_net((4, 6, 3), dtype="float32", backend=backend)
    other, _ = make_net((4, 6, 3), seed=9, dtype="float64", backend=backend)
    net.copy_parameters_from(other)
    assert_same_bits(net.parameters, other.parameters.astype(np.float32))


def test_wrong_copies():
    net = fastmlp.MLP([4, 6, 3])
    with pytest.raises(ValueError, match="layer_sizes|sizes"):
        net.copy_parameters_from(fastmlp.MLP([4, 5, 3]))
    with pytest.raises(TypeError, match="MLP"):
        net.copy_parameters_from(net.parameters)
    for tau in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="tau"):
            net.copy_parameters_from(fastmlp.MLP([4, 6, 3]), tau=tau)


def test_fold_input_scaling(backend, dtype):
    """After folding, raw data gives what standardised data gave."""
    net, _ = make_net((4, 6, 3), activation="tanh", dtype=dtype, backend=backend)
    X = np.random.default_rng(0).normal([1.0, -2.0, 3.0, 0.0], [0.5, 2.0, 4.0, 1.0], (9, 4))
    mean, scale = X.mean(axis=0), X.std(axis=0)
    expected = net.forward((X - mean) / scale)
    net.fold_input_scaling(mean, scale)
    assert_close(net.forward(X), expected, dtype, scale=20)


def test_fold_input_scaling_of_a_net_without_hidden_layers(backend):
    net, _ = make_net((2, 3), dtype="float64", backend=backend)
    X = np.array([[1.0, 2.0], [3.0, 5.0]])
    expected = net.forward((X - [1.0, 2.0]) / [2.0, 4.0])
    net.fold_input_scaling([1.0, 2.0], [2.0, 4.0])
    assert_close(net.forward(X), expected, "float64", scale=10)


@pytest.mark.parametrize(
    "mean, scale, name",
    [
        ([0.0, 0.0], [1.0, 1.0, 1.0, 1.0], "mean"),
        ([0.0] * 4, [1.0, 1.0], "scale"),
        ([0.0] * 4, [1.0, 0.0, 1.0, 1.0], "scale"),
        ([0.0, np.nan, 0.0, 0.0], [1.0] * 4, "mean"),
        ([0.0] * 4, [1.0, np.inf, 1.0, 1.0], "scale"),
    ],
)
def test_wrong_scaling_changes_nothing(mean, scale, name):
    net = fastmlp.MLP([4, 6, 3], rng=0)
    before = net.parameters
    with pytest.raises(ValueError, match=name):
        net.fold_input_scaling(mean, scale)
    assert_same_bits(net.parameters, before)
