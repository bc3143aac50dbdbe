"""The engine of the two compiled backends: turns arrays into addresses and calls the kernels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Examples, Schedule
from fastmlp._backends._plan import (
    TRAINING_ROWS,
    Plan,
    address,
    examples_record,
    readable,
    schedule_record,
    update_record,
)
from fastmlp._layout import Layout
from fastmlp._update import CLIP_NORM, Update


class Kernels(Protocol):
    """One backend's kernels for one dtype; csrc/fastmlp.h says what each does. Every array comes as its address."""

    def forward(self, plan: int, workspace: int, examples: int, n: int, out: int, logits: int) -> None: ...
    def layer_outputs(self, plan: int, workspace: int, examples: int, n: int, outs: int) -> None: ...
    def penalty(self, plan: int) -> float: ...
    def loss(self, plan: int, workspace: int, examples: int, n: int) -> float: ...
    def gradients(
        self, plan: int, workspace: int, examples: int, n: int, gradients: int, dropout_step: int
    ) -> float: ...
    def backward(
        self, plan: int, workspace: int, examples: int, n: int, dy: int, gradients: int, dx: int
    ) -> None: ...
    def apply(self, plan: int, update: int, gradients: int) -> None: ...
    def train(
        self, plan: int, workspace: int, examples: int, schedule: int, update: int, gradients: int, losses: int
    ) -> int: ...


class WorkspacePool:
    """The workspaces of one plan: a call takes a free one or makes one, so that calls may run side by side."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.plan_address = address(plan.record)
        self._free: list[np.ndarray] = []

    @contextmanager
    def workspace(self) -> Iterator[int]:
        """The address of a workspace for the time of one call."""
        try:
            mine = self._free.pop()
        except IndexError:
            mine = self.plan.new_workspace()
        try:
            yield address(mine)
        finally:
            self._free.append(mine)


class CompiledEngine:
    """An engine over compiled kernels; see Engine for what each call does."""

    def __init__(
        self, kernels: Kernels, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int
    ) -> None:
        self._kernels = kernels
        self._layout = layout
        self._parameters = parameters  # the plans hold its address
        self._training = WorkspacePool(Plan(architecture, layout, parameters, seed, training=True))
        self._inference = WorkspacePool(Plan(architecture, layout, parameters, seed, training=False))
        self._accumulator: np.ndarray | None = None

    def forward(self, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        with self._inference.workspace() as workspace:
            self._kernels.forward(
                self._inference.plan_address, workspace, address(record), len(X), address(out), int(logits)
            )

    def layer_outputs(self, X: np.ndarray, outs: list[np.ndarray]) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        addresses = np.array([address(out) for out in outs], dtype=np.uint64)
        with self._training.workspace() as workspace:
            self._kernels.layer_outputs(
                self._training.plan_address, workspace, address(record), len(X), address(addresses)
            )

    def penalty(self) -> float:
        return self._kernels.penalty(self._training.plan_address)

    def loss(self, examples: Examples) -> float:
        X, y = readable(examples.X), readable(examples.y)
        record = examples_record(X, y, examples.sample_weight, None)
        with self._inference.workspace() as workspace:
            return self._kernels.loss(self._inference.plan_address, workspace, address(record), len(X))

    def gradients(self, examples: Examples, gradients: np.ndarray, dropout_step: int | None) -> float:
        X, y = readable(examples.X), readable(examples.y)
        record = examples_record(X, y, examples.sample_weight, None)
        step = -1 if dropout_step is None else dropout_step
        with self._training.workspace() as workspace:
            return self._kernels.gradients(
                self._training.plan_address, workspace, address(record), len(X), address(gradients), step
            )

    def backward(self, X: np.ndarray, dY: np.ndarray, gradients: np.ndarray, dX: np.ndarray | None) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        with self._training.workspace() as workspace:
            self._kernels.backward(
                self._training.plan_address,
                workspace,
                address(record),
                len(X),
                address(dY),
                address(gradients),
                address(dX),
            )

    def apply(self, update: Update, gradients: np.ndarray) -> None:
        record = update_record(update)
        self._kernels.apply(self._training.plan_address, address(record), address(gradients))

    def train(
        self, examples: Examples, schedule: Schedule, update: Update, losses: np.ndarray, dropout_step: int
    ) -> int:
        X, y = readable(examples.X), readable(examples.y)
        records = (
            examples_record(X, y, examples.sample_weight, schedule.order),
            schedule_record(schedule, len(X), dropout_step),
            update_record(update),
        )
        largest_batch = min(schedule.batch_size, len(X))
        accumulator = self._gradient_arena() if largest_batch > TRAINING_ROWS or update.scalars[CLIP_NORM] else None
        with self._training.workspace() as workspace:
            return self._kernels.train(
                self._training.plan_address, workspace, *map(address, records), address(accumulator), address(losses)
            )

    def _gradient_arena(self) -> np.ndarray:
        """Where a step's gradient is summed if one block does not hold the batch; training runs one call at a time."""
        if self._accumulator is None:
            self._accumulator = self._layout.arena()
        return self._accumulator
