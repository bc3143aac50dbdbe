"""The backends against each other: C and Numba to the bit, both against numpy within rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import HIDDEN_ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_same_bits, make_examples, make_net
from test_gradients import architectures, random_net
from test_optimizers import CLIPPING, OPTIMIZERS

from fastmlp import SGD, Adam, _backends


def distance(actual, expected):
    """The norm of the difference over the norm."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def train(make, make_optimizer, backend, n, epochs, batch_size, **settings):
    net = make(backend)
    X, y = make_examples(net, n)
    history = net.fit(
        X, y, optimizer=make_optimizer(), epochs=epochs, batch_size=batch_size, rng=np.random.default_rng(5), **settings
    )
    return net, history, (X, y)


# Compiled backends against numpy. ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize(
    "activation, output, loss",
    [("tanh", "softmax", "cross_entropy"), ("relu", "identity", "mse"), ("gelu", "sigmoid", "bce")],
)
def test_200_steps_in_float64(compiled_backend, activation, output, loss, name):
    def make(backend):
        return make_net(
            (5, 24, 13, 3),
            activation=activation,
            output_activation=output,
            loss=loss,
            l2=1e-3,
            dropout=0.1,
            dtype="float64",
            backend=backend,
        )[0]

    actual, actual_history, _ = train(make, OPTIMIZERS[name][0], compiled_backend, 64, 50, 16)
    expected, expected_history, _ = train(make, OPTIMIZERS[name][0], "numpy", 64, 50, 16)
    assert distance(actual.parameters, expected.parameters) < 1e-9
    assert actual_history.loss == pytest.approx(expected_history.loss, rel=1e-9)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_200_steps_in_float32(compiled_backend, activation, name):
    def make(backend):
        return make_net((5, 24, 13, 3), activation=activation, output_activation="softmax", backend=backend)[0]

    after_one = [
        train(make, OPTIMIZERS[name][0], backend, 64, 1, None)[0].parameters for backend in (compiled_backend, "numpy")
    ]
    assert distance(*after_one) < 1e-5
    actual, _, examples = train(make, OPTIMIZERS[name][0], compiled_backend, 64, 50, 16)
    expected, _, _ = train(make, OPTIMIZERS[name][0], "numpy", 64, 50, 16)
    assert abs(actual.loss(*examples) - expected.loss(*examples)) < 1e-3


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_one_step_of_every_loss(compiled_backend, dtype, output, loss):
    def make(backend):
        return make_net((5, 9, 3), output_activation=output, loss=loss, dtype=dtype, backend=backend)[0]

    results = [
        train(make, lambda: SGD(lr=0.1), backend, 40, 1, None)[0].parameters for backend in (compiled_backend, "numpy")
    ]
    assert distance(*results) < (1e-5 if dtype == "float32" else 1e-13)


def test_same_seed_same_bits_again(backend, dtype):
    def make(backend):
        return make_net((5, 24, 13, 3), output_activation="softmax", dropout=0.2, dtype=dtype, backend=backend)[0]

    first, first_history, _ = train(make, Adam, backend, 600, 3, 64)
    second, second_history, _ = train(make, Adam, backend, 600, 3, 64)
    assert_same_bits(first.parameters, second.parameters)
    assert first_history.loss == second_history.loss


# C against Numba. ----------------------------------------------------------------------------------------


@pytest.fixture
def same_bits_promised(both_compiled_backends):
    """The two round alike wherever there is a fused multiply-add."""
    names = {_backends.instruction_set(name) for name in ("c", "numba")}
    if "baseline" in names:
        pytest.skip(f"no bits are promised without fused multiply-add (instruction sets: {', '.join(sorted(names))})")


def check_same_bits(make, X, y, weight=None):
    """Everything the two compute from the same net and examples."""
    c, numba = make("c"), make("numba")
    assert_same_bits(c.parameters, numba.parameters)
    dY = np.random.default_rng(1).normal(size=(len(X), c.layer_sizes[-1])).astype(c.dtype)
    V = np.random.default_rng(2).normal(size=c.n_parameters)
    for call in (
        lambda net: [net.forward(X), net.logits(X), net.forward(X[0]), *net.activations_of(X)],
        lambda net: [net.loss(X, y, weight), net.penalty()],
        lambda net: list(values(net.loss_and_gradients(X, y, weight))),
        lambda net: list(values(net.loss_and_gradients(X, y, weight, training=True))),
        lambda net: [net.backward(X, dY, input_gradient=True).flat, net.backward(X, dY, input_gradient=True).input],
        lambda net: [net.jacobian(X), *net.jvp(X, X[::-1])],
        lambda net: [net.gradients_per_example(X, y, weight).flat, net.hvp(X, y, V, weight).flat],
    ):
        for actual, expected in zip(call(c), call(numba)):
            assert_same_bits(actual, expected)


def values(loss_and_gradients):
    loss, gradients = loss_and_gradients
    return loss, gradients.flat


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_same_bits_of_every_loss(same_bits_promised, dtype, output, loss):
    def make(backend):
        return make_net(
            (5, 19, 3), activation="elu", output_activation=output, loss=loss, l1=0.01, dtype=dtype, backend=backend
        )[0]

    X, y = make_examples(make("numpy"), 37)
    check_same_bits(make, X, y)
    check_same_bits(make, X, y, np.linspace(-1.0, 2.0, 37))


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_same_bits_of_every_activation(same_bits_promised, dtype, activation):
    def make(backend):
        return make_net(
            (5, 40, 20, 11),
            activation=activation,
            output_activation="softmax",
            dropout=0.3,
            l2=0.01,
            dtype=dtype,
            scale=3.0,
            backend=backend,
        )[0]

    check_same_bits(make, *make_examples(make("numpy"), 70))


@pytest.mark.parametrize("sizes", [(1, 1), (300, 150, 7), (17, 64, 64, 6), (70, 129, 1), (8, 16, 32, 48, 64)])
@pytest.mark.parametrize("n", [1, 9, 64, 513, 1300])
def test_same_bits_of_odd_shapes(same_bits_promised, dtype, sizes, n):
    def make(backend):
        return make_net(sizes, activation="tanh", dtype=dtype, backend=backend)[0]

    check_same_bits(make, *make_examples(make("numpy"), n))


@given(architecture=architectures, n=st.integers(1, 70))
def test_same_bits_of_random_architectures(same_bits_promised, dtype, architecture, n):
    def make(backend):
        return random_net(architecture, backend, dtype)[0]

    check_same_bits(make, *make_examples(make("numpy"), n))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [7, None])
def test_same_bits_after_training(same_bits_promised, dtype, name, batch_size):
    def make(backend):
        return make_net(
            (5, 33, 18, 4),
            activation="silu",
            output_activation="softmax",
            l2=1e-3,
            dropout=0.2,
            dtype=dtype,
            backend=backend,
        )[0]

    runs = [train(make, OPTIMIZERS[name][0], backend, 600, 3, batch_size) for backend in ("c", "numba")]
    assert_same_bits(runs[0][0].parameters, runs[1][0].parameters)
    assert runs[0][1].loss == runs[1][1].loss


@pytest.mark.parametrize("name", CLIPPING)
def test_same_bits_after_clipped_training(same_bits_promised, dtype, name):
    def make(backend):
        return make_net((5, 33, 18, 4), output_activation="softmax", dtype=dtype, backend=backend)[0]

    runs = [train(make, lambda: OPTIMIZERS[name][0](clip_norm=0.1), backend, 60, 3, 8) for backend in ("c", "numba")]
    assert_same_bits(runs[0][0].parameters, runs[1][0].parameters)


def test_same_bits_of_converted_data(same_bits_promised, dtype):
    random = np.random.default_rng(0)
    base = random.normal(size=(120, 10)) * 10
    for X in (base[::2, ::2], base.astype(np.float32)[::-2, ::2], base.astype(np.int64)[:60, :5], base.T[:5, :60].T):

        def make(backend):
            return make_net((5, 33, 4), output_activation="softmax", dtype=dtype, backend=backend)[0]

        check_same_bits(make, X, np.arange(60) % 4)
