"""Gradients: what loss_and_gradients and backward return and an optimizer applies."""

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
