"""Fingerprints: by which a resumed fit knows its data and its settings again."""

import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from fastmlp._checks import is_sparse
from fastmlp._optimizers import Optimizer

# Of larger arrays as many rows as fit are read, evenly spread: 0.1 s.
HASHED_BYTES = 2**26
BLOCK_BYTES = 2**20


def of_data(values: Any) -> str | None:
    """Kind, shape and a hash of an array or sparse matrix."""
    if values is None:
        return None
    if is_sparse(values):
        rows = values.tocsr()
        name, arrays = "sparse", [rows.data, rows.indices, rows.indptr]
    else:
        rows = np.asarray(values)
        name, arrays = "array", [rows]
    hashed = blake2b(digest_size=16)
    for array in arrays:
        for block in _blocks(np.atleast_1d(array)):
            hashed.update(block.data)
    return f"{name} {rows.dtype.str} {tuple(rows.shape)} {hashed.hexdigest()}"


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, math.ceil(array.nbytes / HASHED_BYTES))
    rows = max(1, BLOCK_BYTES * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), step * rows):
        yield np.ascontiguousarray(array[start : start + step * rows : step])


def of_optimizer(optimizer: Optimizer) -> str:
    """The call that makes one; functions that give its learning rate are not told from each other."""
    rate = optimizer.lr
    own = not callable(rate) or type(rate).__module__ == "fastmlp.schedules"
    settings = {name: getattr(optimizer, name) for name in optimizer._shown}
    shown = [f"{name}={value!r}" for name, value in settings.items() if name != "lr"]
    return f"{type(optimizer).__name__}({', '.join([f'lr={rate!r}' if own else 'lr=a function', *shown])})"
