"""A short way through the checks for the arrays that most calls bring; whatever it does not know goes the long way.

A small net takes its step in the time of a few attribute look-ups, so each of these is counted.
"""

import numpy as np
from numpy import ndarray

from fastmlp._architecture import Architecture
from fastmlp._losses import TARGET_RANGES

INT64 = np.dtype(np.int64)
FLOAT64 = np.dtype(np.float64)


class QuickChecks:
    """Knows examples that engines can read as they are."""

    __slots__ = ("_dtype", "_n_inputs", "_n_outputs", "_range", "_takes_classes")

    def __init__(self, architecture: Architecture) -> None:
        self._dtype = architecture.dtype
        self._n_inputs, self._n_outputs = architecture.layer_sizes[0], architecture.layer_sizes[-1]
        self._takes_classes = architecture.takes_classes
        self._range = TARGET_RANGES.get(architecture.loss)

    def targets(self, X: object, y: object) -> ndarray | None:
        """The targets in an engine's shape, if a batch can be taken as it is; None in the rarer cases."""
        if type(X) is not ndarray or type(y) is not ndarray:
            return None
        dtype, shape = X.dtype, X.shape
        if (dtype is not self._dtype and dtype is not FLOAT64) or len(shape) != 2 or shape[1] != self._n_inputs:
            return None
        n, dtype = shape[0], y.dtype
        if n == 0 or (dtype is not INT64 and dtype is not self._dtype and dtype is not FLOAT64):
            return None
        targets: ndarray = y
        if self._takes_classes and dtype is INT64:
            if y.shape != (n,):
                return None
            low, high = 0.0, self._n_outputs - 1.0
        else:
            if y.shape != (n, self._n_outputs):
                if self._n_outputs != 1 or y.shape != (n,):
                    return None
                targets = y.reshape(n, 1)
            if self._range is None:
                return targets
            low, high = self._range
        # Two searches by C methods take a fifth of the time of y.min() and y.max(). NaN is let through.
        return None if y.item(y.argmin()) < low or y.item(y.argmax()) > high else targets
