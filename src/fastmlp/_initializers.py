"""How weights start: the initializers by name, and callables of the user's own. Biases start at zero."""

import math
from collections.abc import Callable

import numpy as np

from fastmlp._activations import RELU_FAMILY
from fastmlp._architecture import Architecture

Initializer = Callable[["np.random.Generator", tuple[int, int]], np.ndarray]

# The variance of a weight of a layer with n_in inputs and n_out outputs: K. He et al., "Delving deep into
# rectifiers", 2015; X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
# networks", 2010; Y. LeCun et al., "Efficient BackProp", 1998.
_VARIANCES: dict[str, Callable[[int, int], float]] = {
    "he": lambda n_in, n_out: 2.0 / n_in,
    "glorot": lambda n_in, n_out: 2.0 / (n_in + n_out),
    "lecun": lambda n_in, n_out: 1.0 / n_in,
}
INITIALIZERS = ("auto", *(f"{rule}_{shape}" for rule in _VARIANCES for shape in ("normal", "uniform")), "zeros")


def _draw(name: str, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    if name == "zeros":
        return np.zeros(shape)
    rule, distribution = name.split("_")
    n_out, n_in = shape
    deviation = math.sqrt(_VARIANCES[rule](n_in, n_out))
    if distribution == "normal":
        return rng.standard_normal(shape) * deviation
    limit = math.sqrt(3.0) * deviation
    return rng.uniform(-limit, limit, shape)


def _own(initializer: Initializer, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    weights = np.asarray(initializer(rng, shape))
    if weights.shape != shape:
        raise ValueError(f"initializer returned an array of shape {weights.shape}; it was asked for {shape}")
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"initializer returned an array of dtype {weights.dtype}; it must hold real numbers")
    return weights


def initialize(
    weights: tuple[np.ndarray, ...],
    initializer: str | Initializer,
    architecture: Architecture,
    rng: "np.random.Generator",
) -> None:
    """Fill ``weights``, W_l of shape (n_l, n_{l-1}) each, layer by layer from one stream of random numbers."""
    activations = (*architecture.activations, architecture.output_activation)
    for array, activation in zip(weights, activations):
        shape: tuple[int, int] = (array.shape[0], array.shape[1])
        if callable(initializer):
            array[...] = _own(initializer, rng, shape)
            continue
        name = initializer
        if name == "auto":
            name = "he_normal" if activation in RELU_FAMILY else "glorot_uniform"
        array[...] = _draw(name, rng, shape)
