"""The order of examples that are shuffled block by block: which rows make a block, and how an epoch walks them.

One number drawn from the generator of the fit says it all, so that an epoch can be begun again, or entered in its
midst, and nothing as long as the data is kept::

    g = numpy.random.default_rng(rng.integers(2**63))
    starts = numpy.arange(0, n, block_rows)
    order = numpy.concatenate(
        [starts[b] + g.permutation(min(block_rows, n - starts[b])) for b in g.permutation(len(starts))]
    )
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

# Of a block whose size nobody has set. On a disk it is read in milliseconds, and shuffles thousands of rows.
BLOCK_BYTES = 2**24


class Blocks(NamedTuple):
    """``n`` rows in blocks of ``rows``, the last one of what is left."""

    n: int
    rows: int

    def walk(self, seed: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        """The blocks of an epoch: where each lies, and the order of the rows within; None: as they lie."""
        starts = range(0, self.n, self.rows)
        generator = None if seed is None else np.random.default_rng(seed)
        for block in range(len(starts)) if generator is None else generator.permutation(len(starts)).tolist():
            place = slice(starts[block], min(starts[block] + self.rows, self.n))
            size = place.stop - place.start
            rows = np.arange(size) if generator is None else generator.permutation(size)
            yield place, rows.astype(np.int64, copy=False)

    def order(self, seed: int) -> np.ndarray:
        """The whole order of an epoch, (n,) in int64."""
        return np.concatenate([place.start + rows for place, rows in self.walk(seed)])


def draw_seed(rng: "np.random.Generator") -> int:
    """What an epoch's order is made from."""
    return int(rng.integers(2**63))


def default_block_rows(X: Any, n_bytes: int | None = None) -> int:
    """Rows that take BLOCK_BYTES, or ``n_bytes``; whole chunks where X is stored in such, so that each is read once."""
    rows: int = max(1, (n_bytes or BLOCK_BYTES) // max(1, X.shape[1] * X.dtype.itemsize))
    chunks = getattr(X, "chunks", None)
    chunk = chunks[0] if isinstance(chunks, tuple) and chunks else None
    if not isinstance(chunk, int) or chunk < 1:
        return rows
    return max(rows // chunk, 1) * chunk


def blocks_of(X: Any, rows: int | None) -> Blocks:
    """X in blocks of so many rows, or of as many as suit it."""
    n = int(X.shape[0])
    return Blocks(n, min(default_block_rows(X) if rows is None else rows, n))
