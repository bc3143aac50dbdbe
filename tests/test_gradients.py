"""Gradients of every loss, activation and shape against the oracle and against central differences."""

import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import (
    HIDDEN_ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    OUTPUTS_AND_LOSSES,
    assert_close,
    assert_same_bits,
    flat,
    make_examples,
    make_net,
)


def check_against_oracle(net, reference, X, y, weight=None, scale=1.0):
    loss, gradients = net.loss_and_gradients(X, y, weight)
    expected = oracle.fast_loss_and_gradients(reference, X, y, weight)
    assert isinstance(loss, float)
    assert_close(loss, expected[0], net.dtype, "loss", scale)
    for layer in range(reference.n_layers):
        assert_close(gradients.weights[layer], expected[1][layer], net.dtype, f"W{layer + 1}", scale)
        assert_close(gradients.biases[layer], expected[2][layer], net.dtype, f"b{layer + 1}", scale)


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_every_output_and_loss(backend, dtype, output, loss):
    net, reference = make_net((4, 9, 3), output_activation=output, loss=loss, dtype=dtype, backend=backend)
    for n in (1, 7):
        X, y = make_examples(net, n, seed=n)
        loss_value, gradients = net.loss_and_gradients(X, y)
        expected = oracle.loss_and_gradients(reference, X, y)
        assert_close(loss_value, expected[0], dtype)
        assert_close(gradients.flat, flat(expected[1], expected[2]), dtype)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_every_hidden_activation(backend, dtype, activation):
    net, reference = make_net(
        (5, 17, 8, 3), activation=activation, output_activation="softmax", dtype=dtype, backend=backend
    )
    X, y = make_examples(net, 11)
    check_against_oracle(net, reference, X, y, scale=2)


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1),
        (3, 2),
        (1, 1, 1),
        (2, 2, 1),
        (7, 15, 16, 17, 4),
        (17, 33, 65, 6),
        (70, 31, 48, 49, 10),
        (16, 16, 8, 8, 4, 4, 2, 2),
        (6,) * 9,
    ],
    ids=lambda sizes: "-".join(map(str, sizes)),
)
def test_odd_shapes(backend, dtype, sizes):
    net, reference = make_net(sizes, activation="tanh", dtype=dtype, backend=backend, l1=1e-3, l2=1e-2)
    for n in (1, 2, 3, 9, 16, 17, 40):
        X, y = make_examples(net, n, seed=n)
        check_against_oracle(net, reference, X, y, scale=2)


@pytest.mark.parametrize("n", [511, 512, 513, 1024, 1300])
def test_batches_over_one_block(backend, dtype, n):
    net, reference = make_net((6, 20, 4), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, n)
    check_against_oracle(net, reference, X, y, scale=2)


@pytest.mark.parametrize("sizes, n", [((300, 257, 130), 30), ((61, 70, 1030, 3), 400)])
def test_wide_layers(backend, dtype, sizes, n):
    net, reference = make_net(sizes, activation="sigmoid", dtype=dtype, backend=backend)
    X, y = make_examples(net, n)
    check_against_oracle(net, reference, X, y, scale=4)


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_sample_weights_and_penalty(backend, dtype, output, loss):
    net, reference = make_net(
        (4, 5, 3), output_activation=output, loss=loss, l1=0.01, l2=0.1, dtype=dtype, backend=backend
    )
    X, y = make_examples(net, 6)
    check_against_oracle(net, reference, X, y, np.array([1.0, 0.0, 2.5, -1.0, 0.5, 3.0]))


@pytest.mark.parametrize("output, loss", [pair for pair in OUTPUTS_AND_LOSSES if pair[0] != "softmax"])
def test_one_output(backend, dtype, output, loss):
    """Rows around the widths of vectors, each with a weight of its own."""
    net, reference = make_net((4, 9, 1), output_activation=output, loss=loss, dtype=dtype, backend=backend)
    for n in (1, 2, 4, 7, 8, 9, 15, 16, 17, 33):
        X, y = make_examples(net, n, seed=n)
        check_against_oracle(net, reference, X, y, np.random.default_rng(n).normal(1.0, 1.0, n), scale=4)


def test_probabilities_as_targets(backend, dtype):
    net, reference = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 7, classes=False)
    check_against_oracle(net, reference, X, y)
    check_against_oracle(net, reference, X, 3 * y)


def test_mae_has_no_slope_at_zero(backend, dtype):
    net, _ = make_net((2, 3), loss="mae", dtype=dtype, backend=backend)
    X, _ = make_examples(net, 4)
    loss, gradients = net.loss_and_gradients(X, net.forward(X))
    assert loss == 0.0 and not gradients.flat.any()


def test_l1_has_no_slope_at_zero(backend, dtype):
    net, _ = make_net((2, 3), l1=0.5, dtype=dtype, backend=backend)
    net.set_weights([np.array([[1.0, -1.0], [0.0, 2.0], [-3.0, 0.0]])], [np.ones(3)])
    X = np.zeros((1, 2), dtype=dtype)
    _, gradients = net.loss_and_gradients(X, net.forward(X))
    np.testing.assert_array_equal(gradients.weights[0], [[0.5, -0.5], [0.0, 0.5], [-0.5, 0.0]])
    assert not gradients.biases[0].any()


def test_structure(backend, dtype):
    net, _ = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    _, gradients = net.loss_and_gradients(X, y)
    assert isinstance(gradients.weights, tuple) and isinstance(gradients.biases, tuple)
    assert [w.shape for w in gradients.weights] == [(5, 4), (3, 5)]
    assert [b.shape for b in gradients.biases] == [(5,), (3,)]
    assert all(part.dtype == dtype for part in gradients.weights + gradients.biases)
    assert_same_bits(gradients.flat, flat(gradients.weights, gradients.biases).astype(dtype))
    assert gradients.flat.shape == net.parameters.shape


def test_a_single_example(backend, dtype):
    net, reference = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 1)
    loss, gradients = net.loss_and_gradients(X[0], y[0])
    expected = oracle.loss_and_gradients(reference, X, y)
    assert_close(loss, expected[0], dtype)
    assert_close(gradients.flat, flat(expected[1], expected[2]), dtype)


def test_gradients_leave_the_net_alone(backend, dtype):
    net, _ = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    before = net.parameters
    first = net.loss_and_gradients(X, y)
    net.backward(X, y)
    assert_same_bits(net.parameters, before)
    second = net.loss_and_gradients(X, y)
    assert first[0] == second[0]
    assert_same_bits(first[1].flat, second[1].flat)


def test_the_loss_that_comes_with_gradients_is_the_loss(backend, dtype):
    net, _ = make_net((4, 5, 3), l1=0.1, l2=0.2, output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 600)
    assert_close(net.loss_and_gradients(X, y)[0], net.loss(X, y), dtype)


# backward: a loss of the user's own. ---------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_backward(backend, dtype, output):
    net, reference = make_net((4, 9, 5, 3), output_activation=output, dtype=dtype, backend=backend, activation="silu")
    for n in (1, 10):
        X, _ = make_examples(net, n, seed=n)
        dY = np.random.default_rng(n).normal(size=(n, 3)).astype(dtype)
        gradients = net.backward(X, dY, input_gradient=True)
        d_weights, d_biases, dX = oracle.backward(reference, X, dY)
        assert_close(gradients.flat, flat(d_weights, d_biases), dtype, "parameters")
        assert_close(gradients.input, dX, dtype, "input")
        assert gradients.input.dtype == dtype
        without = net.backward(X, dY)
        assert without.input is None
        assert_same_bits(without.flat, gradients.flat)


def test_backward_of_a_single_example(backend, dtype):
    net, reference = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, dY = make_examples(net, 1)
    gradients = net.backward(X[0], dY[0], input_gradient=True)
    expected = oracle.backward(reference, X, dY)
    assert_close(gradients.flat, flat(*expected[:2]), dtype)
    assert_close(gradients.input, expected[2][0], dtype)


def test_backward_has_no_penalty(backend, dtype):
    net, _ = make_net((4, 5, 3), l1=0.5, l2=0.5, dtype=dtype, backend=backend)
    plain, _ = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, dY = make_examples(net, 6)
    assert_same_bits(net.backward(X, dY).flat, plain.backward(X, dY).flat)


@pytest.mark.parametrize("n", [513, 1300])
def test_backward_over_one_block(backend, dtype, n):
    net, reference = make_net((6, 20, 4), activation="tanh", dtype=dtype, backend=backend)
    X, y = make_examples(net, n)
    dY = (2.0 / (4 * n) * (net.forward(X).astype(np.float64) - y)).astype(dtype)
    gradients = net.backward(X, dY, input_gradient=True)
    _, d_weights, d_biases, dX = oracle.fast_loss_and_gradients(reference, X, y)
    assert_close(gradients.flat, flat(d_weights, d_biases), dtype, "parameters", scale=4)
    assert_close(gradients.input, dX, dtype, "input", scale=4)


@pytest.mark.parametrize("sizes", [(3, 2), (1, 1), (40, 3), (5, 70, 60, 7)])
def test_input_gradient_of_odd_shapes(backend, dtype, sizes):
    net, reference = make_net(sizes, activation="gelu", dtype=dtype, backend=backend)
    for n in (1, 3, 20):
        X, dY = make_examples(net, n)
        assert_close(
            net.backward(X, dY, input_gradient=True).input, oracle.backward(reference, X, dY)[2], dtype, scale=2
        )


# Random architectures. -----------------------------------------------------------------------------------

architectures = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 20), min_size=2, max_size=5),
        "activation": st.lists(st.sampled_from(HIDDEN_ACTIVATIONS), min_size=3, max_size=3),
        "output_and_loss": st.sampled_from(OUTPUTS_AND_LOSSES),
        "l1": st.sampled_from((0.0, 0.01)),
        "l2": st.sampled_from((0.0, 0.1)),
        "seed": st.integers(0, 1000),
    }
)


def random_net(architecture, backend, dtype):
    sizes = architecture["sizes"]
    output, loss = architecture["output_and_loss"]
    return make_net(
        sizes,
        seed=architecture["seed"],
        activation=tuple(architecture["activation"][: len(sizes) - 2]),
        output_activation=output,
        loss=loss,
        l1=architecture["l1"],
        l2=architecture["l2"],
        backend=backend,
        dtype=dtype,
    )


def distance_to_kinks(reference, X, y):
    """How near any derivative comes to a jump: relu and leaky_relu at 0, mae at 0."""
    zs, outputs = oracle.fast_trace(reference, X)
    distances = [1.0]
    for layer, z in enumerate(zs, start=1):
        if reference.activation_of(layer) in ("relu", "leaky_relu"):
            distances.append(np.min(np.abs(z)))
    if reference.loss == "mae":
        distances.append(np.min(np.abs(outputs[-1] - y)))
    return min(distances)


@given(architecture=architectures, n=st.integers(1, 30))
def test_random_architectures_against_the_oracle(backend, dtype, architecture, n):
    net, reference = random_net(architecture, backend, dtype)
    X, y = make_examples(net, n, seed=architecture["seed"])
    assume(distance_to_kinks(reference, X, y) > 1e-5)
    check_against_oracle(net, reference, X, y, scale=4)


@given(architecture=architectures, n=st.integers(1, 5))
def test_random_architectures_against_central_differences(backend, architecture, n):
    net, reference = random_net(architecture, backend, "float64")
    X, y = make_examples(net, n, seed=architecture["seed"])
    step = 1e-5
    assume(distance_to_kinks(reference, X, y) > 100 * step)
    assume(min(np.min(np.abs(w)) for w in net.weights) > 10 * step or not architecture["l1"])
    _, gradients = net.loss_and_gradients(X, y)
    # Along random directions: each of them sees every parameter.
    random = np.random.default_rng(0)
    start = net.parameters
    for _ in range(3):
        direction = random.choice([-1.0, 1.0], start.size)
        net.set_parameters(start + step * direction)
        up = net.loss(X, y)
        net.set_parameters(start - step * direction)
        down = net.loss(X, y)
        expected = (up - down) / (2 * step)
        assert gradients.flat @ direction == pytest.approx(expected, rel=1e-6, abs=1e-7)
