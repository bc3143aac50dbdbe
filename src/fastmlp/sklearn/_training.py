"""The epochs of a stochastic fit: scikit-learn's order, reported losses and stopping, over the compiled steps."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmlp._backends._engine import Examples, Schedule
from fastmlp._fit import INDICES_PER_ROUND, Pace
from fastmlp._history import History
from fastmlp._mlp import MLP
from fastmlp._orders import shuffle_orders
from fastmlp._progress import make_progress
from fastmlp._training_data import TrainingData, dense
from fastmlp.sklearn._clipping import Clipping
from fastmlp.sklearn._objective import Objective
from fastmlp.sklearn._solver import Solver
from fastmlp.sklearn._validation import Validation

# Beside so many steps a copy of the state takes 4 % of the time.
STEPS_PER_COPY = 8


class Batches(TrainingData):
    """Examples in batches, and sums over these."""

    def __init__(self, examples: Examples, batch_size: int, converted: bool, dtype: np.dtype) -> None:
        super().__init__(examples, batch_size, converted, dtype)
        self.examples = examples
        self.starts = np.arange(0, self.n, self.batch_size)
        self.rows = np.diff(self.starts, append=self.n)

    def sums(self, values: np.ndarray | None, order: np.ndarray | None, epochs: int) -> np.ndarray:
        """The sum of ``values`` (n,) over every batch of some epochs; of ones where it is None."""
        if values is None or order is None:
            sums = self.rows.astype(np.float64) if values is None else np.add.reduceat(values, self.starts)
            return np.tile(sums, epochs)
        return np.add.reduceat(values[order].reshape(epochs, self.n), self.starts, axis=1).ravel()

    def batch(self, order: np.ndarray | None, step: int) -> Examples:
        """The examples of one step."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = self.starts[batch]
        rows: Any = slice(start, start + self.rows[batch])
        if order is not None:
            rows = order[epoch * self.n : (epoch + 1) * self.n][rows]
        X, y, weight = self.examples
        return Examples(dense(X[rows], self._dtype), y[rows], None if weight is None else weight[rows])


class Training:
    """One stochastic fit at work on an estimator, whose fitted attributes follow it epoch by epoch.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
    net : MLP
    solver : Solver
    objective : Objective
    batches : Batches
    rng : numpy.random.RandomState or None
        The source of the orders; None takes the examples as they stand.
    validation : Validation or None
    callbacks : tuple of callables
        Of the estimator.
    epochs : int
        At most so many.
    incremental : bool
        Whether this is partial_fit, which does not warn of the end.
    """

    def __init__(
        self,
        estimator: Any,
        net: MLP,
        solver: Solver,
        objective: Objective,
        batches: Batches,
        rng: np.random.RandomState | None,
        validation: Validation | None,
        callbacks: tuple[Callable[..., Any], ...],
        epochs: int,
        incremental: bool,
    ) -> None:
        self._estimator = estimator
        self._net = net
        self._solver = solver
        self._objective = objective
        self._batches = batches
        self._rng = rng
        self._validation = validation
        self._callbacks = callbacks
        self._epochs = epochs
        self._incremental = incremental
        self._update = solver.bind(net)
        self._diverged = False
        self._penalty = estimator.alpha / net.l2 if net.l2 else 0.0
        self._order = np.arange(batches.n)
        self._pace = Pace(net.n_parameters, batches.batch_size)
        self._constants = objective.constants(batches.examples.y)
        # scikit-learn's probabilities are at least eps; the kernels do the same for classes, but not for labels.
        self._largest_loss = -math.log(np.finfo(net.dtype).eps) if objective.loss == "cross_entropy" else 0.0
        self._clipping = Clipping(net) if objective.loss == "bce" and not any(net.dropout) else None
        self._penalty_apart = objective.reported_share != 1.0 and net.l2 != 0.0
        self._history = History()
        self._display = make_progress(estimator.progress, epochs, batches.n)
        self._alone = bool(
            validation or callbacks or estimator.verbose or not self._display.silent or solver.rates_vary
        )

    def run(self) -> None:
        """Train until the epochs are over or something stops it."""
        self._estimator.n_iter_ = 0
        try:
            stopped = False
            while not stopped and self._estimator.n_iter_ < self._epochs:
                stopped = self._end_round(self._round(self._epochs_of_round()))
            if not stopped and not self._incremental:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self._epochs}) reached and the optimization "
                    "hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            self._display.close()

    def _epochs_of_round(self) -> int:
        """How many epochs nothing can come between: as many as must fail to improve before a fit may stop."""
        estimator = self._estimator
        if self._alone:
            return 1
        patience = estimator.n_iter_no_change + 1 - estimator._no_improvement_count
        in_a_slice = min(self._pace.steps // self._batches.steps_per_epoch, INDICES_PER_ROUND // self._batches.n)
        return int(max(1, min(patience, self._epochs - estimator.n_iter_, in_a_slice)))

    def _round(self, epochs: int) -> list[float]:
        """Train for some epochs; returns the loss to report of each."""
        batches = self._batches
        self._solver.start_epoch()
        order = self._draw_order(epochs)
        weight = batches.examples.sample_weight
        sums = batches.sums(weight, order, epochs)
        if not sums.all():
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        losses = self._steps(order, sums)
        if not self._penalty_apart:
            losses *= self._objective.reported_share
        self._solver.n_steps += len(losses)
        if self._constants is not None:
            weighted = self._constants if weight is None else weight * self._constants
            losses += batches.sums(weighted, order, epochs) / sums
        return batches.mean_losses(losses)

    def _draw_order(self, epochs: int) -> np.ndarray | None:
        """The order of some epochs, one after the other: each shuffles the one before."""
        if self._rng is None:
            return None
        orders = np.empty((epochs, self._batches.n), dtype=np.int64)
        orders[0] = self._order
        shuffle_orders(self._net._engine, self._rng, orders)
        self._order = orders[-1]
        return orders.ravel()

    def _steps(self, order: np.ndarray | None, sums: np.ndarray) -> np.ndarray:
        """Take as many steps as there are ``sums`` of weights; returns their losses, without the constants."""
        losses = np.empty(len(sums))
        done = 0
        while done < len(losses):
            taken = (self._one_step if self._looks() else self._slice)(order, sums, losses, done)
            self._display.advance(self._batches.rows_before(done + taken) - self._batches.rows_before(done))
            done += taken
            if self._diverged:
                # As NaN, weights go on through all that follows without costing time.
                losses[done:] = np.nan
                for array in (*self._net.weights, *self._net.biases):
                    array[...] = np.nan
                break
        return losses

    def _looks(self) -> bool:
        """Whether the next step's loss has to be taken apart."""
        return self._penalty_apart or (self._clipping is not None and not self._clipping.steps_left)

    def _one_step(self, order: np.ndarray | None, sums: np.ndarray, losses: np.ndarray, done: int) -> int:
        """Take one step and report what the kernels do not tell: penalty and data apart, or clipped probabilities."""
        batch = self._batches.batch(order, done)
        table = self._solver.table(sums[done : done + 1], self._objective.factor, self._penalty)
        penalty = float(table[0, 3]) * self._net._engine.penalty()
        clipped = None if self._clipping is None else self._clipping.look(*batch, penalty)
        taken = self._train(batch, Schedule(None, len(batch.X), 0, 1, table), losses[done : done + 1])
        if clipped is None:
            losses[done] = (losses[done] - penalty) * self._objective.reported_share + penalty
        else:
            losses[done] = clipped
        return taken

    def _slice(self, order: np.ndarray | None, sums: np.ndarray, losses: np.ndarray, done: int) -> int:
        """Take a slice of the steps that follow the first ``done``; returns how many."""
        clipping = self._clipping
        n_steps = min(self._pace.steps, len(losses) - done)
        before = None
        if clipping is not None:
            n_steps = min(max(n_steps, STEPS_PER_COPY), clipping.steps_left, len(losses) - done)
            before = [array.copy() for array in self._state()] if clipping.takes_back else None
        start = time.perf_counter()
        taken = self._run(order, sums, losses, done, n_steps)
        self._pace.note(max(taken, 1), time.perf_counter() - start)
        if clipping is None or taken == 0:
            return taken
        rows = self._batches.rows[np.arange(done, done + taken) % self._batches.steps_per_epoch]
        standing = clipping.passed(losses[done : done + taken] * rows)
        if standing < taken and before is not None:
            for array, copy in zip(self._state(), before):
                array[...] = copy
            self._run(order, sums, losses, done, standing)
        return standing

    def _run(self, order: np.ndarray | None, sums: np.ndarray, losses: np.ndarray, done: int, n_steps: int) -> int:
        """Take some steps that follow the first ``done``; returns how many, fewer of sparse examples."""
        self._diverged = False
        if n_steps == 0:
            return 0
        table = self._solver.table(sums[done : done + n_steps], self._objective.factor, self._penalty)
        examples, schedule = self._batches.read(order, done, n_steps, table)
        return self._train(examples, schedule, losses[done : done + schedule.n_steps])

    def _train(self, examples: Examples, schedule: Schedule, losses: np.ndarray) -> int:
        net = self._net
        schedule = schedule._replace(largest_loss=self._largest_loss)
        taken = net._engine.train(examples, schedule, self._update, losses, net._dropout_step)
        net._dropout_step += taken
        self._diverged = taken < schedule.n_steps
        return taken

    def _state(self) -> tuple[np.ndarray, ...]:
        """All that a step changes; there is no dropout where clipping shows."""
        return (self._net._parameters, self._update.scalars, self._update.first, self._update.second)

    # --- between rounds ---

    def _end_round(self, losses: list[float]) -> bool:
        """Note the losses of its epochs, judge, report and adapt the rate; returns whether to stop."""
        estimator, history = self._estimator, self._history
        estimator.n_iter_ += len(losses)
        estimator.loss_ = losses[-1]
        estimator.t_ += self._batches.n * len(losses)
        estimator.loss_curve_ += losses
        history.loss += losses
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if self._validation is not None:
            history.val_loss.append(self._validation.after_epoch())
        self._judge(losses)
        self._solver.end_epoch(estimator.t_)
        self._display.end_epoch(history)
        answers = [callback(estimator) for callback in self._callbacks]
        if any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers):
            return True
        return estimator._no_improvement_count > estimator.n_iter_no_change and self._gives_up()

    def _judge(self, losses: list[float]) -> None:
        """Count the epochs in a row that improved too little."""
        estimator = self._estimator
        if estimator.early_stopping and self._validation is not None:
            estimator._no_improvement_count = 0 if self._validation.improved() else estimator._no_improvement_count + 1
            return
        best, tol, count = estimator.best_loss_, estimator.tol, estimator._no_improvement_count
        lowest = np.inf if best is None else best  # None after early stopping
        for loss in losses:
            count = count + 1 if loss > lowest - tol else 0
            if loss < lowest:
                best = lowest = loss
        estimator.best_loss_, estimator._no_improvement_count = best, count

    def _gives_up(self) -> bool:
        estimator = self._estimator
        watched = "Validation score" if estimator.early_stopping else "Training loss"
        reason = (
            f"{watched} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} "
            "consecutive epochs."
        )
        if self._solver.stops(reason, bool(estimator.verbose)):
            return True
        estimator._no_improvement_count = 0
        return False
