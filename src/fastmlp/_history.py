"""What fit reports: losses per epoch, why it stopped, and on request each step's loss and the parameters."""

from dataclasses import dataclass, field

import numpy as np

RECORDABLE = ("steps", "parameters")


@dataclass(eq=False, repr=False)
class History:
    """The course of one ``fit``.

    Attributes
    ----------
    loss : list of float
        Per epoch the mean of the losses of its steps, each before its update and weighted by its rows, with
        dropout as trained.
    val_loss : list of float
        Per epoch the loss on the validation data after it; empty without such data.
    stopped_by : str or None
        "epochs", "early_stopping" or "callback"; None while fit is at work or where an error ended it.
    best_epoch : int or None
        The epoch, from 0, with the best value early stopping saw; None without early stopping.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    stopped_by: str | None = None
    best_epoch: int | None = None
    _step_loss: list[np.ndarray] | None = None
    _parameters: list[np.ndarray] | None = None

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return len(self.loss)

    @property
    def step_loss(self) -> np.ndarray | None:
        """The loss before each update, in the order of the steps: (steps,) in float64.

        None unless ``record`` names "steps".
        """
        if self._step_loss is None:
            return None
        return np.concatenate([np.empty(0), *self._step_loss])

    @property
    def parameters(self) -> np.ndarray | None:
        """Row e is ``net.parameters`` after epoch e: (epochs, n_parameters).

        None unless ``record`` names "parameters".
        """
        return None if self._parameters is None else np.array(self._parameters)

    def __repr__(self) -> str:
        parts = [f"epochs={self.epochs}"]
        if self.loss:
            parts.append(f"loss={self.loss[-1]:.6g}")
        if self.val_loss:
            parts.append(f"val_loss={self.val_loss[-1]:.6g}")
        if self.best_epoch is not None:
            parts.append(f"best_epoch={self.best_epoch}")
        parts.append(f"stopped_by={self.stopped_by!r}")
        return f"History({', '.join(parts)})"
