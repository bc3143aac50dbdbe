"""Jacobians, directional derivatives, gradients per example and Hessian-vector products.

Against the oracle; by other ways than its formulas (complex steps); and against PyTorch where it is installed.
"""

import threading

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
from test_gradients import architectures, distance_to_kinks, random_net

import fastmlp
from fastmlp import Gradients, GradientsPerExample

WEIGHT = np.array([1.0, 0.0, 2.5, -1.0, 0.5, 3.0])


def directions(net, n, seed=0):
    """A direction for each example's inputs, and one of the parameters, in the net's dtype."""
    random = np.random.default_rng(seed)
    T = random.normal(size=(n, net.layer_sizes[0])).astype(net.dtype)
    return T, random.normal(size=net.n_parameters).astype(net.dtype)


def by_layer(net, V):
    """A flat direction as the weights' and the biases', in float64."""
    weights, biases, start = [], [], 0
    for n_in, n_out in zip(net.layer_sizes, net.layer_sizes[1:]):
        weights.append(V[start : start + n_out * n_in].reshape(n_out, n_in).astype(np.float64))
        biases.append(V[start + n_out * n_in : start + n_out * (n_in + 1)].astype(np.float64))
        start += n_out * (n_in + 1)
    return weights, biases


def check_inputs_derivatives(net, reference, X, rows=slice(None), scale=1.0):
    T, _ = directions(net, len(X))
    J = net.jacobian(X)
    y, dy = net.jvp(X, T)
    assert J.shape == (len(X), net.layer_sizes[-1], net.layer_sizes[0])
    assert J.dtype == y.dtype == dy.dtype == net.dtype
    assert_close(J[rows], oracle.jacobian(reference, X[rows]), net.dtype, "jacobian", scale)
    assert_close(dy[rows], oracle.jvp(reference, X[rows], T[rows]), net.dtype, "jvp", scale)
    assert_close(y[rows], oracle.forward(reference, X[rows]), net.dtype, "y", scale)


def check_hvp(net, reference, X, y, weight=None, scale=1.0):
    _, V = directions(net, len(X))
    H = net.hvp(X, y, V, weight)
    assert isinstance(H, Gradients) and H.flat.dtype == net.dtype
    expected = oracle.hvp(reference, X, y, *by_layer(net, V), weight)
    assert_close(H.flat, flat(*expected), net.dtype, "hvp", scale)


def check_examples_gradients(net, reference, X, y, weight=None, scale=1.0):
    actual = net.gradients_per_example(X, y, weight)
    assert isinstance(actual, GradientsPerExample)
    assert actual.flat.shape == (len(X), net.n_parameters) and actual.flat.dtype == net.dtype
    expected = [flat(*pair) for pair in oracle.gradients_per_example(reference, X, y, weight)]
    assert_close(actual.flat, np.array(expected), net.dtype, "gradients per example", scale)


# Every function. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(4, 9, 5, 3), (2, 9, 5, 7), (4, 3), (3, 20)], ids=str)
def test_every_output(backend, dtype, output, sizes):
    """The second net's Jacobian goes forward; the last two have no hidden layer."""
    net, reference = make_net(sizes, activation="silu", output_activation=output, dtype=dtype, backend=backend)
    X, _ = make_examples(net, 5)
    check_inputs_derivatives(net, reference, X, scale=2)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_every_hidden_activation(backend, dtype, activation):
    for sizes in ((5, 17, 8, 3), (3, 17, 8, 6)):
        net, reference = make_net(
            sizes, activation=activation, output_activation="softmax", dtype=dtype, backend=backend
        )
        X, y = make_examples(net, 11)
        check_inputs_derivatives(net, reference, X, scale=2)
        check_examples_gradients(net, reference, X, y, scale=2)
        check_hvp(net, reference, X, y, scale=4)


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_every_output_and_loss(backend, dtype, output, loss):
    net, reference = make_net(
        (4, 9, 3), activation="tanh", output_activation=output, loss=loss, l1=0.01, l2=0.1, dtype=dtype, backend=backend
    )
    X, y = make_examples(net, 6)
    for weight in (None, WEIGHT):
        check_examples_gradients(net, reference, X, y, weight, scale=2)
        check_hvp(net, reference, X, y, weight, scale=2)


def test_probabilities_as_targets(backend, dtype):
    net, reference = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 6, classes=False)
    for targets in (y, 3 * y):
        check_examples_gradients(net, reference, X, targets, WEIGHT)
        check_hvp(net, reference, X, targets, WEIGHT, scale=2)


@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (3, 2), (1, 1, 1), (7, 15, 16, 17, 4), (17, 33, 65, 6), (70, 31, 48, 49, 10), (6,) * 9, (2, 5, 40)],
    ids=lambda sizes: "-".join(map(str, sizes)),
)
def test_odd_shapes(backend, dtype, sizes):
    net, reference = make_net(sizes, activation="tanh", dtype=dtype, backend=backend, l2=1e-2)
    for n in (1, 3, 20):
        X, y = make_examples(net, n, seed=n)
        rows = slice(0, n, 6)
        check_inputs_derivatives(net, reference, X, rows, scale=4)
        check_hvp(net, reference, X, y, scale=4)
    check_examples_gradients(net, reference, X[:3], y[:3], scale=4)


@pytest.mark.parametrize("sizes", [(6, 20, 4), (3, 20, 9)], ids=str)
def test_batches_over_one_block(backend, dtype, sizes):
    """Rows where a part of a Jacobian, a block of a Jacobian or a block of a batch ends."""
    net, reference = make_net(sizes, activation="tanh", dtype=dtype, backend=backend)
    X, y = make_examples(net, 1300)
    rows = [0, 20, 21, 47, 48, 63, 64, 95, 96, 191, 192, 511, 512, 1023, 1024, 1247, 1248, 1299]
    check_inputs_derivatives(net, reference, X, rows, scale=2)
    gradients = net.gradients_per_example(X, y).flat
    expected = [flat(*pair) for pair in oracle.gradients_per_example(reference, X[rows], y[rows])]
    assert_close(gradients[rows], np.array(expected), dtype, scale=2)
    for n in (513, 1300):
        check_hvp(net, reference, X[:n], y[:n], scale=4)


def test_wide_layers(backend, dtype):
    """Products are cut in depth, and an example has more rows than go together as a rule."""
    net, reference = make_net((230, 330, 210), activation="sigmoid", dtype=dtype, backend=backend)
    X, y = make_examples(net, 3)
    T, V = directions(net, 3)
    J = net.jacobian(X)
    assert_close(net.jvp(X, T)[1], np.einsum("nkj,nj->nk", J.astype(np.float64), T), dtype, scale=4)
    outputs = oracle.fast_forward(reference, X)
    hidden = oracle.fast_trace(reference, X)[1][0]
    expected = reference.weights[1] * (hidden * (1 - hidden))[:, None, :] @ reference.weights[0]
    assert outputs.shape == (3, 210)
    assert_close(J, expected, dtype, scale=4)
    check_hvp(net, reference, X, y, scale=4)


# Second derivatives themselves. --------------------------------------------------------------------------

# Of the largest value; those that are computed from a rounded output are off by more.
SECOND_DERIVATIVE_EPS = {"sigmoid": 12, "softplus": 6, "tanh": 6}


@pytest.mark.parametrize("name", [name for name in OUTPUT_ACTIVATIONS if name != "softmax"])
def test_accuracy_of_second_derivatives(backend, dtype, name):
    """Of mae, far below every output, the Hessian by the biases is f''(b) / k."""
    k = 4096
    net, _ = make_net((1, k), output_activation=name, loss="mae", dtype=dtype, backend=backend)
    grid = np.concatenate([np.linspace(-30, 30, k - 6), [0.0, -0.0, 1e-30, -1e-30, 85.0, -85.0]]).astype(dtype)
    net.set_weights([np.zeros((k, 1))], [grid])
    V = np.concatenate([np.zeros(k), np.ones(k)])
    actual = k * net.hvp(np.ones((1, 1)), np.full((1, k), -1e30), V).biases[0].astype(np.float64)
    expected = np.array([oracle.SECOND_DERIVATIVES[name](z) for z in grid.tolist()])
    if name == "exp":
        normal = expected > 1e-30  # what kernels divide by k must not underflow
        assert_close(actual[normal] / expected[normal], np.ones(np.count_nonzero(normal)), dtype)
        return
    largest = np.max(np.abs(expected))
    assert np.max(np.abs(actual - expected)) <= SECOND_DERIVATIVE_EPS.get(name, 4) * np.finfo(dtype).eps * largest


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_second_derivatives_at_infinity(backend, dtype, name):
    net, _ = make_net((1, 2), output_activation=name, loss="mae", dtype=dtype, backend=backend)
    net.set_weights([np.zeros((2, 1))], [np.array([np.inf, -np.inf])])
    actual = net.hvp(np.ones((1, 1)), np.zeros((1, 2)), np.array([0.0, 0.0, 1.0, 1.0])).biases[0]
    np.testing.assert_allclose(actual, [0.0, 0.0], atol=np.finfo(dtype).eps)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_at_kinks(backend, dtype, activation):
    """All z are 0: relu'(0) is 0, elu''(0) is 0; and at a difference of exactly 1 huber's second derivative is 0."""
    for loss in ("mse", "mae", "huber"):
        net, _ = make_net((2, 3, 2), activation=activation, loss=loss, dtype=dtype, backend=backend)
        net.set_weights([np.zeros((3, 2)), np.ones((2, 3))], [np.zeros(3), np.array([0.0, 1.0])])
        reference = oracle.Net((2, 3, 2), (activation,), "identity", loss, *map(list, by_layer(net, net.parameters)))
        X = np.array([[1.0, 2.0], [0.5, -1.0]], dtype=dtype)
        y = np.array([[0.0, 0.0], [-1.0, 2.0]], dtype=dtype)
        if activation in ("softplus", "sigmoid"):
            y += 3 * oracle.ACTIVATIONS[activation](0.0)  # rounding decides there
            y += 0.25
        check_inputs_derivatives(net, reference, X)
        check_examples_gradients(net, reference, X, y)
        check_hvp(net, reference, X, y, scale=2)


# Other ways to the same. ---------------------------------------------------------------------------------


def complex_gradient(weights, biases, X, y, l2):
    """The gradient of a tanh net's cross-entropy, by formulas that hold for complex parameters."""
    inputs = [X.astype(complex)]
    for W, b in zip(weights[:-1], biases[:-1]):
        inputs.append(np.tanh(inputs[-1] @ W.T + b))
    z = inputs[-1] @ weights[-1].T + biases[-1]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    dz = (p - np.eye(z.shape[1])[y]) / len(X)
    pieces = []
    for layer in range(len(weights) - 1, -1, -1):
        pieces.insert(0, np.concatenate([(dz.T @ inputs[layer] + l2 * weights[layer]).ravel(), dz.sum(axis=0)]))
        dz = (dz @ weights[layer]) * (1 - inputs[layer] ** 2)
    return np.concatenate(pieces)


def test_hvp_is_the_complex_step_of_the_gradient(backend):
    net, _ = make_net(
        (4, 9, 6, 3), activation="tanh", output_activation="softmax", l2=0.1, dtype="float64", backend=backend
    )
    X, y = make_examples(net, 20)
    _, V = directions(net, 20)
    v_weights, v_biases = by_layer(net, V)
    step = 1e-30
    weights = [W + 1j * step * v for W, v in zip(net.weights, v_weights)]
    biases = [b + 1j * step * v for b, v in zip(net.biases, v_biases)]
    expected = complex_gradient(weights, biases, X, y, 0.1).imag / step
    np.testing.assert_allclose(net.hvp(X, y, V).flat, expected, rtol=1e-12, atol=1e-14)


def test_jvp_is_the_complex_step_of_the_outputs(backend):
    net, _ = make_net((4, 9, 3), activation="tanh", dtype="float64", backend=backend)
    X, _ = make_examples(net, 20)
    T, _ = directions(net, 20)
    a = np.tanh((X + 1e-30j * T) @ net.weights[0].T + net.biases[0])
    expected = (a @ net.weights[1].T + net.biases[1]).imag / 1e-30
    np.testing.assert_allclose(net.jvp(X, T)[1], expected, rtol=1e-13, atol=1e-15)


def test_the_hessian_is_symmetric(backend):
    net, _ = make_net((4, 9, 6, 3), activation="gelu", output_activation="softmax", dtype="float64", backend=backend)
    X, y = make_examples(net, 20)
    columns = [net.hvp(X, y, unit).flat for unit in np.eye(net.n_parameters)]
    np.testing.assert_allclose(columns, np.transpose(columns), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("weight", [None, np.linspace(-1.0, 2.0, 40)])
def test_gradients_per_example_add_up(backend, dtype, weight):
    net, _ = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 40)
    mean = net.gradients_per_example(X, y, weight).flat.astype(np.float64).mean(axis=0)
    assert_close(net.loss_and_gradients(X, y, weight)[1].flat, mean, dtype)


def test_vectors_times_jacobians(backend, dtype):
    net, _ = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, _ = make_examples(net, 40)
    dY = np.random.default_rng(0).normal(size=(40, 3)).astype(dtype)
    expected = np.einsum("nk,nkj->nj", dY, net.jacobian(X).astype(np.float64))
    assert_close(net.backward(X, dY, input_gradient=True).input, expected, dtype, scale=2)


@given(architecture=architectures, n=st.integers(1, 8))
def test_random_architectures(backend, dtype, architecture, n):
    net, reference = random_net(architecture, backend, dtype)
    X, y = make_examples(net, n, seed=architecture["seed"])
    assume(distance_to_kinks(reference, X, y) > 1e-5)
    outputs = oracle.forward(reference, X)
    assume(reference.loss != "huber" or np.min(np.abs(np.abs(outputs - y) - 1)) > 1e-5)
    check_inputs_derivatives(net, reference, X, scale=4)
    check_examples_gradients(net, reference, X, y, scale=4)
    check_hvp(net, reference, X, y, scale=8)


# PyTorch. ------------------------------------------------------------------------------------------------

TORCH_LOSSES = {
    "mse": lambda F: F.mse_loss,
    "mae": lambda F: F.l1_loss,
    "huber": lambda F: F.huber_loss,
    "bce": lambda F: F.binary_cross_entropy_with_logits,
    "poisson": lambda F: lambda z, y: F.poisson_nll_loss(z, y, log_input=True),
    "cross_entropy": lambda F: F.cross_entropy,
}


class TorchTwin:
    """The same net as functions of PyTorch: of one example's outputs, and of the loss of flat parameters."""

    def __init__(self, torch, net):
        functional = torch.nn.functional
        self.torch, self.net = torch, net
        self.functions = {
            "identity": lambda z: z,
            "exp": torch.exp,
            "softmax": lambda z: torch.softmax(z, -1),
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "softplus": functional.softplus,
            "relu": functional.relu,
            "leaky_relu": functional.leaky_relu,
            "elu": functional.elu,
            "gelu": functional.gelu,
            "silu": functional.silu,
        }
        self.loss_function = TORCH_LOSSES[net.loss_name](functional)

    def logits(self, parameters, X):
        start = 0
        for layer, (n_in, n_out) in enumerate(zip(self.net.layer_sizes, self.net.layer_sizes[1:])):
            W = parameters[start : start + n_out * n_in].reshape(n_out, n_in)
            b = parameters[start + n_out * n_in : start + n_out * (n_in + 1)]
            start += n_out * (n_in + 1)
            X = X @ W.T + b
            if layer < len(self.net.activations):
                X = self.functions[self.net.activations[layer]](X)
        return X

    def forward(self, parameters, X):
        return self.functions[self.net.output_activation](self.logits(parameters, X))

    def loss(self, parameters, X, y):
        if self.net.loss_name in ("mse", "mae", "huber"):
            return self.loss_function(self.forward(parameters, X), y)
        return self.loss_function(self.logits(parameters, X), y)

    def penalty(self, parameters):
        start, total = 0, 0.0
        for n_in, n_out in zip(self.net.layer_sizes, self.net.layer_sizes[1:]):
            W = parameters[start : start + n_out * n_in]
            total = total + self.net.l1 * W.abs().sum() + 0.5 * self.net.l2 * (W * W).sum()
            start += n_out * (n_in + 1)
        return total

    def derivatives(self, X, y, T, V):
        """Jacobians, jvp, gradients per example, and Hessian-vector product, as arrays."""
        func, tensor = self.torch.func, self.torch.from_numpy
        X, y, T, V, parameters = (tensor(array) for array in (X, y, T, V, self.net.parameters))
        J = func.vmap(func.jacrev(lambda x: self.forward(parameters, x)))(X)
        _, dy = func.jvp(lambda X: self.forward(parameters, X), (X,), (T,))
        each = func.vmap(func.grad(lambda p, x, y: self.loss(p, x[None], y[None])), (None, 0, 0))(parameters, X, y)

        def whole_loss(p):
            return self.loss(p, X, y) + self.penalty(p)

        leaf = parameters.clone().requires_grad_()
        (gradient,) = self.torch.autograd.grad(whole_loss(leaf), leaf, create_graph=True)
        (H,) = self.torch.autograd.grad(gradient @ V, leaf)
        return [part.detach().numpy() for part in (J, dy, each, H)]


# It warns of what becomes of its own parts.
in_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the other side")


def check_against_torch(torch, net, X, y):
    T, V = directions(net, len(X))
    actual = net.jacobian(X), net.jvp(X, T)[1], net.gradients_per_example(X, y).flat, net.hvp(X, y, V).flat
    expected = TorchTwin(torch, net).derivatives(X, y, T, V)
    for name, one, other in zip(("jacobian", "jvp", "gradients_per_example", "hvp"), actual, expected):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * max(1.0, np.abs(other).max()), err_msg=name)


@in_torch
@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_losses_against_torch(torch, backend, output, loss):
    net, _ = make_net(
        (4, 9, 5, 3),
        activation=("silu", "tanh"),
        output_activation=output,
        loss=loss,
        l1=0.01,
        l2=0.1,
        dtype="float64",
        backend=backend,
    )
    check_against_torch(torch, net, *make_examples(net, 12))
    if output == "softmax":
        check_against_torch(torch, net, *make_examples(net, 12, classes=False))


@in_torch
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_activations_against_torch(torch, backend, activation):
    for sizes in ((5, 17, 8, 3), (3, 17, 8, 6)):
        net, _ = make_net(sizes, activation=activation, dtype="float64", backend=backend)
        check_against_torch(torch, net, *make_examples(net, 12))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "tanh"])
@in_torch
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_kinks_against_torch(torch, backend, activation, loss):
    net, _ = make_net((2, 3, 2), activation=activation, loss=loss, dtype="float64", backend=backend)
    net.set_weights([np.zeros((3, 2)), np.ones((2, 3))], [np.zeros(3), np.array([0.0, 1.0])])
    X = np.array([[1.0, 2.0], [0.5, -1.0]])
    check_against_torch(torch, net, X, np.array([[0.0, 0.0], [-1.0, 2.0]]))


# What goes in and comes out. -----------------------------------------------------------------------------


def test_a_single_example(backend, dtype):
    net, _ = make_net((4, 5, 3), output_activation="softmax", l2=0.1, dtype=dtype, backend=backend)
    X, y = make_examples(net, 1)
    T, V = directions(net, 1)
    assert_same_bits(net.jacobian(X[0]), net.jacobian(X)[0])
    for single, batch in zip(net.jvp(X[0], T[0]), net.jvp(X, T)):
        assert_same_bits(single, batch[0])
    single, batch = net.gradients_per_example(X[0], y[0], 2.0), net.gradients_per_example(X, y, [2.0])
    assert_same_bits(single.flat, batch.flat[0])
    assert [w.shape for w in single.weights] == [(5, 4), (3, 5)] and [b.shape for b in single.biases] == [(5,), (3,)]
    assert_same_bits(net.hvp(X[0], y[0], V).flat, net.hvp(X, y, V).flat)


def test_no_example(backend, dtype):
    net, _ = make_net((4, 5, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 0)
    assert net.jacobian(X).shape == (0, 3, 4)
    assert [part.shape for part in net.jvp(X, X)] == [(0, 3), (0, 3)]
    gradients = net.gradients_per_example(X, y)
    assert gradients.flat.shape == (0, net.n_parameters) and gradients.flat.dtype == dtype
    assert [w.shape for w in gradients.weights] == [(0, 5, 4), (0, 3, 5)]


def test_views_by_layer(backend, dtype):
    net, _ = make_net((4, 5, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    gradients = net.gradients_per_example(X, y)
    assert [w.shape for w in gradients.weights] == [(6, 5, 4), (6, 3, 5)]
    assert [b.shape for b in gradients.biases] == [(6, 5), (6, 3)]
    for i in range(6):
        assert_same_bits(flat([w[i] for w in gradients.weights], [b[i] for b in gradients.biases]), gradients.flat[i])
    gradients.biases[1][...] = 7.0
    assert np.all(gradients.flat[:, -3:] == 7.0)
    assert repr(gradients) == "GradientsPerExample(layer_sizes=[4, 5, 3], flat (6, 43))"


def test_directions_as_gradients(backend, dtype):
    net, _ = make_net((4, 5, 3), l2=0.1, dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    gradients = net.loss_and_gradients(X, y)[1]
    expected = net.hvp(X, y, gradients.flat)
    before = gradients.flat
    assert_same_bits(net.hvp(X, y, gradients).flat, expected.flat)
    assert_same_bits(gradients.flat, before)
    other, _ = make_net((4, 5, 3), l2=0.1, dtype="float64" if dtype == "float32" else "float32", backend=backend)
    assert_close(other.hvp(X, y, gradients).flat, expected.flat, "float32")


def test_arrays_of_any_kind(backend, dtype):
    net, _ = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    base = np.random.default_rng(0).integers(-9, 9, (40, 8))
    y = np.arange(20) % 3
    X = np.ascontiguousarray(base[::2, ::2], dtype=dtype)
    _, V = directions(net, 20)
    V = V.astype(np.float32)
    for other in (base[::2, ::2], base.astype(np.float32)[::2, ::2], base.astype(np.float64)[::2, ::2], X[::-1][::-1]):
        assert_same_bits(net.jacobian(other), net.jacobian(X))
        assert_same_bits(net.jvp(other, other)[1], net.jvp(X, X)[1])
        assert_same_bits(net.gradients_per_example(other, y).flat, net.gradients_per_example(X, y).flat)
        assert_same_bits(net.hvp(other, y.astype(np.float64), V).flat, net.hvp(X, y, V.tolist()).flat)


def test_not_a_number(backend, dtype):
    """One example's stays its own."""
    net, _ = make_net((4, 9, 3), activation="tanh", output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 5)
    T, V = directions(net, 5)
    for bad in (np.nan, np.inf):
        spoilt = X.copy()
        spoilt[2, 1] = bad
        for call in (
            lambda X: net.jacobian(X),
            lambda X: net.jvp(X, T)[1],
            lambda X: net.gradients_per_example(X, y).flat,
        ):
            actual, expected = call(spoilt), call(X)
            assert np.isfinite(expected).all()
            assert_same_bits(np.delete(actual, 2, axis=0), np.delete(expected, 2, axis=0))
            assert not np.array_equal(actual[2], expected[2])
            if np.isnan(bad):
                assert np.isnan(actual[2]).all()
        if np.isnan(bad):
            assert np.isnan(net.hvp(spoilt, y, V).flat).all()


def test_dropout_does_not_act_and_nothing_changes(backend, dtype):
    net, _ = make_net((4, 9, 3), activation="tanh", dropout=0.5, dtype=dtype, backend=backend)
    plain, _ = make_net((4, 9, 3), activation="tanh", dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    T, V = directions(net, 6)
    before = (net.parameters.tobytes(), net._dropout_step, X.tobytes(), y.tobytes(), T.tobytes(), V.tobytes())
    for _ in range(2):
        assert_same_bits(net.jacobian(X), plain.jacobian(X))
        assert_same_bits(net.jvp(X, T)[1], plain.jvp(X, T)[1])
        assert_same_bits(net.gradients_per_example(X, y).flat, plain.gradients_per_example(X, y).flat)
        assert_same_bits(net.hvp(X, y, V).flat, plain.hvp(X, y, V).flat)
    assert before == (net.parameters.tobytes(), net._dropout_step, X.tobytes(), y.tobytes(), T.tobytes(), V.tobytes())


def test_the_parameters_as_they_are_now(backend, dtype):
    net, _ = make_net((4, 9, 3), dtype=dtype, backend=backend)
    other, reference = make_net((4, 9, 3), seed=5, dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    net.jacobian(X)
    net.hvp(X, y, net.parameters)
    net.set_parameters(other.parameters)
    check_inputs_derivatives(net, reference, X)
    check_hvp(net, reference, X, y)


# Threads. ------------------------------------------------------------------------------------------------


def everything(net, X, y):
    T, V = directions(net, len(X))
    return net.jacobian(X), *net.jvp(X, T), net.gradients_per_example(X, y).flat, net.hvp(X, y, V).flat


@pytest.mark.parametrize("sizes", [(60, 300, 250, 7), (5, 300, 250, 9)], ids=str)
def test_same_bits_for_any_number_of_threads(compiled_backend, dtype, sizes):
    """Wide enough that a call is worth sharing; the second Jacobian goes forward."""
    results = []
    for n_threads in (1, 2, 3):
        net, _ = make_net(
            sizes,
            activation="silu",
            output_activation="softmax",
            l2=0.1,
            dtype=dtype,
            backend=compiled_backend,
            n_threads=n_threads,
        )
        results.append(everything(net, *make_examples(net, 530)))
    for other in results[1:]:
        for actual, expected in zip(other, results[0]):
            assert_same_bits(actual, expected)


def test_several_python_threads(compiled_backend):
    net, _ = make_net((17, 64, 64, 6), activation="tanh", backend=compiled_backend)
    X, y = make_examples(net, 200)
    expected = everything(net, X, y)
    wrong = []

    def compute():
        for _ in range(10):
            wrong.extend(
                name
                for name, actual, one in zip("JydgH", everything(net, X, y), expected)
                if actual.tobytes() != one.tobytes()
            )

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_set_num_threads_reaches_nets_that_exist(compiled_backend):
    net, _ = make_net((5, 30, 3), backend=compiled_backend)
    X, _ = make_examples(net, 20)
    expected = net.jacobian(X)
    try:
        for n in (2, 1, None):
            fastmlp.set_num_threads(n)
            assert_same_bits(net.jacobian(X), expected)
            net.biases[0][...] += 0.0
    finally:
        fastmlp.set_num_threads(None)
