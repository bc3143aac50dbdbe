"""The training loop: epochs in slices of steps, and what happens between epochs."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._early_stopping import EarlyStopping, Watch
from fastmlp._fit_arguments import (
    Callback,
    Reading,
    check_callbacks,
    check_early_stopping,
    check_rng,
    check_shuffle,
    check_training_data,
    check_validation_data,
    new_history,
)
from fastmlp._history import History
from fastmlp._nonfinite import Guard, check_policy
from fastmlp._numbers import check_flag, check_whole
from fastmlp._optimizers import Adam, Optimizer
from fastmlp._progress import Progress, make_progress
from fastmlp._training_data import TrainingData

if TYPE_CHECKING:
    from fastmlp._checkpoint import Saver
    from fastmlp._mlp import MLP
    from fastmlp._resume import Saved

# Between slices Python sees signals and moves the progress bar.
SLICE_SECONDS = 0.05
FIRST_SLICE_SECONDS = 0.005
LARGEST_GROWTH = 16
# Several epochs share one slice where an epoch is so small that its overhead would show.
INDICES_PER_ROUND = 65536
# For the first slice alone; on the slow side of what every backend reaches.
ASSUMED_FLOPS = 2e9
ASSUMED_SECONDS_PER_STEP = 1e-5


class Pace:
    """How many steps make a slice of about SLICE_SECONDS, learned from the slices before."""

    def __init__(self, n_parameters: int, batch_size: int) -> None:
        self.batch_size = batch_size
        seconds = ASSUMED_SECONDS_PER_STEP + 6.0 * n_parameters * batch_size / ASSUMED_FLOPS
        self.steps = max(1, int(FIRST_SLICE_SECONDS / seconds))

    def note(self, n_steps: int, seconds: float) -> None:
        """Take note of how long a slice took."""
        fitting = int(SLICE_SECONDS * n_steps / max(seconds, 1e-9))
        self.steps = max(1, min(fitting, LARGEST_GROWTH * self.steps))


def pace_of(net: "MLP", batch_size: int) -> Pace:
    """That of the net's last fit if its batches were as large: a short fit is then a single slice."""
    if net._pace is None or net._pace.batch_size != batch_size:
        net._pace = Pace(net._architecture.n_parameters, batch_size)
    return net._pace


@dataclass(eq=False)
class Training:
    """One fit at work. A round is a run of epochs between which nothing has to happen."""

    net: "MLP"
    optimizer: Optimizer
    data: TrainingData
    epochs: int
    rng: np.random.Generator | None
    validation_loss: Callable[[], float] | None
    watch: Watch | None
    callbacks: tuple[Callback, ...]
    display: Progress
    guard: Guard
    savers: "tuple[Saver, ...]"
    history: History

    def __post_init__(self) -> None:
        self._pace = pace_of(self.net, self.data.batch_size)
        # The losses so far of an epoch, and the generator's state before it gave that epoch's order.
        self.begun = np.empty(0)
        self._order_state: Any = None
        busy = (
            self.validation_loss or self.watch or self.callbacks or self.savers or self.history._parameters is not None
        )
        together = not busy and self.display.silent and self.guard.stops and not callable(self.optimizer.lr)
        self._epochs_per_round = max(1, INDICES_PER_ROUND // self.data.n) if together else 1

    @property
    def place(self) -> tuple[int, int]:
        """Epochs done, and steps of the one that has begun."""
        return self.history.epochs, len(self.begun)

    def generator_state(self) -> Any:
        """That from which the order of the epoch that has begun, or else of the next one, comes."""
        if self.rng is None or len(self.begun):
            return self._order_state
        return self.rng.bit_generator.state

    def run(self) -> History:
        """Train until the epochs are over or something stops it."""
        history = self.history
        while history.stopped_by is None and history.epochs < self.epochs:
            losses = self._round(min(self._epochs_per_round, self.epochs - history.epochs))
            history.loss += self.data.mean_losses(losses)
            if history._step_loss is not None:
                history._step_loss.append(losses)
            self._end_round()
        for saver in self.savers:
            saver.at_end(self)
        history.stopped_by = history.stopped_by or "epochs"
        if self.watch is not None:
            self.watch.restore()
        return history

    def _round(self, epochs: int) -> np.ndarray:
        """Train for some epochs, or for what is left of one; returns the loss of every step."""
        begun = self.begun
        if not len(begun):
            self.optimizer._start_epoch()
            self.guard.keep()
        if self.savers and self.rng is not None:
            self._order_state = self.rng.bit_generator.state
        order = self.data.draw_order(self.net._engine, self.rng, epochs)
        losses = np.empty(epochs * self.data.steps_per_epoch)
        losses[: len(begun)] = begun
        self._steps(order, losses, len(begun))
        self.begun = np.empty(0)
        if not self.guard.finite():
            self._not_finite(order, losses, len(losses) - 1, "the parameters are not finite after")
        self.optimizer._epoch += epochs - 1
        return losses

    def _steps(self, order: np.ndarray | None, losses: np.ndarray, done: int = 0) -> None:
        """Take the steps of a round after the first ``done``, one for each place in ``losses``."""
        while done < len(losses):
            taken, wanted = self._slice(order, losses, done)
            done += taken
            if taken < wanted:
                self._not_finite(order, losses, done, f"the loss is {losses[done]} at")
                self.net._dropout_step += 1
                done += 1
            if self.savers and done < len(losses):
                self.begun = losses[:done]
                for saver in self.savers:
                    saver.between_slices(self)

    def _slice(self, order: np.ndarray | None, losses: np.ndarray, done: int) -> tuple[int, int]:
        """Take a slice of the steps of a round that follow the first ``done``; returns how many, and of how many."""
        net, data = self.net, self.data
        start = time.perf_counter()
        n_steps = min(self._pace.steps, len(losses) - done)
        examples, schedule = data.read(order, done, n_steps, self.optimizer._table)
        taken = net._engine.train(
            examples, schedule, self.optimizer._bind(net), losses[done : done + schedule.n_steps], net._dropout_step
        )
        net._dropout_step += taken
        self._pace.note(max(taken, 1), time.perf_counter() - start)
        if not self.display.silent:
            self.display.advance(data.rows_before(done + taken) - data.rows_before(done))
        return taken, schedule.n_steps

    def _not_finite(self, order: np.ndarray | None, losses: np.ndarray, step: int, what: str) -> None:
        """Deal with a number that is not finite at, or after, a step of a round."""
        epoch, batch = divmod(step, self.data.steps_per_epoch)
        first = self.history.epochs
        if self.guard.finite():
            remedy = "the parameters are those before this step"
        elif self.guard.start is None:
            remedy = "the parameters are no longer finite, and too many to keep a copy of"
        else:
            remedy = f"the parameters are put back to those before epoch {first + self._put_back(order, losses, epoch)}"
        self.guard.tell(first + epoch, f"{what} epoch {first + epoch}, step {batch} (both from 0); {remedy}")

    def _put_back(self, order: np.ndarray | None, losses: np.ndarray, epoch: int) -> int:
        """Return to the start of an epoch, or of the last one before it with finite parameters; returns which.

        A copy is there of the start of the round. What followed gives the same bits when it is done again.
        """
        assert self.guard.start is not None
        for earlier in range(epoch, -1, -1):
            self.guard.start.put_back()
            self._steps(order, losses[: earlier * self.data.steps_per_epoch])
            if self.guard.finite():
                return earlier
        return 0

    def _end_round(self) -> None:
        """Validation, records, early stopping, progress and callbacks after an epoch."""
        net, history = self.net, self.history
        if self.validation_loss is not None:
            history.val_loss.append(self.validation_loss())
        if history._parameters is not None:
            history._parameters.append(net.parameters)
        if self.watch is not None:
            if self.watch.see(history):
                history.stopped_by = "early_stopping"
            history.best_epoch = self.watch.best_epoch
        self.display.end_epoch(history)
        for callback in self.callbacks:
            answer = callback(net, history)
            if isinstance(answer, (bool, np.bool_)) and answer:
                history.stopped_by = history.stopped_by or "callback"
        for saver in self.savers:
            saver.after_epoch(self)


def fit(
    net: "MLP",
    X: Any,
    y: Any,
    *,
    optimizer: Optimizer | None,
    epochs: int,
    batch_size: int | None,
    shuffle: bool | str,
    block_rows: int | None,
    sample_weight: Any,
    validation_data: Any,
    early_stopping: EarlyStopping | int | None,
    callbacks: Any,
    progress: bool,
    rng: np.random.Generator | int | None,
    record: str | Iterable[str],
    on_nonfinite: str,
    resume: Any,
) -> History:
    """Check the arguments of ``MLP.fit``, whose docstring explains them, and train.

    Nothing changes, neither the net nor the optimizer nor a generator, unless all of them are right.
    """
    shuffles, in_blocks = check_shuffle(shuffle)
    data = check_training_data(net, X, y, sample_weight, batch_size, Reading(shuffles, in_blocks, block_rows))
    epochs = check_whole("epochs", epochs, at_least=0)
    generator = (net._shuffle_rng if rng is None else check_rng(rng)) if shuffles else None
    validation = check_validation_data(net, validation_data)
    rule = check_early_stopping(early_stopping, validation is not None)
    called, checkpoints = check_callbacks(callbacks)
    history = new_history(record)
    policy = check_policy(on_nonfinite)
    wanted = check_flag("progress", progress)
    if optimizer is None:
        optimizer = Adam()
    elif not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}; expected one such as fastmlp.Adam()")
    saved: Saved | None = None
    savers: tuple[Saver, ...] = ()
    if checkpoints or resume is not None:
        from fastmlp import _checkpoint, _resume  # they take as long to import as all the others

        settings = _checkpoint.settings_of(net, optimizer, data, shuffles, validation_data, rule, history)
        saved = _resume.find(resume, settings)
        savers = tuple(_checkpoint.Saver(checkpoint, settings) for checkpoint in checkpoints)
    with net._training():
        guard = Guard(net, optimizer._bind(net), policy)
        watch = None if rule is None else Watch(rule, net._parameters)
        display = make_progress(wanted, epochs, data.n)
        training = Training(
            net, optimizer, data, epochs, generator, validation, watch, called, display, guard, savers, history
        )
        try:
            if saved is not None:
                _resume.restore(saved, training)
            return training.run()
        finally:
            display.close()
