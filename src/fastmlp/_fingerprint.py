"""Fingerprints: by which a resumed fit knows its data and its settings again."""

import math
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from fastmlp._checks import is_sliced, is_sparse
from fastmlp._optimizers import Optimizer

# Of larger arrays as many blocks of rows are read, evenly spread with the last among them: 0.1 s.
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
        rows = values if is_sliced(values) else np.asarray(values)
        name, arrays = "array", [rows if rows.shape else rows[None]]
    hashed = blake2b(digest_size=16)
    for array in arrays:
        for block in _blocks(array):
            hashed.update(block.data)
    return f"{name} {rows.dtype.str} {tuple(rows.shape)} {hashed.hexdigest()}"


def _blocks(array: Any) -> Iterator[np.ndarray]:
    n = int(array.shape[0])
    row_bytes = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    rows = max(1, BLOCK_BYTES // row_bytes)
    n_blocks = math.ceil(n / rows)
    read = min(n_blocks, max(1, HASHED_BYTES // BLOCK_BYTES))
    for i in range(read):
        start = (n_blocks - 1 - i * n_blocks // read) * rows
        yield np.ascontiguousarray(array[start : start + rows])


def of_optimizer(optimizer: Optimizer) -> str:
    """The call that makes one; functions that give its learning rate are not told from each other."""
    rate = optimizer.lr
    own = not callable(rate) or type(rate).__module__ == "fastmlp.schedules"
    settings = {name: getattr(optimizer, name) for name in optimizer._shown}
    shown = [f"{name}={value!r}" for name, value in settings.items() if name != "lr"]
    return f"{type(optimizer).__name__}({', '.join([f'lr={rate!r}' if own else 'lr=a function', *shown])})"
