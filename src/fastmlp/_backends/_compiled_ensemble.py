"""The ensemble's engine of the two compiled backends: records for many nets at once, and the choice of kernels.

Small nets go through the kernels that keep a member in every lane of a vector, several nets in one call. Others fill
the vectors by themselves and go one by one through the kernels of single nets. The bits are the same either way.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._addresses import address
from fastmlp._backends._compiled import Kernels, draw_orders
from fastmlp._backends._engine import Examples, MembersSchedule, Schedule
from fastmlp._backends._philox import dropped_below
from fastmlp._backends._plan import (
    INFERENCE_ROWS,
    TRAINEE,
    TRAINING_ROWS,
    Plan,
    ensemble_workspace,
    examples_record,
    readable,
    schedule_record,
    update_record,
)
from fastmlp._layout import Layout, aligned_zeros
from fastmlp._update import CLIP_NORM, Update

# Beyond this, counted with the vectors of AVX-512, members side by side leave the cache, and their nets fill vectors of
# units by themselves. One thread, AVX2, batches of 32: 8-16-1 twice to thrice as fast as one by one, 16-32-32-1 1.4
# times, 32-64-4 1.17 times, 64-64-10 as fast.
MOST_LANE_BYTES = 2**20


class BoundUpdates(NamedTuple):
    """The updates of all members as kernels see them, and whether any clips its gradient."""

    records: np.ndarray
    clips: bool


class CompiledEnsemble:
    """An engine over compiled kernels; see EnsembleEngine for what each call does."""

    def __init__(
        self,
        kernels: Kernels,
        architectures: Sequence[Architecture],
        layout: Layout,
        parameters: np.ndarray,
        seeds: np.ndarray,
    ) -> None:
        self._kernels = kernels
        self._layout = layout
        self._parameters = parameters
        # A factor kept where a member drops nothing changes no bits.
        rates = np.array([architecture.dropout for architecture in architectures]).reshape(len(architectures), -1)
        self._architecture = replace(architectures[0], dropout=tuple(rates.max(axis=0).tolist()))
        self._training = PlanTable(self._architecture, architectures, layout, parameters, seeds, rates, training=True)
        self._inference = PlanTable(self._architecture, architectures, layout, parameters, seeds, rates, training=False)
        # Of calls under way there is one for each thread.
        self._workspaces: dict[str, list[np.ndarray]] = {}

    def draw_orders(self, generator: np.ndarray, orders: np.ndarray) -> bool:
        return draw_orders(self._kernels, generator, orders)

    def forward(self, members: np.ndarray, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        workspace = self._take("inference", self._inference.plan.workspace_size)
        for member, plan in zip(members.tolist(), self._inference.addresses_of(members).tolist()):
            at = address(out) + member * out.strides[0]
            self._kernels.forward(plan, address(workspace), address(record), len(X), at, int(logits))
        self._give_back("inference", workspace)

    def losses(self, members: np.ndarray, examples: Examples, out: np.ndarray) -> None:
        X, y = readable(examples.X), readable(examples.y)
        n = len(X)
        records = self._examples_records(members, X, y, examples.sample_weight, None)
        plans = self._inference.addresses_of(members)
        if self._fits_lanes(min(n, INFERENCE_ROWS)):
            size = ensemble_workspace(self._architecture, min(n, INFERENCE_ROWS))
            workspace = self._take("lanes", size)
            trainees = np.zeros(len(members), dtype=TRAINEE)
            trainees["plan"], trainees["examples"] = plans, rows_of(records)
            trainees["losses"] = rows_of(out)
            self._kernels.member_losses(address(trainees), len(members), n, address(workspace))
            self._give_back("lanes", workspace)
            return
        workspace = self._take("inference", self._inference.plan.workspace_size)
        for i, (plan, record) in enumerate(zip(plans.tolist(), rows_of(records).tolist())):
            out[i] = self._kernels.loss(plan, address(workspace), record, n)
        self._give_back("inference", workspace)

    def bind(self, updates: Sequence[Update]) -> BoundUpdates:
        records = np.concatenate([update_record(update) for update in updates])
        return BoundUpdates(records, any(update.scalars[CLIP_NORM] for update in updates))

    def train(
        self,
        members: np.ndarray,
        examples: Examples,
        schedule: MembersSchedule,
        updates: BoundUpdates,
        losses: np.ndarray,
    ) -> np.ndarray:
        X, y = readable(examples.X), readable(examples.y)
        count = len(members)
        records = self._examples_records(members, X, y, examples.sample_weight, schedule.orders)
        own = Schedule(None, schedule.batch_size, schedule.first_step, schedule.n_steps, schedule.tables[0])
        schedules = np.repeat(schedule_record(own, len(X), 0), count)
        schedules["table"] = rows_of(schedule.tables)
        schedules["dropout_step"] = schedule.dropout_steps
        trainees = np.zeros(count, dtype=TRAINEE)
        trainees["plan"], trainees["examples"] = self._training.addresses_of(members), rows_of(records)
        trainees["schedule"], trainees["losses"] = rows_of(schedules), rows_of(losses)
        trainees["update"] = rows_of(updates.records)[members]
        rows = min(schedule.batch_size, len(X))
        if rows <= TRAINING_ROWS and not updates.clips and self._fits_lanes(rows):
            workspace = self._take("lanes", ensemble_workspace(self._architecture, rows))
            self._kernels.train_members(address(trainees), count, address(workspace))
            self._give_back("lanes", workspace)
        else:
            self._train_one_by_one(trainees, needs_gradient=rows > TRAINING_ROWS or updates.clips)
        taken: np.ndarray = trainees["taken"]
        return taken

    def _train_one_by_one(self, trainees: np.ndarray, needs_gradient: bool) -> None:
        workspace = self._take("training", self._training.plan.workspace_size)
        gradient = self._take("gradient", self._layout.size) if needs_gradient else None
        for trainee in trainees:
            plan, examples, schedule, update, losses, _ = trainee.tolist()
            trainee["taken"] = self._kernels.train(
                plan, address(workspace), examples, schedule, update, address(gradient), losses
            )
        self._give_back("training", workspace)
        if gradient is not None:
            self._give_back("gradient", gradient)

    def _fits_lanes(self, rows: int) -> bool:
        itemsize = self._layout.dtype.itemsize
        return ensemble_workspace(self._architecture, rows) * itemsize <= MOST_LANE_BYTES

    def _examples_records(
        self, members: np.ndarray, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, orders: np.ndarray | None
    ) -> np.ndarray:
        """A record for each member: its own weights, if it has some, and its order."""
        shared = weight if weight is None or weight.ndim == 1 else weight[0]
        records = np.repeat(examples_record(X, y, shared, None), len(members))
        if weight is not None and weight.ndim == 2:
            records["sample_weight"] = rows_of(weight)[members]
        if orders is not None:
            records["order"] = rows_of(orders)
        return records

    def _take(self, kind: str, size: int) -> np.ndarray:
        """Memory that no other call uses, of at least so many elements."""
        free = self._workspaces.setdefault(kind, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = aligned_zeros(0, self._layout.dtype)
        if memory.size < size:
            plans = {"training": self._training, "inference": self._inference}
            memory = plans[kind].plan.new_workspace() if kind in plans else aligned_zeros(size, self._layout.dtype)
        return memory

    def _give_back(self, kind: str, memory: np.ndarray) -> None:
        self._workspaces[kind].append(memory)


class PlanTable:
    """A plan for each member: records that differ in parameters, seed, l1, l2 and dropout."""

    def __init__(
        self,
        architecture: Architecture,
        architectures: Sequence[Architecture],
        layout: Layout,
        parameters: np.ndarray,
        seeds: np.ndarray,
        rates: np.ndarray,
        training: bool,
    ) -> None:
        self.plan = Plan(architecture, layout, parameters[0], 0, 1, training, of_members=True)
        self._records = np.repeat(self.plan.record, len(architectures))
        self._records["parameters"] = rows_of(parameters)
        self._records["seed"] = seeds
        self._records["l1"] = [architecture.l1 for architecture in architectures]
        self._records["l2"] = [architecture.l2 for architecture in architectures]
        if training and rates.shape[1]:
            hidden = self._records["layers"][:, :-1]
            hidden["dropout_from"] = dropped_below(rates)
            hidden["dropout_scale"] = 1.0 / (1.0 - rates)
        self._addresses = rows_of(self._records)

    def addresses_of(self, members: np.ndarray) -> np.ndarray:
        addresses: np.ndarray = self._addresses[members]
        return addresses


def rows_of(array: np.ndarray) -> np.ndarray:
    """The addresses of an array's rows, or of its elements or records; the array must outlive their use."""
    first, stride = np.uint64(array.ctypes.data), np.uint64(array.strides[0])
    rows: np.ndarray = first + np.arange(len(array), dtype=np.uint64) * stride
    return rows
