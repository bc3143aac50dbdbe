"""The kernels as Python calls them: compiled or found on disk at first use, and behind the calls of Kernels."""

import math
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import cffi
import llvmlite.binding as llvm
import numpy as np

from fastmlp._backends._addresses import address
from fastmlp._backends._numba import _cache
from fastmlp._backends._numba._pool import Members, Pool
from fastmlp._backends._numba._target import Target, find_target, limit, target_machine

if TYPE_CHECKING:
    from fastmlp._backends._numba._derivative_kernels import NumbaDerivativeKernels

# Addresses travel as integers. cffi lets other Python threads run during each call.
_DECLARATIONS = """
typedef struct {
    int64_t plan, workspace, examples, n, out, option, dy, dx, outs, schedule, update, gradients, losses;
    double value;
    int64_t taken;
} arguments;
"""
_SIGNATURES = {
    "run": "void(*)(int64_t job, arguments *c, int64_t member)",
    "penalty": "double(*)(int64_t plan)",
    "threads_for_rows": "int64_t(*)(int64_t plan, int64_t n, int64_t passes)",
    "call": "int64_t(*)(int64_t team, int64_t job, arguments *c)",
    "forward": "int64_t(*)(int64_t team, int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t out, "
    "int64_t logits)",
    "forward_call": "int64_t(*)(int64_t call, int64_t logits)",
    "predict_call": "int64_t(*)(int64_t call)",
    "step_call": "double(*)(int64_t call, int64_t dropout_step)",
    "post": "int64_t(*)(int64_t desks, int64_t members, int64_t count, int64_t run, int64_t job, int64_t arguments)",
    "lead": "void(*)(int64_t desk)",
    "serve": "void(*)(int64_t desk)",
    "enter": "int64_t(*)(int64_t pool)",
    "leave": "void(*)(int64_t pool)",
    "begin_watch": "int64_t(*)(int64_t watch)",
    "judge_teams": "void(*)(int64_t watch, int64_t count)",
    "shuffle_orders": "void(*)(int64_t next_uint32, int64_t state, int64_t n, int64_t count, int64_t orders)",
    "draw_orders": "int64_t(*)(int64_t generator, int64_t n, int64_t count, int64_t orders)",
}
# The kernels of ensembles are an object of their own: who trains one net does not wait for them to be compiled.
_ENSEMBLE_SIGNATURES = {
    "train_members": "void(*)(int64_t members, int64_t count, int64_t workspace)",
    "member_losses": "void(*)(int64_t members, int64_t count, int64_t n, int64_t workspace)",
}
_FORWARD, _LAYER_OUTPUTS, _LOSS, _GRADIENTS, _BACKWARD, _APPLY, _TRAIN = range(7)  # as in _entries.py

_pool = Pool()
_lock = threading.Lock()
_ffi = cffi.FFI()
_ffi.cdef(_DECLARATIONS)
_new_arguments = partial(_ffi.new, _ffi.typeof("arguments *"))


def _object_code(name: str, target: Target, entries: Callable[[], list[Any]]) -> bytes:
    code = _cache.load(name, target)
    if code is None:
        from fastmlp._backends._numba._compiler import emit_object

        code = emit_object(entries(), target)
        _cache.keep(name, target, code)
    return code


def load_addresses(name: str, target: Target, entries: Callable[[], list[Any]]) -> Callable[[str], int]:
    """What tells the addresses in an object, which is kept on disk under ``name``, or else compiled of ``entries()``.

    What LLVM has loaded stays: threads may be inside.
    """
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(target))
    engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code(name, target, entries)))
    engine.finalize_object()
    _engines.append(engine)
    address: Callable[[str], int] = engine.get_function_address
    return address


_engines: list[Any] = []


@cache
def _functions(dtype: str, target: Target) -> dict[str, Any]:
    """The entry points by name."""

    address = load_addresses(dtype, target, partial(entries_of, dtype))
    return {name: _ffi.cast(signature, address(name)) for name, signature in _SIGNATURES.items()}


def entries_of(dtype: str) -> list[Any]:
    """What is compiled for a dtype."""
    from numba.core import types

    from fastmlp._backends._numba._entries import entries

    return entries(getattr(types, dtype))


@cache
def _ensemble_functions(dtype: str, target: Target) -> dict[str, Any]:
    def entries() -> list[Any]:
        from numba.core import types

        from fastmlp._backends._numba._ensemble import entries

        return entries(getattr(types, dtype))

    address = load_addresses(f"ensemble-{dtype}", target, entries)
    return {name: _ffi.cast(signature, address(name)) for name, signature in _ENSEMBLE_SIGNATURES.items()}


class Team:
    """Threads that do a kernel's jobs together.

    ``run`` does a member's part; ``call`` a whole job, unless Python has to wake threads for it.
    """

    def __init__(self, functions: dict[str, Any], run: Any, call: Any) -> None:
        self._functions = functions
        self._run, self._call = run, call
        self.address = address(_team_record(_address_of(run)))

    def call(self, job: int, arguments: Any) -> None:
        """Do a job with a record of arguments."""
        begun = time.perf_counter()
        threads = self._call(self.address, job, arguments)
        if threads > 1:
            self.wake(threads, job, arguments)
        elif _pool.wanted[0]:
            _pool.rouse(self._functions, begun)

    def wake(self, threads: int, job: int, arguments: Any) -> None:
        """The same with so many threads, which Python wakes if they sleep."""
        if not _pool.run(self._functions, threads, _address_of(self._run), job, _address_of(arguments)):
            self._run(job, arguments, _single_member())


@cache
def _team_record(run: int) -> np.ndarray:
    """What calls need to know, whose records have its address."""
    return np.array([_pool.address, run], dtype=np.int64)


def functions(dtype: np.dtype) -> dict[str, Any]:
    """The entry points for the current target by their names."""
    with _lock:
        return _functions(dtype.name, find_target(limit()))


def _address_of(pointer: Any) -> int:
    return int(_ffi.cast("intptr_t", pointer))


class NumbaKernels:
    """The kernels for one dtype; see Kernels. ``table``: what a call has to know of the pool."""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._functions = known = functions(dtype)
        self._team = Team(known, known["run"], known["call"])
        self.table = self._team.address
        self._threads_for_rows = known["threads_for_rows"]
        self._forward = known["forward"]
        self._step_call = known["step_call"]
        self._forward_call = known["forward_call"]
        self.penalty = known["penalty"]
        self.draw_orders = known["draw_orders"]
        self.shuffle_orders = known["shuffle_orders"]

    def address_of(self, name: str) -> int:
        """See Kernels."""
        return _address_of(self._functions[name])

    def needs_python(self, plan: int, n: int, passes: int) -> bool:
        """See Kernels."""
        return bool(self._threads_for_rows(plan, n, passes) > 1)

    def derivatives(self) -> "NumbaDerivativeKernels":
        """Compiled at their first use, for not all need them."""
        from fastmlp._backends._numba._derivative_kernels import NumbaDerivativeKernels

        return NumbaDerivativeKernels(self._dtype)

    def _call(self, job: int, **fields: int) -> Any:
        """Do a job; returns its arguments, where results stand."""
        arguments = _new_arguments(fields)
        self._team.call(job, arguments)
        return arguments

    def forward(self, plan: int, workspace: int, examples: int, n: int, out: int, logits: int) -> None:
        begun = time.perf_counter()
        threads = self._forward(self.table, plan, workspace, examples, n, out, logits)
        if threads > 1:
            self._wake(threads, _FORWARD, plan, workspace, examples, n, out, logits)
        elif _pool.wanted[0]:
            _pool.rouse(self._functions, begun)

    def forward_call(self, call: int, logits: int) -> None:
        begun = time.perf_counter()
        threads = self._forward_call(call, logits)
        if threads > 1:
            _, *fields = _ffi.unpack(_ffi.cast("int64_t *", call), 6)
            self._wake(threads, _FORWARD, *fields, logits)
        elif _pool.wanted[0]:
            _pool.rouse(self._functions, begun)

    def _wake(self, threads: int, job: int, *fields: int) -> None:
        """Do a job, of which these are the first arguments, with so many threads."""
        self._team.wake(threads, job, _new_arguments(fields))

    def predict_call(self, call: int) -> None:
        self.forward_call(call, 0)

    def layer_outputs(self, plan: int, workspace: int, examples: int, n: int, outs: int) -> None:
        self._call(_LAYER_OUTPUTS, plan=plan, workspace=workspace, examples=examples, n=n, outs=outs)

    def loss(self, plan: int, workspace: int, examples: int, n: int) -> float:
        return float(self._call(_LOSS, plan=plan, workspace=workspace, examples=examples, n=n).value)

    def gradients(self, plan: int, workspace: int, examples: int, n: int, gradients: int, dropout_step: int) -> float:
        done = self._call(
            _GRADIENTS,
            plan=plan,
            workspace=workspace,
            examples=examples,
            n=n,
            gradients=gradients,
            option=dropout_step,
        )
        return float(done.value)

    def backward(self, plan: int, workspace: int, examples: int, n: int, dy: int, gradients: int, dx: int) -> None:
        self._call(_BACKWARD, plan=plan, workspace=workspace, examples=examples, n=n, dy=dy, gradients=gradients, dx=dx)

    def apply(self, plan: int, update: int, gradients: int) -> None:
        self._call(_APPLY, plan=plan, update=update, gradients=gradients)

    def train(
        self, plan: int, workspace: int, examples: int, schedule: int, update: int, gradients: int, losses: int
    ) -> int:
        done = self._call(
            _TRAIN,
            plan=plan,
            workspace=workspace,
            examples=examples,
            schedule=schedule,
            update=update,
            gradients=gradients,
            losses=losses,
        )
        return int(done.taken)

    def train_members(self, members: int, count: int, workspace: int) -> None:
        self._of_ensembles()["train_members"](members, count, workspace)

    def member_losses(self, members: int, count: int, n: int, workspace: int) -> None:
        self._of_ensembles()["member_losses"](members, count, n, workspace)

    def _of_ensembles(self) -> dict[str, Any]:
        with _lock:
            return _ensemble_functions(self._dtype.name, find_target(limit()))

    def step_call(self, call: int, dropout_step: int) -> float:
        begun = time.perf_counter()
        loss: float = self._step_call(call, dropout_step)
        if math.isnan(loss):
            # Not a number, or nothing done yet, because Python has to see to the threads.
            _, plan, workspace, examples, threads, _, schedule, update, gradients, losses = _ffi.unpack(
                _ffi.cast("int64_t *", call), 10
            )
            if threads > 1:
                unused = (0,) * 6
                self._wake(threads, _TRAIN, plan, workspace, examples, *unused, schedule, update, gradients, losses)
                loss = _ffi.cast("double *", losses)[0]
        elif _pool.wanted[0]:
            _pool.rouse(self._functions, begun)
        return loss


@cache
def _member_alone() -> Members:
    return Members(1)


def _single_member() -> int:
    return _member_alone().addresses[0]
