"""How fit shows its progress: a bar of tqdm where that is installed, else one printed line an epoch."""

from typing import Any, Protocol

from fastmlp._history import History


class Progress(Protocol):
    """What the training loop tells while it runs."""

    silent: bool

    def advance(self, n_examples: int) -> None:
        """So many more examples have been trained on."""

    def end_epoch(self, history: History) -> None:
        """An epoch is over and stands in ``history``."""

    def close(self) -> None:
        """Training is over."""


class Silent:
    """Shows nothing."""

    silent = True

    def advance(self, n_examples: int) -> None:
        pass

    def end_epoch(self, history: History) -> None:
        pass

    def close(self) -> None:
        pass


class Lines(Silent):
    """Prints a line when an epoch ends."""

    silent = False

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def end_epoch(self, history: History) -> None:
        losses = ", ".join(f"{name} {value}" for name, value in last_losses(history).items())
        print(f"epoch {history.epochs}/{self._epochs}: {losses}", flush=True)


class Bar:
    """A bar of tqdm over all examples of all epochs, so that long epochs move it too."""

    silent = False

    def __init__(self, tqdm: Any, epochs: int, n_examples: int) -> None:
        self._epochs = epochs
        self._bar = tqdm(total=epochs * n_examples, desc=f"epoch 1/{epochs}", unit=" examples", unit_scale=True)

    def advance(self, n_examples: int) -> None:
        self._bar.update(n_examples)

    def end_epoch(self, history: History) -> None:
        self._bar.set_postfix(last_losses(history), refresh=False)
        self._name_epoch(history.epochs + 1)

    def close(self) -> None:
        self._bar.refresh()
        self._bar.close()

    def _name_epoch(self, epoch: int) -> None:
        self._bar.set_description(f"epoch {min(epoch, self._epochs)}/{self._epochs}", refresh=False)


def last_losses(history: History) -> dict[str, str]:
    """The losses of the last epoch, in few digits."""
    losses = {"loss": f"{history.loss[-1]:.4g}"}
    if history.val_loss:
        losses["val_loss"] = f"{history.val_loss[-1]:.4g}"
    return losses


def make_progress(wanted: bool, epochs: int, n_examples: int) -> Progress:
    """A display for a fit of so many epochs over so many examples."""
    if not wanted or epochs == 0:
        return Silent()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return Lines(epochs)
    return Bar(tqdm, epochs, n_examples)
