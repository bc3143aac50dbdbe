"""Early stopping: when to give up, and which parameters to keep."""

import math
from dataclasses import dataclass

import numpy as np

from fastmlp._history import History
from fastmlp._layout import Layout
from fastmlp._numbers import check_flag, check_real, check_whole

MONITORS = ("val_loss", "loss")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop a fit when a loss has not improved for some epochs.

    Parameters
    ----------
    patience : int
        Stop after this many epochs in a row without an improvement, at least 1.
    min_delta : float, default 0
        By how much the loss must fall below the best so far to count as an improvement.
    monitor : {"val_loss", "loss"}, default "val_loss"
        The loss on the validation data, or the loss in training.
    restore_best : bool, default True
        When fit ends, for whatever reason but an error, give the net the parameters it had after the best
        epoch. The state of the optimizer stays that of the last epoch.
    """

    patience: int
    min_delta: float = 0.0
    monitor: str = "val_loss"
    restore_best: bool = True

    def __post_init__(self) -> None:
        check_whole("patience", self.patience, at_least=1)
        check_real("min_delta", self.min_delta, at_least=0.0)
        check_flag("restore_best", self.restore_best)
        if self.monitor not in MONITORS:
            raise ValueError(f"monitor is {self.monitor!r}; expected 'val_loss' or 'loss'")


class Watch:
    """One EarlyStopping at work on one fit of the net with these ``parameters`` (the live arena)."""

    def __init__(self, rule: EarlyStopping, parameters: np.ndarray) -> None:
        self._rule = rule
        self._parameters = parameters
        self._best = math.inf
        self.best_parameters: np.ndarray | None = None
        self._epoch = -1
        self.best_epoch: int | None = None

    def see(self, history: History) -> bool:
        """Take note of an epoch; returns whether to stop. NaN is no improvement."""
        value = self._monitored(history)[-1]
        self._epoch += 1
        if value < self._best - self._rule.min_delta:
            self._best, self.best_epoch = value, self._epoch
            if self._rule.restore_best:
                self.best_parameters = self._parameters.copy()
        best_epoch = -1 if self.best_epoch is None else self.best_epoch
        return self._epoch - best_epoch >= self._rule.patience

    def _monitored(self, history: History) -> list[float]:
        return history.val_loss if self._rule.monitor == "val_loss" else history.loss

    @property
    def restores(self) -> bool:
        """Whether the best parameters are kept."""
        return self._rule.restore_best

    def go_on(self, history: History, layout: Layout, best_parameters: np.ndarray | None) -> None:
        """Return to what was seen by the end of ``history``, the best parameters being flat."""
        self._epoch = history.epochs - 1
        self.best_epoch = history.best_epoch
        if self.best_epoch is not None:
            self._best = self._monitored(history)[self.best_epoch]
        if best_parameters is not None:
            self.best_parameters = layout.arena()
            layout.unflatten(best_parameters, self.best_parameters)

    def restore(self) -> None:
        """Write the best parameters back, where they are to be restored."""
        if self.best_parameters is not None:
            self._parameters[...] = self.best_parameters
