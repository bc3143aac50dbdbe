"""The numpy backend: the readable reference. It runs everywhere and shows what the compiled kernels compute."""

import math
import platform
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import BoundForward, Examples, MembersSchedule, Schedule, unknown
from fastmlp._backends._numpy_derivatives import NumpyDerivatives
from fastmlp._backends._numpy_functions import (
    ACTIVATIONS,
    DERIVATIVES,
    gradient_factor,
    local_losses,
    loss_gradient,
    output_gradient,
    update_layer,
)
from fastmlp._backends._philox import dropped_below, kept
from fastmlp._layout import Layout
from fastmlp._update import (
    BETA1,
    BETA1_POWER,
    BETA2,
    BETA2_POWER,
    CLIP_NORM,
    EPS,
    LR,
    UPDATE_CODES,
    Update,
)

NAME = "numpy"
# Part of the definition of a gradient: every backend sums over blocks of this many rows, then over blocks.
BLOCK_ROWS = 512


def reason_missing() -> str | None:
    """None: NumPy is always there."""
    return None


def isa() -> str:
    """The instruction set: NumPy's own affair, so only the processor's family."""
    return platform.machine()


class Pass(NamedTuple):
    """What backward needs of a forward pass over a block."""

    inputs: list[np.ndarray]  # of each layer: A_0 .. A_{L-1}
    factors: list[np.ndarray]  # of each hidden layer: d A_l / d Z_l, dropout included
    logits: np.ndarray  # Z_L


class NumpyEngine:
    """Batched NumPy at work on one net; see ``Engine`` for the methods."""

    def __init__(
        self, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int, n_threads: int
    ) -> None:
        self._architecture = architecture
        self._layout = layout
        self._matrices = layout.matrices(parameters)
        self._seed = seed
        self.repeat_forward = self.repeat_logits = self.repeat_step = unknown

    def draw_orders(self, generator: np.ndarray, orders: np.ndarray) -> bool:
        return False

    def shuffle_orders(self, next_uint32: int, state: int, orders: np.ndarray) -> bool:
        return False

    def forward(self, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        with np.errstate(all="ignore"):
            for block in blocks_of(len(X)):
                outputs = self._outputs(X[block])
                out[block] = outputs[-1] if logits else self._output_activation(outputs[-1])

    def answer(self, X: np.ndarray, logits: bool) -> np.ndarray | None:
        if X.ndim == 2 or X.dtype not in (self._architecture.dtype, np.float64):
            return None
        out = np.empty(self._architecture.layer_sizes[-1], self._architecture.dtype)
        self.forward(X[None], out[None], logits)
        return out

    def bind(self, n: int) -> BoundForward:
        sizes, dtype = self._architecture.layer_sizes, self._architecture.dtype
        X, out = np.zeros((n, sizes[0]), dtype), np.zeros((n, sizes[-1]), dtype)
        return BoundForward(X, out, lambda _: self.forward(X, out, False), None, None)

    def layer_outputs(self, X: np.ndarray, outs: list[np.ndarray]) -> None:
        with np.errstate(all="ignore"):
            for block in blocks_of(len(X)):
                outputs = self._outputs(X[block])
                outputs[-1] = self._output_activation(outputs[-1])
                for out, output in zip(outs, outputs):
                    out[block] = output

    def penalty(self) -> float:
        l1, l2 = self._architecture.l1, self._architecture.l2
        total = 0.0
        if self._architecture.has_penalty:
            for matrix in self._matrices:
                weights = matrix[:-1].astype(np.float64)
                total += l1 * float(np.abs(weights).sum()) + 0.5 * l2 * float(np.square(weights).sum())
        return total

    def loss(self, examples: Examples) -> float:
        total = 0.0
        n = len(examples.X)
        with np.errstate(all="ignore"):
            for block in blocks_of(n):
                part = self._take(examples, block)
                logits = self._outputs(part.X)[-1]
                total += self._sum_of_losses(logits, part)
            return total / n + self.penalty()

    def gradients(self, examples: Examples, gradients: np.ndarray, dropout_step: int | None) -> float:
        with np.errstate(all="ignore"):
            divisor = float(len(examples.X))
            return self._loss_and_gradients(examples, divisor, 1.0, self._layout.matrices(gradients), dropout_step)

    def backward(self, X: np.ndarray, dY: np.ndarray, gradients: np.ndarray, dX: np.ndarray | None) -> None:
        gradients[...] = 0.0
        sums = self._layout.matrices(gradients)
        with np.errstate(all="ignore"):
            for block in blocks_of(len(X)):
                memory = self._forward_pass(X[block], None, block.start)
                dZ = output_gradient(self._architecture.output_activation, memory.logits, dY[block])
                dZ_1 = self._backward_pass(memory, dZ, sums)
                if dX is not None:
                    dX[block] = dZ_1 @ self._matrices[0][:-1].T

    def derivatives(self) -> NumpyDerivatives:
        return NumpyDerivatives(self._architecture, self._layout, self._matrices)

    def apply(self, update: Update, gradients: np.ndarray) -> None:
        lr, eps = float(update.scalars[LR]), float(update.scalars[EPS])
        with np.errstate(all="ignore"):
            self._update(update, self._layout.matrices(gradients), lr, eps)

    def step(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        update: Update,
        table: np.ndarray,
        dropout_step: int,
    ) -> float:
        losses = np.zeros(1)
        self.train(Examples(X, y, sample_weight), Schedule(None, len(X), 0, 1, table), update, losses, dropout_step)
        return losses.item()

    def forget_step(self) -> None:
        pass

    def train(
        self, examples: Examples, schedule: Schedule, update: Update, losses: np.ndarray, dropout_step: int
    ) -> int:
        gradients = self._layout.matrices(self._layout.arena())
        with np.errstate(all="ignore"):
            for i in range(schedule.n_steps):
                batch = self._take(examples, rows_of_step(schedule, len(examples.X), schedule.first_step + i))
                lr, eps, divisor, scale = schedule.table[i if len(schedule.table) > 1 else 0].tolist()
                losses[i] = self._loss_and_gradients(
                    batch,
                    divisor or float(len(batch.X)),
                    scale,
                    gradients,
                    dropout_step + i,
                    schedule.largest_loss,
                )
                if not math.isfinite(losses[i]):
                    return i
                self._update(update, gradients, lr, eps)
        return schedule.n_steps

    def _take(self, examples: Examples, rows: "slice | np.ndarray") -> Examples:
        """Some of the examples, real targets in the net's dtype."""
        X, y, weight = examples
        y = y[rows]
        if y.ndim == 2:
            y = y.astype(self._architecture.dtype, copy=False)
        return Examples(X[rows], y, None if weight is None else weight[rows])

    def _output_activation(self, logits: np.ndarray) -> np.ndarray:
        return ACTIVATIONS[self._architecture.output_activation](logits)

    def _outputs(self, X: np.ndarray) -> list[np.ndarray]:
        """The outputs of all hidden layers, and the logits."""
        A = np.ascontiguousarray(X, dtype=self._architecture.dtype)
        outputs = []
        for matrix, name in zip(self._matrices, (*self._architecture.activations, "identity")):
            A = ACTIVATIONS[name](A @ matrix[:-1] + matrix[-1])
            outputs.append(A)
        return outputs

    def _forward_pass(self, X: np.ndarray, dropout_step: int | None, first_row: int) -> Pass:
        """Forward over a block that starts at ``first_row`` of its batch, keeping what backward needs."""
        architecture = self._architecture
        inputs = [np.ascontiguousarray(X, dtype=architecture.dtype)]
        factors = []
        hidden = zip(self._matrices, architecture.activations, architecture.dropout)
        for layer, (matrix, name, rate) in enumerate(hidden, start=1):
            Z = inputs[-1] @ matrix[:-1] + matrix[-1]
            A = ACTIVATIONS[name](Z)
            factor = DERIVATIVES[name](Z, A)
            below = int(dropped_below(rate))
            if below and dropout_step is not None:
                survivors = kept(below, self._seed, dropout_step, layer, first_row, *A.shape)
                A = np.where(survivors, A * (1.0 / (1.0 - rate)), A.dtype.type(0.0))
                factor = np.where(survivors, factor * (1.0 / (1.0 - rate)), A.dtype.type(0.0))
            inputs.append(A)
            factors.append(factor)
        return Pass(inputs, factors, inputs[-1] @ self._matrices[-1][:-1] + self._matrices[-1][-1])

    def _backward_pass(self, memory: Pass, dZ: np.ndarray, sums: tuple[np.ndarray, ...]) -> np.ndarray:
        """Add a block's gradients to ``sums``, given d loss / d logits; returns d loss / d Z_1."""
        for k in range(len(sums) - 1, -1, -1):
            sums[k][:-1] += memory.inputs[k].T @ dZ
            sums[k][-1] += dZ.sum(axis=0)
            if k > 0:
                dZ = (dZ @ self._matrices[k][:-1].T) * memory.factors[k - 1]
        return dZ

    def _sum_of_losses(self, logits: np.ndarray, part: Examples, largest_loss: float = 0.0) -> float:
        losses = local_losses(self._architecture.loss, self._architecture.output_activation, logits, part.y)
        if largest_loss and self._architecture.loss == "cross_entropy":
            losses = np.minimum(losses, largest_loss)
        return float(losses.sum() if part.sample_weight is None else losses @ part.sample_weight)

    def _loss_and_gradients(
        self,
        batch: Examples,
        divisor: float,
        penalty_scale: float,
        gradients: tuple[np.ndarray, ...],
        dropout_step: int | None,
        largest_loss: float = 0.0,
    ) -> float:
        architecture = self._architecture
        factor = gradient_factor(architecture.loss, architecture.layer_sizes[-1]) / divisor
        total = 0.0
        for matrix in gradients:
            matrix[...] = 0.0
        for block in blocks_of(len(batch.X)):
            part = self._take(batch, block)
            memory = self._forward_pass(part.X, dropout_step, block.start)
            total += self._sum_of_losses(memory.logits, part, largest_loss)
            dZ = loss_gradient(architecture.loss, architecture.output_activation, memory.logits, part.y)
            weight = np.ones(len(part.X)) if part.sample_weight is None else part.sample_weight
            dZ *= (weight * factor).astype(architecture.dtype)[:, None]
            self._backward_pass(memory, dZ, gradients)
        self._add_penalty_gradient(gradients, penalty_scale)
        return total / divisor + self.penalty() * penalty_scale

    def _add_penalty_gradient(self, gradients: tuple[np.ndarray, ...], scale: float) -> None:
        if self._architecture.has_penalty:
            for gradient, matrix in zip(gradients, self._matrices):
                weights = matrix[:-1]
                gradient[:-1] += scale * self._architecture.l2 * weights
                gradient[:-1] += scale * self._architecture.l1 * np.sign(weights)

    def _update(self, update: Update, gradients: tuple[np.ndarray, ...], lr: float, eps: float) -> None:
        if update.code == UPDATE_CODES["adam"]:
            update.scalars[BETA1_POWER] *= update.scalars[BETA1]
            update.scalars[BETA2_POWER] *= update.scalars[BETA2]
        firsts = self._layout.matrices(update.first) if update.first.size else gradients
        seconds = self._layout.matrices(update.second) if update.second.size else gradients
        clip = clip_factor(gradients, float(update.scalars[CLIP_NORM]))
        for p, g, first, second in zip(self._matrices, gradients, firsts, seconds):
            update_layer(p, g if clip == 1.0 else clip * g, first, second, update, lr, eps)


def blocks_of(n: int) -> list[slice]:
    """The rows of a batch of ``n`` in blocks of BLOCK_ROWS."""
    return [slice(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS)]


def rows_of_step(schedule: Schedule, n: int, step: int) -> "slice | np.ndarray":
    """The rows that make up the batch of ``step``, of ``n`` examples."""
    epoch, batch = divmod(step, math.ceil(n / schedule.batch_size))
    start = batch * schedule.batch_size
    stop = min(start + schedule.batch_size, n)
    if schedule.order is None:
        return slice(start, stop)
    return schedule.order[epoch * n + start : epoch * n + stop]


def clip_factor(gradients: tuple[np.ndarray, ...], clip_norm: float) -> float:
    """What the gradient is multiplied by to bound its global norm; 1 where ``clip_norm`` is 0."""
    if clip_norm == 0.0:
        return 1.0
    norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients))
    return min(1.0, clip_norm / (norm + 1e-6))


class NumpyEnsemble:
    """One engine for each member; see ``EnsembleEngine`` for the methods."""

    def __init__(
        self, architectures: Sequence[Architecture], layout: Layout, parameters: np.ndarray, seeds: np.ndarray
    ) -> None:
        nets = zip(architectures, parameters, seeds.tolist(), strict=True)
        self._engines = [NumpyEngine(architecture, layout, arena, seed, 1) for architecture, arena, seed in nets]

    def draw_orders(self, generator: np.ndarray, orders: np.ndarray) -> bool:
        return False

    def shuffle_orders(self, next_uint32: int, state: int, orders: np.ndarray) -> bool:
        return False

    def forward(self, members: np.ndarray, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        for member in members:
            self._engines[member].forward(X, out[member], logits)

    def losses(self, members: np.ndarray, examples: Examples, out: np.ndarray) -> None:
        for i, member in enumerate(members):
            out[i] = self._engines[member].loss(examples_of(examples, member))

    def bind(self, updates: Sequence[Update]) -> Sequence[Update]:
        return updates

    def train(
        self,
        members: np.ndarray,
        examples: Examples,
        schedule: MembersSchedule,
        updates: Sequence[Update],
        losses: np.ndarray,
    ) -> np.ndarray:
        taken = np.empty(len(members), dtype=np.int64)
        for i, member in enumerate(members):
            order = None if schedule.orders is None else schedule.orders[i]
            own = Schedule(order, schedule.batch_size, schedule.first_step, schedule.n_steps, schedule.tables[i])
            step = int(schedule.dropout_steps[i])
            taken[i] = self._engines[member].train(examples_of(examples, member), own, updates[member], losses[i], step)
        return taken


def examples_of(examples: Examples, member: int) -> Examples:
    """An ensemble's examples as one member sees them."""
    weight = examples.sample_weight
    return examples._replace(sample_weight=weight[member]) if weight is not None and weight.ndim == 2 else examples
