"""Philox4x32-10, the counter-based generator behind dropout, for whole arrays.

J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from typing import Any

import numpy as np

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
COUNTER_UNITS = 8  # of a row, that share the 128 bits of a counter
CHANCES = 2**16  # what the bits of a unit can be


def dropped_below(rates: Any) -> Any:
    """Units are dropped whose bits are below this, int64 (...): rates (...) to the nearest CHANCES-th that is not 1."""
    return np.minimum(np.rint(np.asarray(rates) * CHANCES), CHANCES - 1).astype(np.int64)


def philox4x32(counter: np.ndarray, seed: int) -> np.ndarray:
    """Four random words for each counter of four words: arrays (4, ...) of uint64 below 2**32."""
    c0, c1, c2, c3 = counter
    key0, key1 = seed & WORD, seed >> 32
    for _ in range(ROUNDS):
        product0 = c0 * np.uint64(MULTIPLIERS[0])
        product1 = c2 * np.uint64(MULTIPLIERS[1])
        c0 = (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0)
        c1 = product1 & np.uint64(WORD)
        c2 = (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1)
        c3 = product0 & np.uint64(WORD)
        key0 = (key0 + KEY_INCREMENTS[0]) & WORD
        key1 = (key1 + KEY_INCREMENTS[1]) & WORD
    return np.stack((c0, c1, c2, c3))


def kept(below: int, seed: int, step: int, layer: int, first_row: int, n_rows: int, n_units: int) -> np.ndarray:
    """Which outputs of hidden ``layer`` (from 1) survive dropout in training step ``step``: bool (n_rows, n_units).

    Those whose bits are not below ``below``; ``first_row`` is the place of the first row in its batch.
    """
    per_row = -(-n_units // COUNTER_UNITS)
    counter = np.empty((4, n_rows, per_row), dtype=np.uint64)
    counter[0] = np.arange(per_row, dtype=np.uint64)
    counter[1] = np.arange(first_row, first_row + n_rows, dtype=np.uint64)[:, None]
    counter[2] = layer
    counter[3] = step & WORD
    words = philox4x32(counter, seed)
    bits = np.stack((words % np.uint64(CHANCES), words // np.uint64(CHANCES)))  # (half, word, row, counter)
    by_unit = bits.transpose(2, 3, 1, 0).reshape(n_rows, COUNTER_UNITS * per_row)[:, :n_units]
    return by_unit >= np.uint64(below)
