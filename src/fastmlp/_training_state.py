"""What training steps change: the parameters, the optimizer's state, and the count of dropout masks."""

import math
from typing import TYPE_CHECKING

import numpy as np

from fastmlp._update import Update

if TYPE_CHECKING:
    from fastmlp._mlp import MLP


class TrainingState:
    """A copy of it all, taken again and again into the same memory.

    ``arrays`` holds parameters, first, second and scalars, as in Update.
    """

    def __init__(self, net: "MLP", update: Update) -> None:
        self._net = net
        self._live = (net._parameters, update.first, update.second, update.scalars)
        self.arrays = tuple(map(np.empty_like, self._live))
        self.dropout_step = 0

    def take(self) -> None:
        """Copy what is there now."""
        for copy, live in zip(self.arrays, self._live):
            np.copyto(copy, live)
        self.dropout_step = self._net._dropout_step

    def put_back(self) -> None:
        """Return to what was taken."""
        for copy, live in zip(self.arrays, self._live):
            np.copyto(live, copy)
        self._net._dropout_step = self.dropout_step


def n_bytes(net: "MLP", update: Update) -> int:
    """Of a copy."""
    return net._parameters.nbytes + update.first.nbytes + update.second.nbytes


def all_finite(array: np.ndarray) -> bool:
    """Whether there is no NaN and no infinity in a 1-D array."""
    # A sum reads it once, and is finite only where all numbers are; but it can overflow. A NaN is either extreme.
    if math.isfinite(np.einsum("i->", array)):
        return True
    return bool(np.minimum.reduce(array) > -np.inf and np.maximum.reduce(array) < np.inf)
