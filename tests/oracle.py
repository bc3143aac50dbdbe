"""An independent float64 oracle: what a multi-layer perceptron computes, in plain loops over Python floats.

It imports nothing of the package. The functions named ``fast_*`` are the same with matrix products, for
larger cases; they share the scalar formulas and are themselves tested against the loops.
"""

import math
from dataclasses import dataclass, field

import numpy as np

INFINITY = float("inf")


@dataclass
class Net:
    """A net in float64: sizes, names and parameters, W_l of shape (n_l, n_{l-1})."""

    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    output_activation: str
    loss: str
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    l1: float = 0.0
    l2: float = 0.0
    dropout: tuple[float, ...] = field(default=())

    @property
    def n_layers(self):
        return len(self.layer_sizes) - 1

    def activation_of(self, layer):
        """The name of the activation of ``layer``, counted from 1."""
        return self.output_activation if layer == self.n_layers else self.activations[layer - 1]


# Scalar functions. ---------------------------------------------------------------------------------------


def exp(z):
    try:
        return math.exp(z)
    except OverflowError:
        return INFINITY


def sigmoid(z):
    if z >= 0.0:
        return 1.0 / (1.0 + exp(-z))
    e = exp(z)
    return e / (1.0 + e)


def softplus(z):
    return max(z, 0.0) + math.log1p(exp(-abs(z)))


def normal_cdf(z):
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def normal_density(z):
    return exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: 0.0 if z <= 0.0 else z,
    "leaky_relu": lambda z: 0.01 * z if z <= 0.0 else z,
    "elu": lambda z: math.expm1(z) if z <= 0.0 else z,
    "softplus": lambda z: softplus(z) if z == z else z,
    "sigmoid": lambda z: sigmoid(z),
    "tanh": lambda z: math.tanh(z),
    "gelu": lambda z: z * normal_cdf(z),
    "silu": lambda z: z * sigmoid(z),
    "exp": lambda z: exp(z),
}

DERIVATIVES = {
    "identity": lambda z: 1.0,
    "relu": lambda z: 1.0 if z > 0.0 else 0.0,
    "leaky_relu": lambda z: 1.0 if z > 0.0 else 0.01,
    "elu": lambda z: 1.0 if z > 0.0 else exp(z),
    "softplus": lambda z: sigmoid(z),
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: 1.0 / math.cosh(z) ** 2 if abs(z) < 300.0 else 0.0,
    "gelu": lambda z: normal_cdf(z) + z * normal_density(z),
    "silu": lambda z: sigmoid(z) * (1.0 + z * sigmoid(-z)),
    "exp": lambda z: exp(z),
}

# At a kink 0, as in PyTorch.
SECOND_DERIVATIVES = {
    "identity": lambda z: 0.0,
    "relu": lambda z: 0.0,
    "leaky_relu": lambda z: 0.0,
    "elu": lambda z: exp(z) if z < 0.0 else 0.0,
    "softplus": lambda z: sigmoid(z) * sigmoid(-z),
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z) * (sigmoid(-z) - sigmoid(z)),
    "tanh": lambda z: -2.0 * math.tanh(z) * DERIVATIVES["tanh"](z),
    "gelu": lambda z: (2.0 - z * z) * normal_density(z),
    "silu": lambda z: sigmoid(z) * sigmoid(-z) * (2.0 + z * (sigmoid(-z) - sigmoid(z))),
    "exp": lambda z: exp(z),
}


def log_sum_exp(row):
    top = max(row)
    return top + math.log(sum(exp(z - top) for z in row))


def softmax(row):
    top = max(row)
    terms = [exp(z - top) for z in row]
    return [term / sum(terms) for term in terms]


# Losses of one example. ----------------------------------------------------------------------------------


def local_loss(loss, logits, outputs, y):
    """The loss of one example; ``y`` is a class index, or a row of targets."""
    k = len(logits)
    if loss == "cross_entropy":
        log_total = log_sum_exp(logits)
        if np.ndim(y) == 0:
            return log_total - logits[int(y)]
        return sum(y[j] * (log_total - logits[j]) for j in range(k) if y[j] != 0.0)
    total = 0.0
    for j in range(k):
        difference = outputs[j] - y[j]
        if loss == "mse":
            total += difference * difference
        elif loss == "mae":
            total += abs(difference)
        elif loss == "huber":
            total += 0.5 * difference * difference if abs(difference) <= 1.0 else abs(difference) - 0.5
        elif loss == "bce":
            total += max(logits[j], 0.0) - logits[j] * y[j] + math.log1p(exp(-abs(logits[j])))
        elif loss == "poisson":
            total += exp(logits[j]) - y[j] * logits[j]
        else:
            raise KeyError(loss)
    return total / k


def logit_gradient(loss, output_activation, logits, outputs, y):
    """d local loss / d logits of one example."""
    k = len(logits)
    if loss == "cross_entropy":
        probabilities = softmax(logits)
        targets = [float(j == int(y)) for j in range(k)] if np.ndim(y) == 0 else list(y)
        return [probabilities[j] * sum(targets) - targets[j] for j in range(k)]
    result = []
    for j in range(k):
        difference = outputs[j] - y[j]
        if loss == "bce":
            slope = sigmoid(logits[j]) - y[j]
        elif loss == "poisson":
            slope = exp(logits[j]) - y[j]
        else:
            if loss == "mse":
                slope = 2.0 * difference
            elif loss == "mae":
                slope = float(difference > 0.0) - float(difference < 0.0)
            else:
                slope = min(max(difference, -1.0), 1.0)
            slope *= DERIVATIVES[output_activation](logits[j])
        result.append(slope / k)
    return result


def output_gradient_to_logits(output_activation, logits, outputs, dY):
    """dL/dz of the output layer from dL/dy_hat, one example."""
    k = len(logits)
    if output_activation == "softmax":
        inner = sum(dY[j] * outputs[j] for j in range(k))
        return [outputs[j] * (dY[j] - inner) for j in range(k)]
    return [dY[j] * DERIVATIVES[output_activation](logits[j]) for j in range(k)]


def penalty(net):
    total = 0.0
    for weights in net.weights:
        for w in weights.ravel():
            total += net.l1 * abs(float(w)) + 0.5 * net.l2 * float(w) ** 2
    return total


# Dropout: Philox4x32-10 (Salmon et al., 2011). -----------------------------------------------------------


def philox4x32(counter, key):
    """Ten rounds; ``counter`` of four words, ``key`` of two. Returns four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def dropout_factor(seed, step, layer, n_rows, n_units, rate):
    """(n_rows, n_units): 0 where a unit is dropped, 1/(1 - rate) where it is kept. Each unit has 16 bits, a counter
    8 units, the lower half of a word before the upper."""
    threshold = min(round(rate * 2**16), 2**16 - 1)
    key = (seed % 2**32, seed // 2**32)
    factor = np.zeros((n_rows, n_units))
    for row in range(n_rows):
        for counter in range(math.ceil(n_units / 8)):
            words = philox4x32((counter, row, layer, step % 2**32), key)
            bits = [half for word in words for half in (word % 2**16, word // 2**16)]
            for unit in range(8 * counter, min(8 * counter + 8, n_units)):
                if bits[unit - 8 * counter] >= threshold:
                    factor[row, unit] = 1.0 / (1.0 - rate)
    return factor


def dropout_factors(net, seed, step, n_rows):
    """One array per hidden layer, None where nothing is dropped."""
    rates = net.dropout or (0.0,) * (net.n_layers - 1)
    return [
        dropout_factor(seed, step, layer, n_rows, net.layer_sizes[layer], rate) if rate else None
        for layer, rate in enumerate(rates, start=1)
    ]


# The net in loops. ---------------------------------------------------------------------------------------


def trace_one(net, x, factors=None, row=0):
    """All (z_l, a_l) of one example, lists over layers 1 ... n; ``factors`` as from dropout_factors."""
    zs, outputs = [], []
    a = [float(value) for value in x]
    for layer in range(1, net.n_layers + 1):
        weights, bias = net.weights[layer - 1].tolist(), net.biases[layer - 1].tolist()
        z = []
        for unit in range(net.layer_sizes[layer]):
            total = bias[unit]
            for w, value in zip(weights[unit], a):
                total += w * value
            z.append(total)
        name = net.activation_of(layer)
        a = softmax(z) if name == "softmax" else [ACTIVATIONS[name](value) for value in z]
        if factors is not None and layer < net.n_layers and factors[layer - 1] is not None:
            a = [value * float(factors[layer - 1][row, unit]) for unit, value in enumerate(a)]
        zs.append(z)
        outputs.append(a)
    return zs, outputs


def layer_outputs(net, X):
    """One array (n, n_l) per layer."""
    per_example = [trace_one(net, x)[1] for x in X]
    return [np.array([outputs[layer] for outputs in per_example]) for layer in range(net.n_layers)]


def forward(net, X):
    return layer_outputs(net, X)[-1]


def logits(net, X):
    return np.array([trace_one(net, x)[0][-1] for x in X])


def backward_one(net, x, zs, outputs, dz, factors, row, gradients):
    """Add the gradients of one example to ``gradients``, two lists of arrays; returns dL/dx."""
    d_weights, d_biases = gradients
    for layer in range(net.n_layers, 0, -1):
        below = outputs[layer - 2] if layer > 1 else [float(value) for value in x]
        for unit, slope in enumerate(dz):
            d_biases[layer - 1][unit] += slope
            for i, value in enumerate(below):
                d_weights[layer - 1][unit, i] += slope * value
        da = [
            sum(slope * float(net.weights[layer - 1][unit, i]) for unit, slope in enumerate(dz))
            for i in range(len(below))
        ]
        if layer == 1:
            return da
        derivative = DERIVATIVES[net.activation_of(layer - 1)]
        dz = [da[i] * derivative(zs[layer - 2][i]) for i in range(len(below))]
        if factors is not None and factors[layer - 2] is not None:
            dz = [value * float(factors[layer - 2][row, i]) for i, value in enumerate(dz)]
    raise AssertionError("a net has at least one layer")


def zero_gradients(net):
    return [np.zeros(w.shape) for w in net.weights], [np.zeros(b.shape) for b in net.biases]


def add_penalty_gradient(net, d_weights, scale=1.0):
    for weights, gradient in zip(net.weights, d_weights):
        gradient += scale * (net.l2 * weights + net.l1 * np.sign(weights))


def loss(net, X, y, sample_weight=None):
    total = 0.0
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        weight = 1.0 if sample_weight is None else float(sample_weight[row])
        total += weight * local_loss(net.loss, zs[-1], outputs[-1], y[row])
    return total / len(X) + penalty(net)


def loss_and_gradients(net, X, y, sample_weight=None, factors=None):
    """The loss, its gradients by weights and by biases, and by X (the last without the penalty)."""
    gradients = zero_gradients(net)
    total, n = 0.0, len(X)
    dX = np.zeros((n, net.layer_sizes[0]))
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x, factors, row)
        weight = 1.0 if sample_weight is None else float(sample_weight[row])
        total += weight * local_loss(net.loss, zs[-1], outputs[-1], y[row])
        dz = logit_gradient(net.loss, net.output_activation, zs[-1], outputs[-1], y[row])
        dz = [weight / n * value for value in dz]
        dX[row] = backward_one(net, x, zs, outputs, dz, factors, row, gradients)
    add_penalty_gradient(net, gradients[0])
    return total / n + penalty(net), gradients[0], gradients[1], dX


def backward(net, X, dY):
    """Gradients by weights, biases and X of a loss with the gradient ``dY`` at the output."""
    gradients = zero_gradients(net)
    dX = np.zeros((len(X), net.layer_sizes[0]))
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        dz = output_gradient_to_logits(net.output_activation, zs[-1], outputs[-1], dY[row])
        dX[row] = backward_one(net, x, zs, outputs, dz, None, row, gradients)
    return gradients[0], gradients[1], dX


# Further derivatives. ------------------------------------------------------------------------------------


def jacobian(net, X):
    """d y_hat_k / d x_j of each example, (n, n_L, n_0): one way back for each output."""
    n_outputs = net.layer_sizes[-1]
    result = np.zeros((len(X), n_outputs, net.layer_sizes[0]))
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        for k in range(n_outputs):
            dY = [float(j == k) for j in range(n_outputs)]
            dz = output_gradient_to_logits(net.output_activation, zs[-1], outputs[-1], dY)
            result[row, k] = backward_one(net, x, zs, outputs, dz, None, row, zero_gradients(net))
    return result


def jvp(net, X, T):
    """d y_hat along T of each example, (n, n_L): one way forward."""
    result = np.zeros((len(X), net.layer_sizes[-1]))
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        tangent = [float(value) for value in T[row]]
        for layer in range(1, net.n_layers + 1):
            weights, name = net.weights[layer - 1].tolist(), net.activation_of(layer)
            tangent = [sum(w * t for w, t in zip(unit, tangent)) for unit in weights]
            if name == "softmax":
                inner = sum(p * t for p, t in zip(outputs[-1], tangent))
                tangent = [p * (t - inner) for p, t in zip(outputs[-1], tangent)]
            else:
                tangent = [DERIVATIVES[name](z) * t for z, t in zip(zs[layer - 1], tangent)]
        result[row] = tangent
    return result


def gradients_per_example(net, X, y, sample_weight=None):
    """The gradient of each weighted local loss, no penalty: pairs of lists over layers, one for each example."""
    result = []
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        weight = 1.0 if sample_weight is None else float(sample_weight[row])
        dz = logit_gradient(net.loss, net.output_activation, zs[-1], outputs[-1], y[row])
        result.append(zero_gradients(net))
        backward_one(net, x, zs, outputs, [weight * value for value in dz], None, row, result[-1])
    return result


def logit_gradient_tangent(loss, output_activation, logits, outputs, y, tangent):
    """The derivative of logit_gradient along a tangent of the logits."""
    k = len(logits)
    if loss == "cross_entropy":
        p = softmax(logits)
        total = 1.0 if np.ndim(y) == 0 else sum(y)
        inner = sum(p[j] * tangent[j] for j in range(k))
        return [total * p[j] * (tangent[j] - inner) for j in range(k)]
    result = []
    for j in range(k):
        difference = outputs[j] - y[j]
        if loss == "bce":
            curvature = DERIVATIVES["sigmoid"](logits[j])
        elif loss == "poisson":
            curvature = exp(logits[j])
        else:
            if loss == "mse":
                first, second = 2.0 * difference, 2.0
            elif loss == "mae":
                first, second = float(difference > 0.0) - float(difference < 0.0), 0.0
            else:
                first, second = min(max(difference, -1.0), 1.0), float(abs(difference) < 1.0)
            slope = DERIVATIVES[output_activation](logits[j])
            curvature = second * slope**2 + first * SECOND_DERIVATIVES[output_activation](logits[j])
        result.append(curvature * tangent[j] / k)
    return result


def hvp(net, X, y, v_weights, v_biases, sample_weight=None):
    """The derivatives of the gradients by weights and by biases along a direction of the parameters."""
    h_weights, h_biases = zero_gradients(net)
    n = len(X)
    for row, x in enumerate(X):
        zs, outputs = trace_one(net, x)
        below = [np.array(x, dtype=np.float64), *map(np.array, outputs[:-1])]
        below_tangents, z_tangents = [np.zeros(len(x))], []
        for layer in range(1, net.n_layers + 1):
            z_tangents.append(
                v_weights[layer - 1] @ below[layer - 1]
                + v_biases[layer - 1]
                + net.weights[layer - 1] @ below_tangents[layer - 1]
            )
            if layer < net.n_layers:
                slope = elementwise(DERIVATIVES[net.activation_of(layer)], np.array(zs[layer - 1]))
                below_tangents.append(slope * z_tangents[-1])
        weight = (1.0 if sample_weight is None else float(sample_weight[row])) / n
        end = (net.loss, net.output_activation, zs[-1], outputs[-1], y[row])
        dz = weight * np.array(logit_gradient(*end))
        dz_tangent = weight * np.array(logit_gradient_tangent(*end, z_tangents[-1]))
        for layer in range(net.n_layers, 0, -1):
            h_weights[layer - 1] += np.outer(dz_tangent, below[layer - 1]) + np.outer(dz, below_tangents[layer - 1])
            h_biases[layer - 1] += dz_tangent
            if layer == 1:
                break
            da = dz @ net.weights[layer - 1]
            da_tangent = dz_tangent @ net.weights[layer - 1] + dz @ v_weights[layer - 1]
            name, z = net.activation_of(layer - 1), np.array(zs[layer - 2])
            slope, bend = elementwise(DERIVATIVES[name], z), elementwise(SECOND_DERIVATIVES[name], z)
            dz_tangent = da_tangent * slope + da * bend * z_tangents[layer - 2]
            dz = da * slope
    for result, v in zip(h_weights, v_weights):
        result += net.l2 * v
    return h_weights, h_biases


# The same with matrix products. --------------------------------------------------------------------------


def elementwise(function, z):
    return np.vectorize(function, otypes=[np.float64])(z) if z.size else z.astype(np.float64)


def fast_trace(net, X, factors=None):
    zs, outputs = [], []
    a = np.asarray(X, dtype=np.float64)
    for layer in range(1, net.n_layers + 1):
        z = a @ net.weights[layer - 1].T + net.biases[layer - 1]
        name = net.activation_of(layer)
        if name == "softmax":
            a = np.exp(z - z.max(axis=1, keepdims=True))
            a /= a.sum(axis=1, keepdims=True)
        else:
            a = elementwise(ACTIVATIONS[name], z)
        if factors is not None and layer < net.n_layers and factors[layer - 1] is not None:
            a = a * factors[layer - 1]
        zs.append(z)
        outputs.append(a)
    return zs, outputs


def fast_forward(net, X):
    return fast_trace(net, X)[1][-1]


def fast_loss_and_gradients(net, X, y, sample_weight=None, factors=None):
    X = np.asarray(X, dtype=np.float64)
    n = len(X)
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    zs, outputs = fast_trace(net, X, factors)
    z, a = zs[-1].tolist(), outputs[-1].tolist()
    total = sum(weight[i] * local_loss(net.loss, z[i], a[i], y[i]) for i in range(n))
    dz = np.array([logit_gradient(net.loss, net.output_activation, z[i], a[i], y[i]) for i in range(n)])
    dz *= weight[:, None] / n
    d_weights, d_biases = [], []
    for layer in range(net.n_layers, 0, -1):
        below = outputs[layer - 2] if layer > 1 else X
        d_weights.insert(0, dz.T @ below)
        d_biases.insert(0, dz.sum(axis=0))
        dz = dz @ net.weights[layer - 1]
        if layer > 1:
            dz = dz * elementwise(DERIVATIVES[net.activation_of(layer - 1)], zs[layer - 2])
            if factors is not None and factors[layer - 2] is not None:
                dz = dz * factors[layer - 2]
    add_penalty_gradient(net, d_weights)
    return total / n + penalty(net), d_weights, d_biases, dz
