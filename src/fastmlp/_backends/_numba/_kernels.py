"""The kernels as Python calls them: compiled or found on disk at first use, and behind the calls of Kernels."""

import math
import threading
from functools import cache, partial
from typing import Any

import cffi
import llvmlite.binding as llvm
import numpy as np

from fastmlp._backends._numba import _cache
from fastmlp._backends._numba._pool import Members, Pool
from fastmlp._backends._numba._target import Target, find_target, limit, target_machine

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
    "threads_for_call": "int64_t(*)(int64_t plan, int64_t n, int64_t passes)",
    "threads_for_run": "int64_t(*)(int64_t plan, int64_t schedule)",
    "forward": "int64_t(*)(int64_t plan, int64_t workspace, int64_t examples, int64_t n, int64_t out, int64_t logits)",
    "forward_call": "void(*)(int64_t call, int64_t logits)",
    "step_call": "double(*)(int64_t call, int64_t dropout_step)",
}
# The kernels of ensembles are an object of their own: who trains one net does not wait for them to be compiled.
_ENSEMBLE_SIGNATURES = {
    "train_members": "void(*)(int64_t members, int64_t count, int64_t workspace)",
    "member_losses": "void(*)(int64_t members, int64_t count, int64_t n, int64_t workspace)",
}
_FORWARD, _LAYER_OUTPUTS, _LOSS, _GRADIENTS, _BACKWARD, _APPLY, _TRAIN = range(7)  # as in _entries.py
_FORWARD_PASS, _TRAINING_PASSES = 1, 3

_pool = Pool()
_lock = threading.Lock()
_ffi = cffi.FFI()
_ffi.cdef(_DECLARATIONS)
_new_arguments = partial(_ffi.new, _ffi.typeof("arguments *"))


def _object_code(dtype: str, target: Target, of_ensembles: bool) -> bytes:
    name = f"{dtype}-ensemble" if of_ensembles else dtype
    code = _cache.load(name, target)
    if code is None:
        from numba.core import types

        from fastmlp._backends._numba import _ensemble, _entries
        from fastmlp._backends._numba._compiler import emit_object

        entries = _ensemble.entries if of_ensembles else _entries.entries
        code = emit_object(entries(getattr(types, dtype)), target)
        _cache.keep(name, target, code)
    return code


@cache
def _functions(dtype: str, target: Target, of_ensembles: bool = False) -> dict[str, Any]:
    """The entry points by name. What LLVM has loaded stays: threads may be inside."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(target))
    engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code(dtype, target, of_ensembles)))
    engine.finalize_object()
    _engines.append(engine)
    signatures = _ENSEMBLE_SIGNATURES if of_ensembles else _SIGNATURES
    return {name: _ffi.cast(signature, engine.get_function_address(name)) for name, signature in signatures.items()}


_engines: list[Any] = []


class NumbaKernels:
    """The kernels for one dtype; see Kernels."""

    table = 0

    def __init__(self, dtype: np.dtype) -> None:
        with _lock:
            functions = _functions(dtype.name, find_target(limit()))
        self._dtype = dtype
        self._run = functions["run"]
        self._threads_for_call = functions["threads_for_call"]
        self._threads_for_run = functions["threads_for_run"]
        self._forward = functions["forward"]
        self._step_call = functions["step_call"]
        self.forward_call = functions["forward_call"]
        self.penalty = functions["penalty"]

    def _call(self, job: int, threads: int, **fields: int) -> Any:
        """Have ``threads`` do a job; returns its arguments, where results stand."""
        arguments = _new_arguments(fields)
        if threads == 1:
            self._run(job, arguments, _single_member())
        else:
            team: list[Members] = []
            _pool.run(
                threads,
                lambda index: self._run(job, arguments, team[0].addresses[index]),
                lambda count: team.append(Members(count)),
            )
        return arguments

    def forward(self, plan: int, workspace: int, examples: int, n: int, out: int, logits: int) -> None:
        threads = self._forward(plan, workspace, examples, n, out, logits)
        if threads > 1:
            self._call(
                _FORWARD, threads, plan=plan, workspace=workspace, examples=examples, n=n, out=out, option=logits
            )

    def layer_outputs(self, plan: int, workspace: int, examples: int, n: int, outs: int) -> None:
        threads = self._threads_for_call(plan, n, _FORWARD_PASS)
        self._call(_LAYER_OUTPUTS, threads, plan=plan, workspace=workspace, examples=examples, n=n, outs=outs)

    def loss(self, plan: int, workspace: int, examples: int, n: int) -> float:
        threads = self._threads_for_call(plan, n, _FORWARD_PASS)
        done = self._call(_LOSS, threads, plan=plan, workspace=workspace, examples=examples, n=n)
        return float(done.value)

    def gradients(self, plan: int, workspace: int, examples: int, n: int, gradients: int, dropout_step: int) -> float:
        threads = self._threads_for_call(plan, n, _TRAINING_PASSES)
        done = self._call(
            _GRADIENTS,
            threads,
            plan=plan,
            workspace=workspace,
            examples=examples,
            n=n,
            gradients=gradients,
            option=dropout_step,
        )
        return float(done.value)

    def backward(self, plan: int, workspace: int, examples: int, n: int, dy: int, gradients: int, dx: int) -> None:
        threads = self._threads_for_call(plan, n, _TRAINING_PASSES)
        self._call(
            _BACKWARD,
            threads,
            plan=plan,
            workspace=workspace,
            examples=examples,
            n=n,
            dy=dy,
            gradients=gradients,
            dx=dx,
        )

    def apply(self, plan: int, update: int, gradients: int) -> None:
        self._call(_APPLY, 1, plan=plan, update=update, gradients=gradients)

    def train(
        self, plan: int, workspace: int, examples: int, schedule: int, update: int, gradients: int, losses: int
    ) -> int:
        done = self._call(
            _TRAIN,
            self._threads_for_run(plan, schedule),
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
            return _functions(self._dtype.name, find_target(limit()), of_ensembles=True)

    def step_call(self, call: int, dropout_step: int) -> float:
        loss: float = self._step_call(call, dropout_step)
        if math.isnan(loss):
            # Not a number, or nothing done yet, because the step is worth several threads.
            _, plan, workspace, examples, _, _, schedule, update, gradients, losses = _ffi.unpack(
                _ffi.cast("int64_t *", call), 10
            )
            if self._threads_for_run(plan, schedule) > 1:
                self.train(plan, workspace, examples, schedule, update, gradients, losses)
                loss = _ffi.cast("double *", losses)[0]
        return loss


@cache
def _member_alone() -> Members:
    return Members(1)


def _single_member() -> int:
    return _member_alone().addresses[0]
