"""oracle.py once more with NumPy's functions over whole arrays, fast enough for thousands of large cases.

Float64; it imports nothing of the package. test_fuzz_nets.py checks it against the loops of oracle.py. Slopes at
corners (relu, leaky_relu, mae) are taken from outputs that may be given: in float32 an output that lies next to a
corner falls to either side by rounding, which is no error.
"""

import numpy as np
from scipy import special


def sigmoid(z):
    return special.expit(z)


def normal_density(z):
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0.0),
    "leaky_relu": lambda z: np.where(z > 0.0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0.0, z, np.expm1(np.minimum(z, 0.0))),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "gelu": lambda z: z * special.ndtr(z),
    "silu": lambda z: z * sigmoid(z),
    "exp": np.exp,
    "softmax": lambda z: special.softmax(z, axis=1),
}

# Of z and of the output a, from whose sign the side of a corner is taken.
DERIVATIVES = {
    "identity": lambda z, a: np.ones_like(z),
    "relu": lambda z, a: np.where(a > 0.0, 1.0, 0.0),
    "leaky_relu": lambda z, a: np.where(a > 0.0, 1.0, 0.01),
    "elu": lambda z, a: np.exp(np.minimum(z, 0.0)),
    "softplus": lambda z, a: sigmoid(z),
    "sigmoid": lambda z, a: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z, a: 1.0 - np.tanh(z) ** 2,
    "gelu": lambda z, a: special.ndtr(z) + z * normal_density(z),
    "silu": lambda z, a: sigmoid(z) * (1.0 + z * sigmoid(-z)),
    "exp": lambda z, a: np.exp(z),
}


def trace(net, X, factors=None):
    """All z_l and outputs a_l of an oracle.Net, arrays (n, n_l); ``factors``: of dropout, an array or None a layer."""
    zs, outputs, a = [], [], np.asarray(X, dtype=np.float64)
    for layer in range(1, net.n_layers + 1):
        z = a @ net.weights[layer - 1].T + net.biases[layer - 1]
        a = ACTIVATIONS[net.activation_of(layer)](z)
        if factors is not None and layer < net.n_layers and factors[layer - 1] is not None:
            a = a * factors[layer - 1]
        zs.append(z)
        outputs.append(a)
    return zs, outputs


def local_losses(net, z, a, y):
    """One loss per example."""
    if net.loss == "cross_entropy":
        logarithms = special.logsumexp(z, axis=1)[:, None] - z
        if y.ndim == 1:
            return np.take_along_axis(logarithms, y[:, None].astype(np.int64), axis=1)[:, 0]
        return (np.where(y == 0.0, 0.0, logarithms) * y).sum(axis=1)
    if net.loss == "bce":
        values = np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))
    elif net.loss == "poisson":
        values = np.exp(z) - y * z
    else:
        d = a - y
        size = np.abs(d)
        values = {"mse": d * d, "mae": size, "huber": np.where(size <= 1.0, 0.5 * d * d, size - 0.5)}[net.loss]
    return values.mean(axis=1)


def logit_gradients(net, z, a, y, a_computed):
    """d local loss / d logits, a row per example."""
    if net.loss == "cross_entropy":
        targets = np.eye(z.shape[1])[y.astype(np.int64)] if y.ndim == 1 else y
        return special.softmax(z, axis=1) * targets.sum(axis=1, keepdims=True) - targets
    k = z.shape[1]
    if net.loss == "bce":
        return (sigmoid(z) - y) / k
    if net.loss == "poisson":
        return (np.exp(z) - y) / k
    d = a - y
    slope = {"mse": 2.0 * d, "mae": np.sign(a_computed - y), "huber": np.clip(d, -1.0, 1.0)}[net.loss]
    return slope * DERIVATIVES[net.output_activation](z, a_computed) / k


def penalty(net):
    return sum(net.l1 * np.abs(w).sum() + 0.5 * net.l2 * (w * w).sum() for w in net.weights)


def chain(net, X, zs, outputs, dz, factors, computed):
    """Gradients by weights, biases and X from dL/dz of the output layer."""
    d_weights, d_biases = [], []
    for layer in range(net.n_layers, 0, -1):
        below = outputs[layer - 2] if layer > 1 else np.asarray(X, dtype=np.float64)
        d_weights.insert(0, dz.T @ below)
        d_biases.insert(0, dz.sum(axis=0))
        dz = dz @ net.weights[layer - 1]
        if layer > 1:
            dz = dz * DERIVATIVES[net.activation_of(layer - 1)](zs[layer - 2], computed[layer - 2])
            if factors is not None and factors[layer - 2] is not None:
                dz = dz * factors[layer - 2]
    return d_weights, d_biases, dz


def loss_and_gradients(net, X, y, sample_weight=None, factors=None, computed=None, traced=None):
    """As oracle.loss_and_gradients; ``computed``: the layers' outputs that decide corners; ``traced``: from `trace`."""
    n = len(X)
    y = np.asarray(y, dtype=np.float64)
    if y.ndim == 1 and net.loss != "cross_entropy":
        y = y[:, None]
    zs, outputs = traced or trace(net, X, factors)
    computed = outputs if computed is None else [np.asarray(a, dtype=np.float64) for a in computed]
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    value = (weight * local_losses(net, zs[-1], outputs[-1], y)).sum() / n + penalty(net)
    dz = logit_gradients(net, zs[-1], outputs[-1], y, computed[-1]) * (weight / n)[:, None]
    d_weights, d_biases, dX = chain(net, X, zs, outputs, dz, factors, computed)
    for weights, gradient in zip(net.weights, d_weights):
        gradient += net.l2 * weights + net.l1 * np.sign(weights)
    return value, d_weights, d_biases, dX


def backward(net, X, dY, computed=None, traced=None):
    """As oracle.backward."""
    zs, outputs = traced or trace(net, X)
    computed = outputs if computed is None else [np.asarray(a, dtype=np.float64) for a in computed]
    a, dY = outputs[-1], np.asarray(dY, dtype=np.float64)
    if net.output_activation == "softmax":
        dz = a * (dY - (a * dY).sum(axis=1, keepdims=True))
    else:
        dz = dY * DERIVATIVES[net.output_activation](zs[-1], computed[-1])
    return chain(net, X, zs, outputs, dz, None, computed)


def philox_words(key, counter):
    """Philox4x32-10 of whole arrays of counters: four arrays of uint64 in, four out."""
    mask = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            second & mask,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            first & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def dropout_factors(net, seed, step, n_rows):
    """As oracle.dropout_factors."""
    factors = []
    for layer, rate in enumerate(net.dropout or (0.0,) * (net.n_layers - 1), start=1):
        if not rate:
            factors.append(None)
            continue
        n_units = net.layer_sizes[layer]
        counters, rows = np.meshgrid(np.arange(-(-n_units // 8)), np.arange(n_rows))
        layers, steps = np.full(rows.shape, layer), np.full(rows.shape, step % 2**32)
        words = np.stack(philox_words((seed % 2**32, seed // 2**32), (counters, rows, layers, steps)), axis=2)
        bits = words.astype("<u4").view("<u2")
        kept = bits.reshape(n_rows, -1)[:, :n_units] >= min(round(rate * 2**16), 2**16 - 1)
        factors.append(np.where(kept, 1.0 / (1.0 - rate), 0.0))
    return factors
