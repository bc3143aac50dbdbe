"""How fit reads examples that give their rows in slices, such as data sets of h5py and zarr: block by block.

One block is held. Batches within it are read there, in the order of its rows; one that runs across blocks is put
together from all that it touches.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Engine, Examples, Schedule
from fastmlp._block_order import Blocks, draw_seed
from fastmlp._checks import KERNEL_DTYPES, is_sliced, is_sparse
from fastmlp._row_blocks import rows_of, targets_reader, weights_reader
from fastmlp._training_data import TrainingData, dense


class Block(NamedTuple):
    """What is held, as engines take it."""

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None


class SlicedData(TrainingData):
    """Examples of which at least one part comes in slices. An order is the seeds of some epochs."""

    def __init__(self, examples: Examples, batch_size: int, blocks: Blocks, architecture: Architecture) -> None:
        super().__init__(examples, batch_size, True, architecture.dtype, blocks)
        self._blocks = blocks
        self._n_features = architecture.layer_sizes[0]
        self._targets = targets_reader(examples.y, self.n, architecture)
        self._weights = weights_reader(examples.sample_weight, self.n)
        self._check_small_parts()
        self._seed: int | None = None
        # Where the walk is: the block, the order of its rows, and the place of the first of them in the epoch.
        self._walk: Iterator[tuple[slice, np.ndarray]] = iter(())
        self._place = slice(0, 0)
        self._rows = np.arange(0)
        self._begin = 0
        self._held: Block | None = None

    def _check_small_parts(self) -> None:
        """All targets and weights are looked at before the fit begins: X alone is large."""
        for place, _ in self._blocks.walk(None):
            self._targets(place)
            self._weights(place)

    def draw_order(self, engine: Engine, rng: np.random.Generator | None, epochs: int) -> np.ndarray | None:
        return None if rng is None else np.array([draw_seed(rng) for _ in range(epochs)])

    def read(
        self, order: np.ndarray | None, first_step: int, n_steps: int, table: np.ndarray
    ) -> tuple[Examples, Schedule]:
        epoch, batch = divmod(first_step, self.steps_per_epoch)
        start = batch * self.batch_size
        seed = None if order is None else int(order[epoch])
        if seed != self._seed or start < self._begin or not len(self._rows):
            self._seed, self._walk, self._rows, self._begin = seed, self._blocks.walk(seed), np.arange(0), 0
        while start >= self._begin + len(self._rows):
            self._next_block()
        order = self._rows[start - self._begin :]
        within = len(order) // self.batch_size
        if within:
            return Examples(*self._block()), Schedule(order, self.batch_size, 0, min(n_steps, within), table)
        stop = min(start + self.batch_size, self.n)
        return self._gather(start, stop), Schedule(None, self.batch_size, 0, 1, table)

    def _gather(self, start: int, stop: int) -> Examples:
        """The examples from one place in the epoch to another."""
        X = np.empty((stop - start, self._n_features), self._dtype)
        targets, weights = [], []
        place = start
        while place < stop:
            while place >= self._begin + len(self._rows):
                self._next_block()
            block = self._block()
            rows = self._rows[place - self._begin : stop - self._begin]
            with quiet_conversion():
                X[place - start : place - start + len(rows)] = block.X[rows]
            targets.append(block.y[rows])
            if block.sample_weight is not None:
                weights.append(block.sample_weight[rows])
            place += len(rows)
            del block  # nobody holds it when the next one is read
        return Examples(X, np.concatenate(targets), np.concatenate(weights) if weights else None)

    def _next_block(self) -> None:
        self._begin += len(self._rows)
        place, self._rows = next(self._walk)
        if place != self._place:
            self._place, self._held = place, None

    def _block(self) -> Block:
        """The block at hand, read when its first row is wanted."""
        if self._held is None:
            place, X = self._place, self.examples.X
            rows = rows_of(X, place, self._n_features) if is_sliced(X) else X[place]
            if is_sparse(rows) or rows.dtype not in KERNEL_DTYPES or not rows.flags.aligned:
                with quiet_conversion():
                    rows = dense(rows, self._dtype)
            self._held = Block(rows, self._targets(place), self._weights(place))
        return self._held


def quiet_conversion() -> np.errstate:
    """Numbers too large for the network's dtype become infinite without a warning, as in the kernels."""
    return np.errstate(over="ignore", invalid="ignore")
