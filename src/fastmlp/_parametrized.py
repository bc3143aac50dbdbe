"""The parameters of a network: where they live, and every way to read and write them."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from fastmlp._checks import check_parameter_array, check_scaling
from fastmlp._layout import Layout
from fastmlp._numbers import check_real


class Parametrized:
    """What `MLP` is built on: one arena of parameters and the views of it."""

    def _allocate(self, layout: Layout) -> None:
        """Make the arena, zeroed, and its views."""
        self._layout = layout
        self._parameters = layout.arena()
        self._weights = layout.weights(self._parameters)
        self._biases = layout.biases(self._parameters)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs: n_0 ... n_L."""
        return self._layout.layer_sizes

    @property
    def n_layers(self) -> int:
        """Layers with weights: L."""
        return len(self._weights)

    @property
    def n_parameters(self) -> int:
        """All weights and biases: the sum of n_l (n_{l-1} + 1)."""
        return sum(array.size for array in (*self._weights, *self._biases))

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters and of all computation: float32 or float64."""
        return self._layout.dtype

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """W_l of shape (n_l, n_{l-1}) for each layer: live views, so ``net.weights[0][...] = W`` writes them."""
        return self._weights

    @weights.setter
    def weights(self, value: Any) -> NoReturn:
        raise AttributeError("weights cannot be assigned; write into its arrays, or call set_weights(weights, biases)")

    @property
    def biases(self) -> tuple[np.ndarray, ...]:
        """b_l of shape (n_l,) for each layer: live, writable views."""
        return self._biases

    @biases.setter
    def biases(self, value: Any) -> NoReturn:
        raise AttributeError("biases cannot be assigned; write into its arrays, or call set_weights(weights, biases)")

    @property
    def parameters(self) -> np.ndarray:
        """One flat copy, (n_parameters,): layer by layer, W_l row-major and then b_l."""
        return self._layout.flatten(self._parameters)

    @parameters.setter
    def parameters(self, value: Any) -> NoReturn:
        raise AttributeError("parameters cannot be assigned; call set_parameters(flat)")

    def set_weights(self, weights: Sequence[Any], biases: Sequence[Any]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        weights : sequence of arrays of shape (n_l, n_{l-1})
        biases : sequence of arrays of shape (n_l,)

        Raises
        ------
        TypeError, ValueError
            If a number or shape is wrong; nothing is changed then.
        """
        checked = []
        for name, values, views in (("weights", weights, self._weights), ("biases", biases, self._biases)):
            if not isinstance(values, (Sequence, np.ndarray)):
                raise TypeError(f"{name} is {values!r}; expected an array for each layer")
            if len(values) != len(views):
                raise ValueError(f"{name} has {len(values)} arrays; this network has {len(views)} layers")
            checked += [
                (view, check_parameter_array(f"{name}[{i}]", value, view.shape))
                for i, (value, view) in enumerate(zip(values, views))
            ]
        for view, array in checked:
            view[...] = array

    def set_parameters(self, flat: Any) -> None:
        """Replace all parameters by those in one flat array, (n_parameters,), in the order of ``parameters``."""
        self._layout.unflatten(check_parameter_array("flat", flat, (self.n_parameters,)), self._parameters)

    def copy_parameters_from(self, other: "Parametrized", tau: float = 1.0) -> None:
        """Take over the parameters of another network of the same layer sizes.

        Parameters
        ----------
        other : MLP
        tau : float, default 1.0
            In [0, 1]. Below 1 it blends: every parameter becomes (1 - tau) its own + tau the other's
            (the target networks of reinforcement learning).
        """
        if not isinstance(other, Parametrized):
            raise TypeError(f"other is a {type(other).__name__}; expected an MLP")
        tau = check_real("tau", tau, at_least=0.0)
        if tau > 1.0:
            raise ValueError(f"tau is {tau:g}; expected a number from 0 to 1")
        if other.layer_sizes != self.layer_sizes:
            raise ValueError(
                f"other has the layer sizes {list(other.layer_sizes)}; this network has {list(self.layer_sizes)}"
            )
        for mine, theirs in zip((*self._weights, *self._biases), (*other._weights, *other._biases)):
            if tau == 1.0:
                mine[...] = theirs
            else:
                mine += tau * (theirs.astype(self.dtype, copy=False) - mine)

    def fold_input_scaling(self, mean: Any, scale: Any) -> None:
        """Make a standardisation of the inputs part of layer 1.

        A network trained on ``(X - mean) / scale`` gives the same outputs for X itself from then on.

        Parameters
        ----------
        mean, scale : float or array of shape (n_0,)
            Finite; no scale may be 0.
        """
        mean = check_scaling("mean", mean, self.layer_sizes[0])
        scale = check_scaling("scale", scale, self.layer_sizes[0])
        if not scale.all():
            raise ValueError("scale has 0 in it; a constant feature needs a scale of 1")
        scaled = self._weights[0] / scale
        self._biases[0][...] = self._biases[0] - scaled @ mean
        self._weights[0][...] = scaled
