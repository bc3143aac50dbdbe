"""The engine of the two compiled backends: turns arrays into addresses and calls the kernels."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from fastmlp import _guards
from fastmlp._architecture import Architecture
from fastmlp._backends._addresses import address
from fastmlp._backends._compiled_derivatives import CompiledDerivatives, DerivativeKernels
from fastmlp._backends._engine import BoundForward, Examples, RepeatStep, Schedule, unknown
from fastmlp._backends._kept_calls import KeptCalls
from fastmlp._backends._plan import (
    INFERENCE_ROWS,
    TRAINING_ROWS,
    Plan,
    call_record,
    examples_record,
    readable,
    schedule_record,
    set_inputs,
    update_record,
)
from fastmlp._layout import Layout, aligned_zeros
from fastmlp._losses import TARGET_RANGES
from fastmlp._update import CLIP_NORM, Update

try:
    from fastmlp import _bound_call
except ImportError:  # it was not built: what it would do, Python does
    _bound_call = None  # type: ignore[assignment]

# Batches of up to so many inputs are copied for a step: 4,096 take 1 us, asking NumPy for an address 1.5 us.
COPIED_ELEMENTS = 4096
# For a forward pass, which is then a single call of C: 131-67-53-3 on 97 rows +15 %. Twice as many would fill the
# second cache beside the weights: 784-128-10 on 64 rows -4 to +2 %.
COPIED_FORWARD = 2**15
# A builtin of more multiply-adds, 10 us forward and 25 a step, lets Python's other threads run meanwhile.
LONG_PRODUCTS = 2**18
# Passes through the net that calls take for a row.
FORWARD_PASS, TRAINING_PASSES = 1, 3


class Kernels(Protocol):
    """One backend's kernels for one dtype; csrc/fastmlp.h says what each does. Every array comes as its address."""

    table: int  # in C, where the functions stand

    def address_of(self, name: str) -> int:
        """Of "forward_call" or "step_call" as machine code."""

    def needs_python(self, plan: int, n: int, passes: int) -> bool:
        """Whether a call over n rows, so many passes through the net, is worth threads that only Python can wake: the
        machine code at ``address_of`` would not do it."""

    def forward(self, plan: int, workspace: int, examples: int, n: int, out: int, logits: int) -> None: ...
    def forward_call(self, call: int, logits: int) -> None: ...
    def predict_call(self, call: int) -> None: ...
    def layer_outputs(self, plan: int, workspace: int, examples: int, n: int, outs: int) -> None: ...
    def penalty(self, plan: int) -> float: ...
    def loss(self, plan: int, workspace: int, examples: int, n: int) -> float: ...
    def gradients(
        self, plan: int, workspace: int, examples: int, n: int, gradients: int, dropout_step: int
    ) -> float: ...
    def backward(self, plan: int, workspace: int, examples: int, n: int, dy: int, gradients: int, dx: int) -> None: ...
    def apply(self, plan: int, update: int, gradients: int) -> None: ...
    def train(
        self, plan: int, workspace: int, examples: int, schedule: int, update: int, gradients: int, losses: int
    ) -> int: ...
    def step_call(self, call: int, dropout_step: int) -> float: ...
    def draw_orders(self, generator: int, n: int, count: int, orders: int) -> int: ...
    def shuffle_orders(self, next_uint32: int, state: int, n: int, count: int, orders: int) -> None: ...
    def train_members(self, members: int, count: int, workspace: int) -> None: ...
    def member_losses(self, members: int, count: int, n: int, workspace: int) -> None: ...
    def derivatives(self) -> DerivativeKernels: ...


class Workspace:
    """What one call at a time works in."""

    def __init__(self, plan: Plan) -> None:
        workspace = plan.new_workspace()
        self.address = address(workspace)
        self.memory: tuple[object, ...] = (plan, workspace)


class ForwardCall(Workspace):
    """A workspace with places for a small batch and its outputs: a call with one address."""

    def __init__(self, plan: Plan, kernels: Kernels, architecture: Architecture, n: int) -> None:
        super().__init__(plan)
        n_inputs, n_outputs = architecture.layer_sizes[0], architecture.layer_sizes[-1]
        self._kernels = kernels
        self.X = aligned_zeros(n * n_inputs, architecture.dtype).reshape(n, n_inputs)
        self.out = aligned_zeros(n * n_outputs, architecture.dtype).reshape(n, n_outputs)
        examples = examples_record(self.X, None, None, None)
        record = call_record(kernels.table, plan, self.address, examples, n=n, out=self.out)
        self.memory += (self.X, self.out, examples, record)
        self.call = address(record)
        self._is_long = n * architecture.n_parameters > LONG_PRODUCTS
        self._is_builtin = _bound_call is not None and not kernels.needs_python(plan.address, n, FORWARD_PASS)

    def as_builtin(self, logits: bool) -> Callable[..., Any] | None:
        """See BoundForward."""
        if not self._is_builtin:
            return None
        kernel = self._kernels.address_of("forward_call")
        return partial(_bound_call.bind_forward, kernel, self.call, logits, self._is_long, self.memory)


class Answer(ForwardCall):
    """The same as a ``function`` of an X of one shape, which keeps the memory: a new array with y_hat or the logits;
    None for any other X, and while another thread calls."""

    def __init__(
        self, plan: Plan, kernels: Kernels, architecture: Architecture, shape: tuple[int, ...], logits: bool
    ) -> None:
        is_single = len(shape) == 1
        super().__init__(plan, kernels, architecture, 1 if is_single else shape[0])
        x, y = (self.X[0], self.out[0]) if is_single else (self.X, self.out)
        as_builtin = self.as_builtin(logits)
        self.function: Callable[[Any], np.ndarray | None] = (
            as_builtin(x, y, None)[0] if as_builtin is not None else self._in_python(x, y, logits)
        )

    def _in_python(self, x: np.ndarray, y: np.ndarray, logits: bool) -> Callable[[Any], np.ndarray | None]:
        shape, dtype, ndarray, float64 = x.shape, x.dtype, np.ndarray, np.dtype(np.float64)
        call, compute, copy, free = self.call, self._kernels.forward_call, y.copy, threading.Lock()

        def function(given: Any) -> np.ndarray | None:
            if type(given) is not ndarray or given.shape != shape:
                return None
            if (given.dtype is not dtype and given.dtype is not float64) or not free.acquire(False):
                return None
            x[...] = given
            compute(call, logits)
            out: np.ndarray = copy()
            free.release()
            return out

        function.memory = self.memory  # type: ignore[attr-defined]
        return function


class StepCall:
    """One optimizer's step on batches like the first: a call with one address.

    Where ``repeat`` is not a builtin, a small batch is copied to a place of its own, which also converts it.
    """

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        kernels: Kernels,
        X: np.ndarray,
        y: np.ndarray,
        update: Update,
        table: np.ndarray,
        accumulator: np.ndarray | None,
        architecture: Architecture,
    ) -> None:
        self._update, self._table = update, table
        self._x_shape, self._x_dtype, self._y_dtype = X.shape, X.dtype, y.dtype
        is_builtin = _bound_call is not None and not kernels.needs_python(plan.address, len(X), TRAINING_PASSES)
        self._is_copied = not is_builtin and X.size <= COPIED_ELEMENTS
        self._x = np.zeros(X.shape if self._is_copied else (0, 0), architecture.dtype if self._is_copied else X.dtype)
        self._y = np.zeros(y.shape, y.dtype)
        self._places = {y.shape: self._y}
        if y.ndim == 2 and y.shape[1] == 1:
            self._places[y.shape[:1]] = self._y[:, 0]
        # None is above the highest, read as naturals: then none is negative or not a number either.
        self._naturals = self._y.reshape(-1).view(f"u{y.itemsize}")
        self._highest = _highest_target(architecture, y)
        losses = aligned_zeros(1, np.float64)
        self._examples = examples_record(self._x, self._y, None, None)
        schedule = schedule_record(Schedule(None, len(X), 0, 1, table), len(X), 0)
        bound_update = update_record(update)
        record = call_record(
            kernels.table,
            plan,
            workspace.address,
            self._examples,
            schedule=schedule,
            update=bound_update,
            gradients=accumulator,
            losses=losses,
        )
        self._memory = (workspace.memory, losses, self._examples, schedule, bound_update, accumulator, record)
        self._address = address(record)
        self._step = kernels.step_call
        self._builtin: RepeatStep | None = None
        if is_builtin:
            self._builtin = _bound_call.bind_step(
                kernels.address_of("step_call"),
                self._address,
                len(X) * architecture.n_parameters > LONG_PRODUCTS,
                self._memory,
                address(self._examples),
                np.broadcast_to(np.empty((), X.dtype), X.shape),
                self._y,
                self._highest,
                update,
                table,
            )

    @property
    def repeat(self) -> RepeatStep:
        """`Engine.repeat_step` for such batches."""
        return self._builtin or self._in_python

    def is_for(self, X: np.ndarray, y: np.ndarray, update: Update, table: np.ndarray) -> bool:
        """Whether it serves a checked batch of X's shape."""
        same_update = self._update is update and self._table is table
        return same_update and X.dtype == self._x_dtype and y.dtype == self._y_dtype and y.shape == self._y.shape

    def __call__(self, X: np.ndarray, y: np.ndarray, dropout_step: int) -> float:
        self._y[...] = y
        return self._run(X, dropout_step)

    def _in_python(
        self, X: Any, y: Any, update: Update, table: np.ndarray, dropout_step: int, lock: threading.Lock
    ) -> float | None:
        if self._update is not update or self._table is not table:
            return None
        if type(X) is not np.ndarray or X.dtype is not self._x_dtype or X.shape != self._x_shape:
            return None
        if type(y) is not np.ndarray or y.dtype is not self._y_dtype or (place := self._places.get(y.shape)) is None:
            return None
        if not lock.acquire(False):
            return None
        place[...] = y
        # Two C methods: y.min() and y.max() would take five times as long.
        is_right = self._highest is None or self._naturals.item(self._naturals.argmax()) <= self._highest
        loss = self._run(X, dropout_step) if is_right else None
        lock.release()
        return loss

    def _run(self, X: np.ndarray, dropout_step: int) -> float:
        if self._is_copied:
            self._x[...] = X
        else:
            X = readable(X)
            set_inputs(self._examples, X)
        return self._step(self._address, dropout_step)


def _highest_target(architecture: Architecture, y: np.ndarray) -> int | None:
    """The bits of the highest target that the loss takes; None where it takes any."""
    if y.ndim == 1:  # classes
        return architecture.layer_sizes[-1] - 1
    if architecture.loss not in TARGET_RANGES:
        return None
    highest = TARGET_RANGES[architecture.loss][1]
    if y.dtype.kind == "i":
        return int(min(highest, 2**63 - 1))
    return int(np.array(highest, y.dtype).view(f"u{y.itemsize}"))


def draw_orders(kernels: Kernels, generator: np.ndarray, orders: np.ndarray) -> bool:
    """See DrawsOrders."""
    count, n = orders.shape
    return bool(kernels.draw_orders(address(generator), n, count, address(orders)))


class CompiledEngine:
    """An engine over compiled kernels; see Engine for what each call does.

    Each kind of call keeps a pool of workspaces: a call takes a free one or makes one, so that calls may run
    side by side.
    """

    def __init__(
        self,
        kernels: Kernels,
        architecture: Architecture,
        layout: Layout,
        parameters: np.ndarray,
        seed: int,
        n_threads: int,
    ) -> None:
        self._kernels = kernels
        self._architecture = architecture
        self._layout = layout
        self._parameters = parameters
        self._training = Plan(architecture, layout, parameters, seed, n_threads, training=True)
        self._inference = Plan(architecture, layout, parameters, seed, n_threads, training=False)
        self._training_workspaces: list[Workspace] = []
        self._inference_workspaces: list[Workspace] = []
        self._answers: KeptCalls[tuple[tuple[int, ...], bool], Callable[[Any], np.ndarray | None]] = KeptCalls()
        self.repeat_forward: Callable[[Any], np.ndarray | None] = unknown
        self.repeat_logits: Callable[[Any], np.ndarray | None] = unknown
        self.repeat_step: RepeatStep = unknown
        # Training runs one call at a time, so it needs no more than one workspace.
        self._trainer: Workspace | None = None
        self._step_calls: KeptCalls[tuple[int, ...], StepCall] = KeptCalls()
        self._accumulator: np.ndarray | None = None
        self._derivatives: CompiledDerivatives | None = None

    # --- forward ---

    def answer(self, X: np.ndarray, logits: bool) -> np.ndarray | None:
        call = X.shape, logits
        answer = self._answers.get(call)
        if answer is None:
            n = 1 if X.ndim == 1 else len(X)
            if X.size > COPIED_FORWARD or not 0 < n <= INFERENCE_ROWS or not self._answers.has_room_for(call):
                return None
            answer = Answer(self._inference, self._kernels, self._architecture, X.shape, logits).function
            self._answers.keep(call, answer)
        if not _guards.active:
            setattr(self, "repeat_logits" if logits else "repeat_forward", answer)
        return answer(X)

    def draw_orders(self, generator: np.ndarray, orders: np.ndarray) -> bool:
        return draw_orders(self._kernels, generator, orders)

    def shuffle_orders(self, next_uint32: int, state: int, orders: np.ndarray) -> bool:
        self._kernels.shuffle_orders(next_uint32, state, orders.shape[1], len(orders), address(orders))
        return True

    def forward(self, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        mine = self._take_inference_workspace()
        self._kernels.forward(self._inference.address, mine.address, address(record), len(X), address(out), int(logits))
        self._inference_workspaces.append(mine)

    def bind(self, n: int) -> BoundForward:
        call = ForwardCall(self._inference, self._kernels, self._architecture, n)
        run = self._kernels.predict_call
        return BoundForward(call.X, call.out, run, call.call, (call, self), call.as_builtin(False))

    def layer_outputs(self, X: np.ndarray, outs: list[np.ndarray]) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        addresses = np.array([address(out) for out in outs], dtype=np.uint64)
        mine = self._take_workspace()
        self._kernels.layer_outputs(self._training.address, mine.address, address(record), len(X), address(addresses))
        self._training_workspaces.append(mine)

    def loss(self, examples: Examples) -> float:
        X, y = readable(examples.X), readable(examples.y)
        record = examples_record(X, y, examples.sample_weight, None)
        mine = self._take_inference_workspace()
        loss = self._kernels.loss(self._inference.address, mine.address, address(record), len(X))
        self._inference_workspaces.append(mine)
        return loss

    def penalty(self) -> float:
        return self._kernels.penalty(self._training.address)

    # --- gradients ---

    def gradients(self, examples: Examples, gradients: np.ndarray, dropout_step: int | None) -> float:
        X, y = readable(examples.X), readable(examples.y)
        record = examples_record(X, y, examples.sample_weight, None)
        step = -1 if dropout_step is None else dropout_step
        mine = self._take_workspace()
        loss = self._kernels.gradients(
            self._training.address, mine.address, address(record), len(X), address(gradients), step
        )
        self._training_workspaces.append(mine)
        return loss

    def backward(self, X: np.ndarray, dY: np.ndarray, gradients: np.ndarray, dX: np.ndarray | None) -> None:
        X = readable(X)
        record = examples_record(X, None, None, None)
        arrays = (dY, gradients, dX)
        mine = self._take_workspace()
        self._kernels.backward(self._training.address, mine.address, address(record), len(X), *map(address, arrays))
        self._training_workspaces.append(mine)

    def derivatives(self) -> CompiledDerivatives:
        if self._derivatives is None:
            plan = self._training.record[0]
            self._derivatives = CompiledDerivatives(
                self._kernels.derivatives(),
                self._architecture,
                self._layout,
                self._parameters,
                int(plan["seed"]),
                int(plan["n_threads"]),
            )
        return self._derivatives

    # --- training ---

    def apply(self, update: Update, gradients: np.ndarray) -> None:
        record = update_record(update)
        self._kernels.apply(self._training.address, address(record), address(gradients))

    def step(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        update: Update,
        table: np.ndarray,
        dropout_step: int,
    ) -> float:
        if sample_weight is not None or not self._step_calls.has_room_for(X.shape):
            losses = np.zeros(1)
            self.train(Examples(X, y, sample_weight), Schedule(None, len(X), 0, 1, table), update, losses, dropout_step)
            return losses.item()
        call = self._step_calls.get(X.shape)
        if call is None or not call.is_for(X, y, update, table):
            call = self._new_step_call(X, y, update, table)
        loss = call(X, y, dropout_step)
        if not _guards.active:
            self.repeat_step = call.repeat
        return loss

    def forget_step(self) -> None:
        self.repeat_step = unknown

    def train(
        self, examples: Examples, schedule: Schedule, update: Update, losses: np.ndarray, dropout_step: int
    ) -> int:
        X, y = readable(examples.X), readable(examples.y)
        records = (
            examples_record(X, y, examples.sample_weight, schedule.order, schedule.largest_loss),
            schedule_record(schedule, len(X), dropout_step),
            update_record(update),
        )
        accumulator = self._accumulator_for(min(schedule.batch_size, len(X)), update)
        workspace = self._trainer_workspace().address
        examples_at, schedule_at, update_at = map(address, records)
        return self._kernels.train(
            self._training.address,
            workspace,
            examples_at,
            schedule_at,
            update_at,
            address(accumulator),
            address(losses),
        )

    # --- what is kept from call to call ---

    def _take_workspace(self) -> Workspace:
        return self._training_workspaces.pop() if self._training_workspaces else Workspace(self._training)

    def _trainer_workspace(self) -> Workspace:
        if self._trainer is None:
            self._trainer = Workspace(self._training)
        return self._trainer

    def _take_inference_workspace(self) -> Workspace:
        return self._inference_workspaces.pop() if self._inference_workspaces else Workspace(self._inference)

    def _new_step_call(self, X: np.ndarray, y: np.ndarray, update: Update, table: np.ndarray) -> StepCall:
        call = StepCall(
            self._training,
            self._trainer_workspace(),
            self._kernels,
            X,
            y,
            update,
            table,
            self._accumulator_for(len(X), update),
            self._architecture,
        )
        self._step_calls.keep(X.shape, call)
        return call

    def _accumulator_for(self, largest_batch: int, update: Update) -> np.ndarray | None:
        """Where a step's gradient is gathered if it cannot be used tile by tile."""
        if largest_batch <= TRAINING_ROWS and not update.scalars[CLIP_NORM]:
            return None
        if self._accumulator is None:
            self._accumulator = self._layout.arena()
        return self._accumulator
