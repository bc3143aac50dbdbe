"""The first parameters, drawn as scikit-learn draws them, so that the same seed starts from the same network."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def draw_parameters(
    layer_sizes: Sequence[int], activations: Sequence[str], rng: np.random.RandomState, dtype: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights (n_in, n_out) and biases (n_out,) of each layer, uniform within Glorot's bound.

    The bound is sqrt(6 / (n_in + n_out)), and sqrt(2 / (n_in + n_out)) with sigmoids (X. Glorot and Y. Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010). The last layer goes by the
    activation of the hidden layer before it; without hidden layers, by the one that they would have had, which is then
    the only one given.
    """
    weights, biases = [], []
    names = [*activations[: len(layer_sizes) - 2], *activations[-1:]] or ["identity"]
    for n_in, n_out, name in zip(layer_sizes, layer_sizes[1:], names):
        bound = np.sqrt((2.0 if name == "sigmoid" else 6.0) / (n_in + n_out))
        weights.append(rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype, copy=False))
        biases.append(rng.uniform(-bound, bound, n_out).astype(dtype, copy=False))
    return weights, biases
