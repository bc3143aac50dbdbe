"""Mini-batches for training loops of the user's own."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp._numbers import check_whole


def minibatches(
    X: Any, y: Any, batch_size: int, rng: "np.random.Generator | int | None" = None
) -> Iterator[tuple[Any, Any]]:
    """The examples in a new random order, batch by batch: one epoch.

    The arguments are checked at once, not when the first batch is taken.

    Parameters
    ----------
    X, y : array or sparse matrix of n rows, or list
        Inputs and targets.
    batch_size : int
        Rows of a batch; the last one has what is left.
    rng : numpy.random.Generator, int or None
        The order is ``rng.permutation(n)``; an int seeds a new generator, None takes fresh randomness.

    Yields
    ------
    tuple
        ``(X[rows], y[rows])``, copies.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, or X and y differ in length.

    Examples
    --------
    >>> for X_batch, y_batch in fastmlp.minibatches(X, y, 64, rng):
    ...     optimizer.step(net, X_batch, y_batch)
    """
    X, y = _rows_of("X", X), _rows_of("y", y)
    n = X.shape[0]
    if y.shape[0] != n:
        raise ValueError(f"X has {n} examples but y has {y.shape[0]}")
    batch_size = check_whole("batch_size", batch_size, at_least=1)
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        expected = "None, an int of at least 0 or a numpy.random.Generator"
        raise type(error)(f"rng is {rng!r}; expected {expected} ({error})") from error
    return _batches(X, y, batch_size, generator)


def _rows_of(name: str, values: Any) -> Any:
    """``values`` in a form that an array of indices can pick rows from."""
    rows = values.tocsr() if hasattr(values, "tocsr") else np.asarray(values)
    if rows.ndim == 0:
        raise ValueError(f"{name} is a single {type(values).__name__}; expected an array with a row per example")
    return rows


def _batches(X: Any, y: Any, batch_size: int, rng: "np.random.Generator") -> Iterator[tuple[Any, Any]]:
    order = rng.permutation(X.shape[0])
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield X[rows], y[rows]
