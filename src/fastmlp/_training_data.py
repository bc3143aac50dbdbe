"""How fit reads its examples: in place where an engine can, else gathered and converted a slice at a time."""

import math
from typing import Any

import numpy as np

from fastmlp._backends._engine import Engine, Examples, Schedule
from fastmlp._block_order import Blocks, draw_seed
from fastmlp._orders import draw_orders

# Converted rows stay in the cache between the conversion and the step that reads them.
CONVERTED_BYTES = 4 * 2**20


class TrainingData:
    """Checked examples, in batches of ``batch_size`` rows with a smaller last one.

    ``X`` is an array that an engine can read, or, with ``converted``, another one or a sparse matrix in CSR form.
    With ``blocks`` the examples are shuffled block by block.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        converted: bool,
        dtype: "np.dtype",
        blocks: Blocks | None = None,
    ) -> None:
        self.examples = examples
        self.blocks = blocks
        self._converted = converted
        self._dtype = dtype
        self.n, n_features = map(int, examples.X.shape)
        self.batch_size = min(batch_size, self.n)
        self.steps_per_epoch = math.ceil(self.n / self.batch_size)
        # Of a step in its epoch's rows.
        self._shares = np.empty(self.steps_per_epoch)
        self._shares[:] = self.batch_size / self.n
        if self.n % self.batch_size:
            self._shares[-1] = self.n % self.batch_size / self.n
        batch_bytes = self.batch_size * n_features * dtype.itemsize
        self._most_converted = max(1, CONVERTED_BYTES // batch_bytes)

    def rows_before(self, step: int) -> int:
        """How many rows the steps 0 .. step - 1 have read, over all epochs."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch * self.n + batch * self.batch_size

    def mean_losses(self, losses: np.ndarray) -> list[float]:
        """Per epoch the mean of the losses of its steps (whole epochs of them), weighted by rows.

        Losses that are not finite are those of steps that were not taken, and do not count.
        """
        if self.steps_per_epoch == 1:
            means: list[float] = losses.tolist()
            return means
        epochs = losses.reshape(-1, self.steps_per_epoch)
        # Unlike NumPy's sums it warns of nothing: to switch warnings off takes 3 us.
        means = np.einsum("ij,j->i", epochs, self._shares).tolist()
        if not all(map(math.isfinite, means)):
            shares = self._shares * np.isfinite(epochs)
            with np.errstate(invalid="ignore"):  # NaN where no step was taken
                means = ((np.where(shares, epochs, 0.0) * shares).sum(axis=1) / shares.sum(axis=1)).tolist()
        return means

    def draw_order(self, engine: Engine, rng: np.random.Generator | None, epochs: int) -> np.ndarray | None:
        """The order of the examples in each of some epochs, one after the other: (epochs * n,) in int64."""
        if rng is None:
            return None
        if self.blocks is not None:
            return np.concatenate([self.blocks.order(draw_seed(rng)) for _ in range(epochs)])
        orders = np.empty((epochs, self.n), dtype=np.int64)
        draw_orders(engine, rng, orders)
        return orders.reshape(-1)

    def read(
        self, order: np.ndarray | None, first_step: int, n_steps: int, table: np.ndarray
    ) -> tuple[Examples, Schedule]:
        """What an engine needs for steps from ``first_step``: all ``n_steps``, or fewer of converted examples."""
        if not self._converted:
            return self.examples, Schedule(order, self.batch_size, first_step, n_steps, table)
        epoch, n_steps, start, stop = self._span(first_step, n_steps)
        rows = slice(start, stop) if order is None else order[epoch * self.n + start : epoch * self.n + stop]
        X, y, sample_weight = self.examples
        part = Examples(dense(X[rows], self._dtype), y[rows], None if sample_weight is None else sample_weight[rows])
        return part, Schedule(None, self.batch_size, 0, n_steps, table)

    def _span(self, first_step: int, n_steps: int) -> tuple[int, int, int, int]:
        """What is converted at once for steps from ``first_step``: epoch, how many steps, and their places in it."""
        epoch, batch = divmod(first_step, self.steps_per_epoch)
        n_steps = min(n_steps, self.steps_per_epoch - batch, self._most_converted)
        start = batch * self.batch_size
        return epoch, n_steps, start, min(start + n_steps * self.batch_size, self.n)


def dense(X: Any, dtype: "np.dtype") -> np.ndarray:
    """Rows of a sparse matrix, or an array of any real dtype, as a C-contiguous array of ``dtype``."""
    return np.ascontiguousarray(X.toarray() if hasattr(X, "toarray") else X, dtype=dtype)
