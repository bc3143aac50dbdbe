"""A net as it is written by hand in NumPy: matrix products over the whole batch, and plain gradient descent."""

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from fastmlp._bench._workload import Array, Workload


def sigmoid(z: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


# name: (f(z), f'(z) by way of a = f(z))
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (sigmoid, lambda a: a * (1.0 - a)),
    "tanh": (np.tanh, lambda a: 1.0 - a * a),
    "relu": (lambda z: np.maximum(z, 0.0), lambda a: a > 0.0),
}


def cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
    """The mean loss of logits z (n, k) and classes y (n,), and its gradient by z."""
    rows = np.arange(len(z))
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    sums = p.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - z[rows, y]))
    p /= sums
    p[rows, y] -= 1.0
    p /= len(z)
    return loss, p


def binary_cross_entropy(z: Array, y: Array) -> tuple[float, Array]:
    """The mean loss of logits z and targets y, both (n, k), and its gradient by z."""
    return float(np.mean(np.logaddexp(0.0, z) - y * z)), (sigmoid(z) - y) / z.dtype.type(z.size)


LOSSES = {"softmax": cross_entropy, "sigmoid": binary_cross_entropy}


class HandwrittenNet:
    """The net of a workload with a softmax or sigmoid output; in float64 it tells what the others should compute."""

    def __init__(self, workload: Workload, learning_rate: float, dtype: DTypeLike | None = None) -> None:
        dtype = workload.dtype if dtype is None else dtype
        self.parameters = [(W.astype(dtype), b.astype(dtype)) for W, b in workload.parameters()]
        self.activation, self.derivative = ACTIVATIONS[workload.activation]
        self.loss = LOSSES[workload.output_activation]
        self.learning_rate = learning_rate

    def layer_inputs(self, X: Array) -> list[Array]:
        """What goes into each layer, X first; the logits come last."""
        inputs = [X]
        for W, b in self.parameters:
            if len(inputs) > 1:
                inputs[-1] = self.activation(inputs[-1])
            z = inputs[-1] @ W.T
            z += b
            inputs.append(z)
        return inputs

    def logits(self, X: Array) -> Array:
        return self.layer_inputs(X)[-1]

    def step(self, X: Array, y: Array) -> float:
        """One step of gradient descent; returns the loss before it."""
        *inputs, z = self.layer_inputs(X)
        loss, dz = self.loss(z, y)
        for layer in reversed(range(len(inputs))):
            (W, b), a = self.parameters[layer], inputs[layer]
            dW, db = dz.T @ a, dz.sum(axis=0)
            if layer:
                dz = (dz @ W) * self.derivative(a)
            W -= self.learning_rate * dW
            b -= self.learning_rate * db
        return loss

    def epoch(self, X: Array, y: Array, batch_size: int, rng: np.random.Generator) -> None:
        """One pass over the examples in random order."""
        order = rng.permutation(len(X))
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            self.step(X[batch], y[batch])
