"""The functions themselves: accuracy in units in the last place, derivatives, NaN and infinities."""

import functools
import math
from decimal import Decimal, localcontext

import numpy as np
import oracle
import pytest
from support import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS, assert_close

import fastmlp

ELEMENTWISE = tuple(name for name in OUTPUT_ACTIVATIONS if name != "softmax")
LIMIT_IN_ULP = {"gelu": 4.0}
DEFAULT_LIMIT_IN_ULP = 2.5


def exact_erfc(x):
    """The complementary error function of a Decimal: Taylor's series near 0, else Laplace's fraction."""
    if x < 0:
        return 2 - exact_erfc(-x)
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803483")
    if x < 6:
        term = total = x
        for n in range(1, 400):
            term = -term * x * x / n
            total += term / (2 * n + 1)
        return 1 - 2 / pi.sqrt() * total
    fraction = x
    for n in range(120, 0, -1):
        fraction = x + Decimal(n) / 2 / fraction
    return (-x * x).exp() / pi.sqrt() / fraction


def exact(name, z):
    """The function ``name`` of the float z, to far more digits than a double has.

    Where 1 cancels out of a tiny result, as many digits more as the result has zeros.
    """
    with localcontext(prec=80 if name == "gelu" else 420, Emin=-999999, Emax=999999):
        z = Decimal(z)
        if name == "identity":
            return z
        if name == "relu":
            return max(z, Decimal(0))
        if name == "leaky_relu":
            return z if z > 0 else z / 100
        if name == "elu":
            return z if z > 0 else z.exp() - 1
        if name == "softplus":
            return (1 + z.exp()).ln()
        if name == "sigmoid":
            return 1 / (1 + (-z).exp())
        if name == "tanh":
            return 1 - 2 / ((2 * z).exp() + 1)
        if name == "gelu":
            return z * exact_erfc(-z / Decimal(2).sqrt()) / 2
        if name == "silu":
            return z / (1 + (-z).exp())
        return z.exp()


def points(name, dtype):
    """Arguments over the whole range in which the function is neither 0, 1 nor z to the last bit."""
    info = np.finfo(dtype)
    widest = -float(np.log(info.tiny)) - 0.01
    if name == "gelu":
        widest = min(widest, 12.0 if dtype == "float32" else 36.0)
    random = np.random.default_rng(3)
    spread = [np.linspace(-widest, widest, 40), random.normal(0.0, 1.0, 60), random.normal(0.0, 8.0, 40)]
    small = np.logspace(np.log10(float(info.tiny)) + 1, 0.0, 25)
    z = np.concatenate([*spread, small, -small, [0.5, -0.5, 1.0, -1.0, 0.34657359, -0.34657359]])
    return np.clip(z, -widest, widest).astype(dtype)


@functools.cache
def exact_values(name, dtype):
    return [exact(name, float(z)) for z in points(name, dtype)]


def function_net(name, dtype, backend):
    """A net that is its output activation."""
    net = fastmlp.MLP([1, 1], output_activation=name, loss="mse", dtype=dtype, backend=backend)
    net.weights[0][...] = 1.0
    return net


def errors_in_ulp(actual, expected, dtype):
    """One error per value; what a subnormal intermediate result adds may be missing, since it counts as zero."""
    errors = []
    info = np.finfo(dtype)
    tiny = Decimal(float(info.tiny))
    for value, wanted in zip(actual, expected):
        magnitude = max(abs(float(wanted)), float(info.tiny))
        ulp = 2.0 ** (math.floor(math.log2(magnitude)) - info.nmant)
        errors.append(float(max(abs(Decimal(float(value)) - wanted) - tiny, Decimal(0)) / Decimal(ulp)))
    return np.array(errors)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_accuracy(backend, dtype, name):
    z = points(name, dtype)
    actual = function_net(name, dtype, backend).forward(z[:, None])[:, 0]
    errors = errors_in_ulp(actual, exact_values(name, dtype), dtype)
    worst = int(np.argmax(errors))
    limit = LIMIT_IN_ULP.get(name, DEFAULT_LIMIT_IN_ULP)
    assert errors[worst] <= limit, f"{name}({z[worst]!r}) is off by {errors[worst]:.2f} units in the last place"


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_a_hidden_activation_is_the_same_function(backend, dtype, name):
    z = points(name, dtype)
    net = fastmlp.MLP([1, 1, 1], activation=name, dtype=dtype, backend=backend)
    net.weights[0][...] = net.weights[1][...] = 1.0
    expected = function_net(name, dtype, backend).forward(z[:, None])
    np.testing.assert_array_equal(net.forward(z[:, None]), expected)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_derivative(backend, dtype, name):
    z = points(name, dtype)
    z = z[np.abs(z) > 1e-30]
    net = fastmlp.MLP([1, 1, 1], activation=name, dtype=dtype, backend=backend)
    net.weights[0][...] = net.weights[1][...] = 1.0
    gradients = net.backward(z[:, None], np.ones((z.size, 1), dtype=dtype), input_gradient=True)
    expected = np.array([oracle.DERIVATIVES[name](float(value)) for value in z])
    errors = np.abs(gradients.input[:, 0].astype(np.float64) - expected)
    limit = 4 * np.finfo(dtype).eps * np.max(np.abs(expected))
    worst = int(np.argmax(errors))
    assert errors[worst] <= limit, f"{name}'({z[worst]!r}) is off by {errors[worst]:.3g}; allowed {limit:.3g}"


@pytest.mark.parametrize(
    "name, at_zero",
    [("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0), ("softplus", 0.5), ("gelu", 0.5), ("silu", 0.5)],
)
def test_derivative_at_zero(backend, dtype, name, at_zero):
    net = fastmlp.MLP([1, 1, 1], activation=name, dtype=dtype, backend=backend)
    net.weights[0][...] = net.weights[1][...] = 1.0
    one = np.ones((1, 1), dtype=dtype)
    actual = net.backward(0 * one, one, input_gradient=True).input[0, 0]
    # Where the function has a corner the choice is exact.
    slack = 4 * np.finfo(dtype).eps if name in ("softplus", "gelu", "silu") else 0.0
    assert abs(actual - np.dtype(dtype).type(at_zero)) <= slack


LIMITS = {  # at -infinity and at infinity
    "identity": (-np.inf, np.inf),
    "relu": (0.0, np.inf),
    "leaky_relu": (-np.inf, np.inf),
    "elu": (-1.0, np.inf),
    "softplus": (0.0, np.inf),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "gelu": (0.0, np.inf),
    "silu": (0.0, np.inf),
    "exp": (0.0, np.inf),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_far_arguments(backend, dtype, name):
    net = function_net(name, dtype, backend)
    at_minus_infinity, at_infinity = LIMITS[name]
    huge = 1e30
    # One row at a time and all together: a NaN must not reach its neighbours.
    z = np.array([[np.nan], [huge], [-huge], [0.25]], dtype=dtype)
    with np.errstate(all="ignore"):
        together = net.forward(z)
        np.testing.assert_array_equal(together, np.stack([net.forward(row) for row in z]))
    assert np.isnan(together[0, 0])
    unbounded = {np.inf: np.dtype(dtype).type(huge), -np.inf: z[2, 0]}
    if name == "exp":
        assert together[1, 0] == np.inf
    else:
        assert together[1, 0] == unbounded.get(at_infinity, at_infinity)
    if name == "leaky_relu":
        assert together[2, 0] == pytest.approx(-huge / 100, rel=1e-6)
    else:
        assert together[2, 0] == unbounded.get(at_minus_infinity, at_minus_infinity)
    assert_close(together[3], [float(exact(name, 0.25))], dtype)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinite_arguments(backend, dtype, name):
    net = function_net(name, dtype, backend)
    with np.errstate(all="ignore"):
        minus, plus = net.forward(np.array([[-np.inf], [np.inf]], dtype=dtype))[:, 0]
    assert (minus, plus) == LIMITS[name]


def test_relu_of_nan_is_nan_in_hidden_layers(backend, dtype):
    net = fastmlp.MLP([2, 20, 1], dtype=dtype, backend=backend, rng=0)
    X = np.array([[np.nan, 0.0], [1.0, 2.0]], dtype=dtype)
    y_hat = net.forward(X)
    assert np.isnan(y_hat[0, 0]) and np.isfinite(y_hat[1, 0])


def test_softmax_against_exact_values(backend, dtype):
    k = 21
    net = fastmlp.MLP([k, k], output_activation="softmax", dtype=dtype, backend=backend)
    net.weights[0][...] = np.eye(k)
    z = np.random.default_rng(0).normal(0.0, 5.0, (6, k)).astype(dtype)
    for row, actual in zip(z, net.forward(z)):
        with localcontext(prec=50):
            terms = [Decimal(float(value)).exp() for value in row]
            expected = [term / sum(terms) for term in terms]
        # exp of a difference of size d carries d/2 ulp of that difference's rounding.
        assert np.max(errors_in_ulp(actual, expected, dtype)) <= 2.5 + np.ptp(row)


def test_softmax_of_far_logits(backend, dtype):
    net = fastmlp.MLP([3, 3], output_activation="softmax", dtype=dtype, backend=backend)
    net.weights[0][...] = np.eye(3)
    z = np.array([[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30], [1000.0, 1000.0, 0.0]], dtype=dtype)
    expected = [[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]
    assert_close(net.forward(z), expected, dtype)
    with np.errstate(all="ignore"):
        y_hat = net.forward(np.array([[np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype))
    assert np.isnan(y_hat[0]).all()
    assert_close(y_hat[1], [1 / 3] * 3, dtype)
