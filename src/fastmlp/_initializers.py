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


# Numbers are drawn so many at a time, which gives the same ones: all those of a large layer, in float64, would take
# twice the memory of its weights in float32.
DRAWN_AT_ONCE = 2**19


def _draw(weights: np.ndarray, name: str, rng: "np.random.Generator") -> None:
    """Fill the weights of a layer, (n_out, n_in), which are zeros; those take no memory until they are written."""
    if name == "zeros":
        return
    rule, distribution = name.split("_")
    n_out, n_in = weights.shape
    deviation = math.sqrt(_VARIANCES[rule](n_in, n_out))
    limit = math.sqrt(3.0) * deviation
    rows = max(1, DRAWN_AT_ONCE // n_in)
    for start in range(0, n_out, rows):
        part = weights[start : start + rows]
        if distribution == "normal":
            part[...] = rng.standard_normal(part.shape) * deviation
        else:
            part[...] = rng.uniform(-limit, limit, part.shape)


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
    """Fill ``weights``, zeros so far: W_l of shape (n_l, n_{l-1}) each, one after the other from one random stream."""
    activations = (*architecture.activations, architecture.output_activation)
    for array, activation in zip(weights, activations):
        if callable(initializer):
            array[...] = _own(initializer, rng, (array.shape[0], array.shape[1]))
            continue
        name = initializer
        if name == "auto":
            name = "he_normal" if activation in RELU_FAMILY else "glorot_uniform"
        _draw(array, name, rng)
