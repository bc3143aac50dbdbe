"""One example after another in NumPy, as the formulas are written on a blackboard: what batching is compared with."""

import numpy as np

import fastmlp
from fastmlp._bench._handwritten import ACTIVATIONS, sigmoid


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


OUTPUTS = {"sigmoid": sigmoid, "softmax": softmax, "identity": lambda z: z}


class PerDatumNet:
    """The same net with the same parameters, given one example x (n_0,) at a time."""

    def __init__(self, net: fastmlp.MLP) -> None:
        self.weights = [np.ascontiguousarray(W) for W in net.weights]
        self.biases = [b.copy() for b in net.biases]
        self.f, self.derivative = ACTIVATIONS[net.activations[0]]
        self.output = OUTPUTS[net.output_activation]
        self.takes_classes = net.output_activation == "softmax"
        self.factor = 2.0 if net.loss_name == "mse" else 1.0

    def layer_outputs(self, x: np.ndarray) -> list[np.ndarray]:
        outputs = [x]
        for W, b in zip(self.weights[:-1], self.biases[:-1]):
            outputs.append(self.f(W @ outputs[-1] + b))
        outputs.append(self.output(self.weights[-1] @ outputs[-1] + self.biases[-1]))
        return outputs

    def forward(self, X: np.ndarray) -> np.ndarray:
        """y_hat (n, n_L) of X (n, n_0)."""
        return np.array([self.layer_outputs(x)[-1] for x in X])

    def output_delta(self, y_hat: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The gradient of one example's loss by the last layer's z: the same form for all three losses."""
        if self.takes_classes:
            delta = y_hat.copy()
            delta[y] -= 1.0
            return delta
        return (y_hat - y) * y_hat.dtype.type(self.factor / len(y_hat))

    def gradients(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The gradient of the mean loss, flat: layer by layer W_l row-major, then b_l."""
        dW = [np.zeros_like(W) for W in self.weights]
        db = [np.zeros_like(b) for b in self.biases]
        for x, target in zip(X, y):
            outputs = self.layer_outputs(x)
            delta = self.output_delta(outputs[-1], target)
            for layer in reversed(range(len(dW))):
                dW[layer] += np.outer(delta, outputs[layer])
                db[layer] += delta
                if layer:
                    delta = (self.weights[layer].T @ delta) * self.derivative(outputs[layer])
        return np.concatenate([g.ravel() for pair in zip(dW, db) for g in pair]) / len(X)
