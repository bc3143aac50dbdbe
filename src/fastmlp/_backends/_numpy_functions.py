"""The formulas of the numpy backend: activations, their derivatives, local losses and updates, on whole arrays."""

# NumPy's stubs type what ufuncs return as Any.
# mypy: disable-error-code="no-any-return"

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial.chebyshev import chebval

from fastmlp._activations import LEAKY_RELU_SLOPE
from fastmlp._update import BETA1, BETA1_POWER, BETA2, BETA2_POWER, UPDATE_CODES, WEIGHT_DECAY, Update

# (1 + t) M(t), M = (1 - Phi) / phi being Mills' ratio, is smooth on [0, inf]: a Chebyshev series in
# (t - 5) / (t + 5), fitted with 50 digits, leaves 2e-17 after 24 terms (M. M. Shepherd and J. G. Laframboise,
# "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x", 1981, have the idea).
MILLS_CENTRE = 5.0
MILLS_SERIES = (
    1.1579976221305188,
    -0.1633449388451398,
    -0.013683136055781576,
    0.03082200019810004,
    -0.016220073012046806,
    0.005616691016460094,
    -0.0014133933783549216,
    0.0002502625460725661,
    -2.468907239728387e-05,
    -1.0107964061837592e-06,
    7.495419179740573e-07,
    -7.600274268728337e-08,
    -1.1574771441328644e-08,
    3.333386472599843e-09,
    7.538039628171347e-11,
    -1.1104247263727494e-10,
    3.509243776551059e-12,
    3.6894953861750955e-12,
    -2.3376697776383095e-13,
    -1.3271797523541405e-13,
    9.921706995888276e-15,
    5.276004995455379e-15,
    -3.373097694187922e-16,
    -2.2804338776379946e-16,
)
# Beyond this |z|, Phi and the sigmoid are 0 or 1 in float64; clipping there keeps inf * 0 out of z * Phi(z).
SATURATED = 1e4


def normal_density(z: np.ndarray) -> np.ndarray:
    """phi(z) of the standard normal distribution, in float64."""
    z = np.clip(np.asarray(z, dtype=np.float64), -SATURATED, SATURATED)
    # The square of a multiple of 1/16 is exact, so the exponential does not magnify a rounding error of z * z.
    coarse = np.rint(z * 16.0) / 16.0
    return np.exp(-0.5 * coarse * coarse) * np.exp(-0.5 * (z - coarse) * (z + coarse)) / math.sqrt(2.0 * math.pi)


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Phi(z) of the standard normal distribution, in float64, with a small relative error in the lower tail too."""
    z = np.asarray(z, dtype=np.float64)
    distance = np.minimum(np.abs(z), SATURATED)
    mills = chebval((distance - MILLS_CENTRE) / (distance + MILLS_CENTRE), MILLS_SERIES) / (1.0 + distance)
    tail = normal_density(distance) * mills
    return np.where(z > 0.0, 1.0 - tail, tail)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def softplus(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(z, z.dtype.type(0.0))


def gelu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, -SATURATED) * normal_cdf(z).astype(z.dtype)


def silu(z: np.ndarray) -> np.ndarray:
    # In float64: in float32 exp(-z) overflows where z * sigmoid(z) is still a normal number.
    return (np.maximum(z, -SATURATED) * sigmoid(z.astype(np.float64))).astype(z.dtype)


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def gelu_derivative(z: np.ndarray, a: np.ndarray) -> np.ndarray:
    return (normal_cdf(z) + np.clip(z, -SATURATED, SATURATED) * normal_density(z)).astype(z.dtype)


def silu_derivative(z: np.ndarray, a: np.ndarray) -> np.ndarray:
    # sigmoid(-z) and not 1 - sigmoid(z), whose rounding error z would multiply.
    wide = np.clip(z, -SATURATED, SATURATED).astype(np.float64)
    return (sigmoid(wide) * (1.0 + wide * sigmoid(-wide))).astype(z.dtype)


Function = Callable[[np.ndarray], np.ndarray]
ACTIVATIONS: dict[str, Function] = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0.0),
    "leaky_relu": lambda z: np.where(z > 0.0, z, LEAKY_RELU_SLOPE * z),
    "elu": lambda z: np.where(z > 0.0, z, np.expm1(np.minimum(z, 0.0))),
    "softplus": softplus,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "gelu": gelu,
    "silu": silu,
    "exp": np.exp,
    "softmax": softmax,
}

# d output / d input from the input z and the output a. Softmax has none: its outputs depend on all inputs.
Derivative = Callable[[np.ndarray, np.ndarray], np.ndarray]
DERIVATIVES: dict[str, Derivative] = {
    "identity": lambda z, a: np.ones_like(z),
    "relu": lambda z, a: (a > 0.0).astype(z.dtype),
    "leaky_relu": lambda z, a: np.where(a > 0.0, 1.0, LEAKY_RELU_SLOPE).astype(z.dtype),
    "elu": lambda z, a: np.where(a > 0.0, z.dtype.type(1.0), a + 1.0),
    "softplus": lambda z, a: sigmoid(z),
    "sigmoid": lambda z, a: a * (1.0 - a),
    "tanh": lambda z, a: 1.0 - a * a,
    "gelu": gelu_derivative,
    "silu": silu_derivative,
    "exp": lambda z, a: a,
}


def silu_second_derivative(z: np.ndarray, a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    wide = np.clip(z, -SATURATED, SATURATED).astype(np.float64)
    s, rest = sigmoid(wide), sigmoid(-wide)
    return (s * rest * (2.0 + wide * (rest - s))).astype(z.dtype)


def gelu_second_derivative(z: np.ndarray, a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    wide = np.clip(z, -SATURATED, SATURATED).astype(np.float64)
    return (normal_density(wide) * (2.0 - wide * wide)).astype(z.dtype)


# d slope / d input from the input z, the output a and the slope f'(z); at a kink it is 0.
SecondDerivative = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
SECOND_DERIVATIVES: dict[str, SecondDerivative] = {
    "identity": lambda z, a, slope: np.zeros_like(z),
    "relu": lambda z, a, slope: np.zeros_like(z),
    "leaky_relu": lambda z, a, slope: np.zeros_like(z),
    "elu": lambda z, a, slope: np.where(a < 0.0, slope, z.dtype.type(0.0)),
    "softplus": lambda z, a, slope: slope * (1.0 - slope),
    "sigmoid": lambda z, a, slope: slope * (1.0 - 2.0 * a),
    "tanh": lambda z, a, slope: -2.0 * a * slope,
    "gelu": gelu_second_derivative,
    "silu": silu_second_derivative,
    "exp": lambda z, a, slope: a,
}


def huber_term(d: np.ndarray) -> np.ndarray:
    size = np.abs(d)
    return np.where(size <= 1.0, 0.5 * d * d, size - 0.5)


REGRESSION_TERMS: dict[str, Function] = {"mse": np.square, "mae": np.abs, "huber": huber_term}


def cross_entropy(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-sum_k y_k log p_k for each row, from logits; ``y`` holds class indices (n,) or probabilities (n, k)."""
    z = z - z.max(axis=1, keepdims=True)  # added to the logarithm, the largest would round away what matters
    log_sum = np.log(np.exp(z).sum(axis=1, keepdims=True))
    if y.ndim == 1:
        return log_sum[:, 0] - z[np.arange(len(y)), y]
    return np.where(y == 0.0, 0.0, y * (log_sum - z)).sum(axis=1)


def local_losses(loss: str, output_activation: str, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each example, (n,) in float64, from the logits ``z`` (n, k) and the targets."""
    z = z.astype(np.float64)
    if loss == "cross_entropy":
        return cross_entropy(z, y)
    if loss == "bce":
        terms = np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))
    elif loss == "poisson":
        terms = np.exp(z) - y * z
    else:
        d = ACTIVATIONS[output_activation](z) - y
        terms = REGRESSION_TERMS[loss](d)
    return terms.mean(axis=1)


def loss_gradient(loss: str, output_activation: str, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d local loss / d logits, (n, k), without the factor that ``gradient_factor`` gives."""
    a = ACTIVATIONS[output_activation](z)
    if loss == "cross_entropy":
        if y.ndim == 2:
            return a * y.sum(axis=1, keepdims=True) - y
        a[np.arange(len(y)), y] -= 1.0
        return a
    if loss in ("bce", "poisson"):
        return a - y
    d = a - y
    if loss == "mae":
        d = np.sign(d)
    elif loss == "huber":
        d = np.clip(d, -1.0, 1.0)
    return d * DERIVATIVES[output_activation](z, a)


def loss_gradient_tangent(loss: str, output_activation: str, z: np.ndarray, y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The derivative of ``loss_gradient`` along the tangents ``t`` of the logits, (n, k)."""
    a = ACTIVATIONS[output_activation](z)
    if loss == "cross_entropy":
        total = y.sum(axis=1, keepdims=True) if y.ndim == 2 else 1.0
        return total * a * (t - (a * t).sum(axis=1, keepdims=True))
    slope = DERIVATIVES[output_activation](z, a)
    if loss in ("bce", "poisson"):
        return slope * t
    d = a - y
    curvature: np.ndarray | float = 1.0
    if loss == "mae":
        d, curvature = np.sign(d), 0.0
    elif loss == "huber":
        d, curvature = np.clip(d, -1.0, 1.0), (np.abs(d) < 1.0).astype(z.dtype)
    return (curvature * slope * slope + d * SECOND_DERIVATIVES[output_activation](z, a, slope)) * t


def gradient_factor(loss: str, n_outputs: int) -> float:
    """What ``loss_gradient`` leaves out."""
    return {"cross_entropy": 1.0, "mse": 2.0 / n_outputs}.get(loss, 1.0 / n_outputs)


def output_gradient(output_activation: str, z: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """d loss / d logits from d loss / d outputs, (n, k) both."""
    a = ACTIVATIONS[output_activation](z)
    if output_activation == "softmax":
        return a * (dy - (a * dy).sum(axis=1, keepdims=True))
    return dy * DERIVATIVES[output_activation](z, a)


NAME_OF_UPDATE = {code: name for name, code in UPDATE_CODES.items()}


def update_layer(
    p: np.ndarray, g: np.ndarray, v: np.ndarray, s: np.ndarray, update: Update, lr: float, eps: float
) -> None:
    """One update of a layer's matrix ``p`` in place; ``v`` and ``s`` are its first and second state.

    The formulas are PyTorch's. Adam's powers must have been advanced already.
    """
    kind = NAME_OF_UPDATE[update.code]
    beta1, beta2 = float(update.scalars[BETA1]), float(update.scalars[BETA2])
    if kind == "sgd":
        p -= lr * g
    elif kind in ("momentum", "nesterov"):
        v[...] = beta1 * v + g
        p -= lr * (g + beta1 * v if kind == "nesterov" else v)
    elif kind == "rmsprop":
        s[...] = beta2 * s + (1.0 - beta2) * (g * g)
        p -= lr * (g / (np.sqrt(s) + eps))
    else:
        p[:-1] -= lr * float(update.scalars[WEIGHT_DECAY]) * p[:-1]
        v += (1.0 - beta1) * (g - v)
        s[...] = beta2 * s + (1.0 - beta2) * (g * g)
        correction2 = math.sqrt(1.0 - update.scalars[BETA2_POWER])
        rate = lr * correction2 / (1.0 - update.scalars[BETA1_POWER])
        p -= float(rate) * (v / (np.sqrt(s) + eps * correction2))
