"""The training loop of MLPEnsemble: members in small groups, each group through all its epochs; threads take groups."""

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._backends._engine import Examples, MembersSchedule
from fastmlp._early_stopping import EarlyStopping, Watch
from fastmlp._ensemble_history import EnsembleHistory
from fastmlp._fit import Pace
from fastmlp._fit_arguments import check_early_stopping, naming
from fastmlp._history import History
from fastmlp._layout import LINE_BYTES
from fastmlp._numbers import check_flag, check_whole
from fastmlp._optimizers import Optimizer
from fastmlp._orders import draw_orders
from fastmlp._training_data import TrainingData
from fastmlp._training_state import all_finite
from fastmlp._update import Update

if TYPE_CHECKING:
    from fastmlp._ensemble import MLPEnsemble

# Orders of a group that are drawn together: 2 MB of them, which a call of the kernels reads once.
INDICES_PER_ROUND = 2**18


@dataclass(eq=False)
class Fit:
    """What the groups of one fit share. Whatever belongs to one member is touched by one thread alone."""

    ensemble: "MLPEnsemble"
    examples: Examples
    data: TrainingData
    optimizers: list[Optimizer]
    updates: list[Update]
    bound: Any
    epochs: int
    shuffle: bool
    validation: Examples | None
    watches: list[Watch | None]
    histories: list[History]
    stopping: threading.Event

    @property
    def busy(self) -> bool:
        """Whether something happens after every epoch."""
        return self.validation is not None or any(self.watches)


class Group:
    """Some members on their way through the epochs, as many as are left of them."""

    def __init__(self, fit: Fit, members: Iterable[int]) -> None:
        self.fit = fit
        self.members = np.array(members, dtype=np.int64)
        ensemble = fit.ensemble
        self._pace = Pace(ensemble.n_parameters * len(self.members), fit.data.batch_size)
        self._epochs_per_round = 1 if fit.busy else max(1, INDICES_PER_ROUND // (fit.data.n * len(self.members)))

    def run(self) -> None:
        """Train until all members have ended, or the fit is to stop."""
        fit, everyone = self.fit, self.members
        epoch = 0
        while len(self.members) and epoch < fit.epochs and not fit.stopping.is_set():
            epochs = min(self._epochs_per_round, fit.epochs - epoch)
            self._round(epochs)
            epoch += epochs
        if fit.stopping.is_set():
            return
        for member in everyone:
            history, watch = fit.histories[member], fit.watches[member]
            history.stopped_by = history.stopped_by or "epochs"
            if watch is not None and history.stopped_by != "nonfinite":
                watch.restore()

    def _round(self, epochs: int) -> None:
        """Train for some epochs, between which nothing has to happen."""
        fit, data = self.fit, self.fit.data
        start = State(fit, self.members)
        run = Run(
            np.arange(len(self.members)),
            self._orders(epochs),
            self._tables(epochs),
            np.empty((len(self.members), epochs * data.steps_per_epoch)),
        )
        done, n_steps = 0, run.losses.shape[1]
        while done < n_steps and len(run.rows):
            if fit.stopping.is_set():
                return
            begun = time.perf_counter()
            wanted = min(self._pace.steps, n_steps - done)
            taken = self._slice(run, done, wanted)
            self._pace.note(wanted, time.perf_counter() - begun)
            if (taken < wanted).any():
                for i in np.flatnonzero(taken < wanted).tolist():
                    self._not_finite(run, i, done + int(taken[i]), start)
                run = run.only(taken == wanted)
            done += wanted
        finite = np.isfinite(fit.ensemble._parameters[self.members[run.rows]]).all(axis=1)
        for i in np.flatnonzero(~finite).tolist():
            self._not_finite(run, i, n_steps - 1, start)
        run = run.only(finite)
        self.members = self.members[run.rows]
        self._end_round(run.losses, epochs)

    def _orders(self, epochs: int) -> np.ndarray | None:
        """Each member's order of the examples in each of some epochs: (members, epochs * n)."""
        if not self.fit.shuffle:
            return None
        orders = np.empty((len(self.members), epochs, self.fit.data.n), dtype=np.int64)
        ensemble = self.fit.ensemble
        for member, own in zip(self.members, orders):
            draw_orders(ensemble._engine, ensemble._shuffle_rngs[member], own)
        return orders.reshape(len(orders), -1)

    def _tables(self, epochs: int) -> np.ndarray:
        """Each member's row of constants, or where rates have a schedule the row of every step."""
        optimizers = [self.fit.optimizers[member] for member in self.members]
        steps = self.fit.data.steps_per_epoch
        scheduled = any(callable(optimizer.lr) for optimizer in optimizers)
        tables = np.empty((len(optimizers), epochs * steps if scheduled else 1, 4))
        for optimizer, table in zip(optimizers, tables):
            for start in range(0, len(table), steps):
                optimizer._start_epoch()
                table[start : start + steps] = optimizer._table
            if not scheduled:
                optimizer._epoch += epochs - 1
        return tables

    def _slice(self, run: "Run", done: int, n_steps: int) -> np.ndarray:
        """Take some steps with the members of a run; returns how many each of them took."""
        fit = self.fit
        members = self.members[run.rows]
        tables = run.tables[:, done : done + n_steps] if run.tables.shape[1] > 1 else run.tables
        schedule = MembersSchedule(
            run.orders,
            fit.data.batch_size,
            done,
            n_steps,
            np.ascontiguousarray(tables),
            fit.ensemble._dropout_steps[members],
        )
        losses = run.losses[:, done : done + n_steps]
        taken = fit.ensemble._engine.train(members, fit.examples, schedule, fit.bound, losses)
        fit.ensemble._dropout_steps[members] += taken
        return taken

    def _not_finite(self, run: "Run", i: int, step: int, start: "State") -> None:
        """End a member whose loss at a step, or whose parameters after it, are not finite: in the state in which `_fit`
        would leave it, the one before the step or, where that is not finite, the one before the last epoch that is."""
        fit, row = self.fit, run.rows[i]
        member, steps = self.members[row], fit.data.steps_per_epoch
        epoch = step // steps
        if not all_finite(fit.ensemble._parameters[member]):
            alone = run.only(np.arange(len(run.rows)) == i)
            for earlier in range(epoch, -1, -1):
                epoch = earlier
                start.put_back(row)
                if earlier:
                    self._slice(alone, 0, earlier * steps)
                if all_finite(fit.ensemble._parameters[member]):
                    break
        history = fit.histories[member]
        history.loss += fit.data.mean_losses(run.losses[i, : epoch * steps])
        history.stopped_by = "nonfinite"

    def _end_round(self, losses: np.ndarray, epochs: int) -> None:
        """Histories, validation and early stopping."""
        fit = self.fit
        if not len(self.members):
            return
        means = fit.data.mean_losses(losses.reshape(-1))
        for i, member in enumerate(self.members):
            fit.histories[member].loss += means[i * epochs : (i + 1) * epochs]
        if fit.validation is not None:
            values = np.empty(len(self.members))
            fit.ensemble._engine.losses(self.members, fit.validation, values)
            for member, value in zip(self.members, values.tolist()):
                fit.histories[member].val_loss.append(value)
        goes_on = np.ones(len(self.members), dtype=bool)
        for i, member in enumerate(self.members):
            watch, history = fit.watches[member], fit.histories[member]
            if watch is not None:
                if watch.see(history):
                    history.stopped_by = "early_stopping"
                    goes_on[i] = False
                history.best_epoch = watch.best_epoch
        self.members = self.members[goes_on]


@dataclass
class Run:
    """The members of a group that still run in a round, by their rows in it, and what each has there."""

    rows: np.ndarray
    orders: np.ndarray | None
    tables: np.ndarray
    losses: np.ndarray

    def only(self, kept: np.ndarray) -> "Run":
        """Some of them."""
        if kept.all():
            return self
        orders = None if self.orders is None else self.orders[kept]
        return Run(self.rows[kept], orders, self.tables[kept], self.losses[kept])


class State:
    """A copy of what training changes in some members: as _training_state.py has it for one network."""

    def __init__(self, fit: Fit, members: np.ndarray) -> None:
        self._ensemble = fit.ensemble
        self._members = members
        self._parameters = fit.ensemble._parameters[members]
        self._dropout_steps = fit.ensemble._dropout_steps[members]
        self._updates = [fit.updates[member] for member in members]
        self._arrays = [(u.first.copy(), u.second.copy(), u.scalars.copy()) for u in self._updates]

    def put_back(self, row: int) -> None:
        """Return one of the members to it."""
        member = self._members[row]
        self._ensemble._parameters[member] = self._parameters[row]
        self._ensemble._dropout_steps[member] = self._dropout_steps[row]
        update = self._updates[row]
        for live, kept in zip((update.first, update.second, update.scalars), self._arrays[row]):
            np.copyto(live, kept)


def fit(
    ensemble: "MLPEnsemble",
    X: Any,
    y: Any,
    *,
    optimizer: Optimizer | list[Optimizer],
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    sample_weight: Any,
    validation_data: Any,
    early_stopping: EarlyStopping | int | None,
) -> EnsembleHistory:
    """Check the arguments of ``MLPEnsemble.fit``, whose docstring explains them, and train."""
    examples = ensemble._checked_examples(X, y, sample_weight)
    n = len(examples.X)
    size = n if batch_size is None else check_whole("batch_size", batch_size, at_least=1)
    epochs = check_whole("epochs", epochs, at_least=0)
    shuffle = check_flag("shuffle", shuffle)
    validation = _check_validation(ensemble, validation_data)
    rule = check_early_stopping(early_stopping, validation is not None)
    if not ensemble._training_lock.acquire(blocking=False):
        raise RuntimeError("this ensemble is already being trained")
    try:
        optimizers = ensemble._own_optimizers(optimizer)
        updates = [each._bind(member) for each, member in zip(optimizers, ensemble._members)]
        shared = Fit(
            ensemble,
            examples,
            TrainingData(examples, size, False, ensemble.dtype),
            optimizers,
            updates,
            ensemble._engine.bind(updates),
            epochs,
            shuffle,
            validation,
            [None if rule is None else Watch(rule, arena) for arena in ensemble._parameters],
            [History() for _ in updates],
            threading.Event(),
        )
        n_threads = ensemble._threads()
        groups = [Group(shared, members) for members in _groups(ensemble.n_members, ensemble.dtype, n_threads)]
        work_in_threads([group.run for group in groups], n_threads, shared.stopping)
    finally:
        ensemble._training_lock.release()
    _warn_of(shared.histories)
    return EnsembleHistory(shared.histories)


def _check_validation(ensemble: "MLPEnsemble", validation_data: Any) -> Examples | None:
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise TypeError("validation_data must be a tuple (X, y) or (X, y, sample_weight)")
    with naming("validation_data"):
        return ensemble._checked_examples(*validation_data)


def _groups(n_members: int, dtype: "np.dtype", n_threads: int) -> list[range]:
    """The members in groups of whole vectors of AVX-512, or smaller ones where threads would have nothing to do."""
    size = max(1, min(LINE_BYTES // dtype.itemsize, -(-n_members // n_threads)))
    return [range(start, min(start + size, n_members)) for start in range(0, n_members, size)]


def _warn_of(histories: list[History]) -> None:
    ended = [str(i) for i, history in enumerate(histories) if history.stopped_by == "nonfinite"]
    if ended:
        shown = ", ".join(ended[:10]) + (", ..." if len(ended) > 10 else "")
        warnings.warn(
            f"{len(ended)} of {len(histories)} members ended because a loss or a parameter was not finite: {shown}",
            RuntimeWarning,
            stacklevel=4,
        )


def work_in_threads(jobs: list[Callable[[], None]], n_threads: int, stopping: threading.Event) -> None:
    """Do all jobs, the calling thread being one of up to ``n_threads``.

    What a job or a signal raises sets ``stopping``, at which jobs are to end soon, and is raised when all have.
    """
    waiting = deque(jobs)
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            while waiting and not stopping.is_set():
                try:
                    job = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                job()
        except BaseException as error:
            stopping.set()
            raised.append(error)

    threads = []
    for _ in range(min(n_threads, len(jobs)) - 1):
        thread = threading.Thread(target=serve, name="fastmlp", daemon=True)
        with suppress(RuntimeError):  # the system has no more
            thread.start()
            threads.append(thread)
    serve()
    for thread in threads:
        _await(thread, stopping, raised)
    if raised:
        raise raised[0]


def _await(thread: threading.Thread, stopping: threading.Event, raised: list[BaseException]) -> None:
    """Whatever is raised meanwhile, none may still be at work when the call returns."""
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:
            stopping.set()
            raised.append(error)
