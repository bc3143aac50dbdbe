"""The training loop: epochs in slices of steps, and what happens between epochs."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._early_stopping import EarlyStopping, Watch
from fastmlp._fit_arguments import (
    Callback,
    check_callbacks,
    check_early_stopping,
    check_record,
    check_rng,
    check_training_data,
    check_validation_data,
)
from fastmlp._history import History
from fastmlp._numbers import check_flag, check_whole
from fastmlp._optimizers import Adam, Optimizer
from fastmlp._progress import Progress, make_progress
from fastmlp._training_data import TrainingData

if TYPE_CHECKING:
    from fastmlp._mlp import MLP

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
        seconds = ASSUMED_SECONDS_PER_STEP + 6.0 * n_parameters * batch_size / ASSUMED_FLOPS
        self.steps = max(1, int(FIRST_SLICE_SECONDS / seconds))

    def note(self, n_steps: int, seconds: float) -> None:
        """Take note of how long a slice took."""
        fitting = int(SLICE_SECONDS * n_steps / max(seconds, 1e-9))
        self.steps = max(1, min(fitting, LARGEST_GROWTH * self.steps))


class Training:
    """One fit at work. A round is a run of epochs between which nothing has to happen."""

    def __init__(
        self,
        net: "MLP",
        optimizer: Optimizer,
        data: TrainingData,
        epochs: int,
        rng: np.random.Generator | None,
        validation_loss: Callable[[], float] | None,
        watch: Watch | None,
        callbacks: tuple[Callback, ...],
        display: Progress,
        record: tuple[str, ...],
    ) -> None:
        self._net = net
        self._optimizer = optimizer
        self._data = data
        self._epochs = epochs
        self._rng = rng
        self._validation_loss = validation_loss
        self._watch = watch
        self._callbacks = callbacks
        self._display = display
        self._pace = Pace(net._architecture.n_parameters, data.batch_size)
        self.history = History(
            _step_loss=[] if "steps" in record else None, _parameters=[] if "parameters" in record else None
        )
        idle = not (validation_loss or watch or callbacks or "parameters" in record or not display.silent)
        self._epochs_per_round = max(1, INDICES_PER_ROUND // data.n) if idle and not callable(optimizer.lr) else 1

    def run(self) -> History:
        """Train until the epochs are over or something stops it."""
        history = self.history
        while history.stopped_by is None and history.epochs < self._epochs:
            losses = self._round(min(self._epochs_per_round, self._epochs - history.epochs))
            history.loss += self._data.mean_losses(losses)
            if history._step_loss is not None:
                history._step_loss.append(losses)
            self._end_round()
        history.stopped_by = history.stopped_by or "epochs"
        if self._watch is not None:
            self._watch.restore()
        return history

    def _round(self, epochs: int) -> np.ndarray:
        """Train for some epochs; returns the loss of every step."""
        self._optimizer._start_epoch()
        order = None if self._rng is None else draw_order(self._rng, self._data.n, epochs)
        losses = np.empty(epochs * self._data.steps_per_epoch)
        done = 0
        while done < len(losses):
            done += self._slice(order, losses, done)
        self._optimizer._epoch += epochs - 1
        return losses

    def _slice(self, order: np.ndarray | None, losses: np.ndarray, done: int) -> int:
        """Take a slice of the steps of a round that follow the first ``done``; returns how many."""
        net, optimizer, data = self._net, self._optimizer, self._data
        start = time.perf_counter()
        examples, schedule = data.read(order, done, min(self._pace.steps, len(losses) - done), optimizer._table)
        taken = net._engine.train(
            examples, schedule, optimizer._bind(net), losses[done : done + schedule.n_steps], net._dropout_step
        )
        net._dropout_step += taken
        if taken < schedule.n_steps:
            epoch, step = divmod(done + taken, data.steps_per_epoch)
            raise FloatingPointError(
                f"the loss is {losses[done + taken]} at epoch {self.history.epochs + epoch}, step {step} "
                "(both from 0); the parameters are those before this step"
            )
        self._pace.note(taken, time.perf_counter() - start)
        self._display.advance(data.rows_before(done + taken) - data.rows_before(done))
        return taken

    def _end_round(self) -> None:
        """Validation, records, early stopping, progress and callbacks after an epoch."""
        net, history = self._net, self.history
        if self._validation_loss is not None:
            history.val_loss.append(self._validation_loss())
        if history._parameters is not None:
            history._parameters.append(net.parameters)
        if self._watch is not None:
            if self._watch.see(history):
                history.stopped_by = "early_stopping"
            history.best_epoch = self._watch.best_epoch
        self._display.end_epoch(history)
        for callback in self._callbacks:
            answer = callback(net, history)
            if isinstance(answer, (bool, np.bool_)) and answer:
                history.stopped_by = history.stopped_by or "callback"


def draw_order(rng: np.random.Generator, n: int, epochs: int) -> np.ndarray:
    """The order of the examples in each of some epochs, one after the other: (epochs * n,) in int64."""
    if epochs == 1:
        return rng.permutation(n).astype(np.int64, copy=False)
    order = np.empty(epochs * n, dtype=np.int64)
    for start in range(0, epochs * n, n):
        order[start : start + n] = rng.permutation(n)
    return order


def fit(
    net: "MLP",
    X: Any,
    y: Any,
    *,
    optimizer: Optimizer | None,
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    sample_weight: Any,
    validation_data: Any,
    early_stopping: EarlyStopping | int | None,
    callbacks: Any,
    progress: bool,
    rng: np.random.Generator | int | None,
    record: str | Iterable[str],
) -> History:
    """Check the arguments of ``MLP.fit``, whose docstring explains them, and train.

    Nothing changes, neither the net nor the optimizer nor a generator, unless all of them are right.
    """
    data = check_training_data(net, X, y, sample_weight, batch_size)
    epochs = check_whole("epochs", epochs, at_least=0)
    generator = (net._shuffle_rng if rng is None else check_rng(rng)) if check_flag("shuffle", shuffle) else None
    validation = check_validation_data(net, validation_data)
    rule = check_early_stopping(early_stopping, validation is not None)
    called = check_callbacks(callbacks)
    recorded = check_record(record)
    wanted = check_flag("progress", progress)
    if optimizer is None:
        optimizer = Adam()
    elif not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {optimizer!r}; expected one such as fastmlp.Adam()")
    with net._training():
        optimizer._bind(net)
        watch = None if rule is None else Watch(rule, net._parameters)
        display = make_progress(wanted, epochs, data.n)
        try:
            return Training(net, optimizer, data, epochs, generator, validation, watch, called, display, recorded).run()
        finally:
            display.close()
