"""Gradients: what loss_and_gradients, backward and hvp return and an optimizer applies; and those of each example."""

from collections.abc import Iterator

import numpy as np

from fastmlp._layout import Layout


class Gradients:
    """The gradient of a loss with respect to a network's parameters.

    Attributes
    ----------
    input : ndarray or None
        dL/dX, of X's shape, where `MLP.backward` was asked for it.
    arena : ndarray
        The memory behind the views, laid out as the kernels want it (padded; not ``flat``).
    """

    __slots__ = ("_layout", "arena", "input")

    def __init__(self, layout: Layout, arena: np.ndarray, input_gradient: np.ndarray | None = None) -> None:
        self._layout = layout
        self.arena = arena
        self.input = input_gradient

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Of the network: n_0 ... n_L."""
        return self._layout.layer_sizes

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """dL/dW_l of shape (n_l, n_{l-1}) for each layer: live, writable views, in the network's dtype."""
        return self._layout.weights(self.arena)

    @property
    def biases(self) -> tuple[np.ndarray, ...]:
        """dL/db_l of shape (n_l,) for each layer: live, writable views."""
        return self._layout.biases(self.arena)

    @property
    def flat(self) -> np.ndarray:
        """One flat copy, (n_parameters,), in the order of `MLP.parameters`."""
        return self._layout.flatten(self.arena)

    def __repr__(self) -> str:
        sizes = list(self._layout.layer_sizes)
        norm = float(np.linalg.norm(self.flat.astype(np.float64)))
        extra = "" if self.input is None else f", input {self.input.shape}"
        return f"Gradients(layer_sizes={sizes}, norm={norm:.4g}{extra})"


class GradientsPerExample:
    """The gradient of each example's loss with respect to a network's parameters.

    Attributes
    ----------
    flat : ndarray of shape (n, n_parameters), or (n_parameters,) for a single example
        A row for each example, in the order of `MLP.parameters`: the memory of the views.
    """

    __slots__ = ("_layer_sizes", "flat")

    def __init__(self, layer_sizes: tuple[int, ...], flat: np.ndarray) -> None:
        self._layer_sizes = layer_sizes
        self.flat = flat

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """By W_l, of shape (n, n_l, n_{l-1}) for each layer: views of ``flat``."""
        return tuple(weights for weights, _ in self._layers())

    @property
    def biases(self) -> tuple[np.ndarray, ...]:
        """By b_l, of shape (n, n_l) for each layer: views of ``flat``."""
        return tuple(bias for _, bias in self._layers())

    def _layers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start, leading = 0, self.flat.shape[:-1]
        for n_in, n_out in zip(self._layer_sizes, self._layer_sizes[1:]):
            middle, stop = start + n_out * n_in, start + n_out * (n_in + 1)
            yield self.flat[..., start:middle].reshape(*leading, n_out, n_in), self.flat[..., middle:stop]
            start = stop

    def __repr__(self) -> str:
        return f"GradientsPerExample(layer_sizes={list(self._layer_sizes)}, flat {self.flat.shape})"
