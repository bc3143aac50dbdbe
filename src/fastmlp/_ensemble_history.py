"""What MLPEnsemble.fit reports: the course of each member's training."""

from collections.abc import Iterator, Sequence

import numpy as np

from fastmlp._history import History


class EnsembleHistory:
    """The courses of K fits: arrays over all of them, and ``history[i]`` as the member's own fit would return it.

    Attributes
    ----------
    loss : ndarray of shape (K, epochs)
        As History.loss; NaN after a member's last epoch.
    val_loss : ndarray of shape (K, epochs), or (K, 0) without validation data
        As History.val_loss; NaN after a member's last epoch.
    epochs : ndarray of shape (K,)
        How many epochs each completed.
    best_epoch : ndarray of shape (K,)
        As History.best_epoch; -1 where there is none.
    stopped_by : tuple of str
        "epochs", "early_stopping", or "nonfinite": the loss or the parameters were no longer finite.
    """

    def __init__(self, members: Sequence[History]) -> None:
        self._members = tuple(members)
        self.loss = _rows([history.loss for history in self._members])
        self.val_loss = _rows([history.val_loss for history in self._members])
        self.epochs = np.array([history.epochs for history in self._members])
        self.best_epoch = np.array([-1 if h.best_epoch is None else h.best_epoch for h in self._members])
        self.stopped_by = tuple(str(history.stopped_by) for history in self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> History:
        return self._members[index]

    def __iter__(self) -> Iterator[History]:
        return iter(self._members)

    def __repr__(self) -> str:
        ends = ", ".join(f"{self.stopped_by.count(end)} by {end!r}" for end in sorted(set(self.stopped_by)))
        return f"EnsembleHistory({len(self)} members, up to {self.loss.shape[1]} epochs; stopped: {ends})"


def _rows(courses: Sequence[list[float]]) -> np.ndarray:
    """One row each, NaN behind the end of the shorter ones."""
    rows = np.full((len(courses), max(map(len, courses))), np.nan)
    for row, course in zip(rows, courses):
        row[: len(course)] = course
    return rows
