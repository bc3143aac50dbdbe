"""The kernels of _derivatives.py as Python calls them; see _kernels.py."""

import threading
from functools import cache
from typing import Any

import cffi
import numpy as np

from fastmlp._backends._numba._kernels import Team, functions, load_addresses
from fastmlp._backends._numba._target import Target, find_target, limit

_DECLARATIONS = """
typedef struct {
    int64_t plan, derivatives, workspace, examples, n, direction, y, out;
} derivative_arguments;
"""
_SIGNATURES = {
    "run_derivatives": "void(*)(int64_t job, derivative_arguments *c, int64_t member)",
    "call_derivatives": "int64_t(*)(int64_t team, int64_t job, derivative_arguments *c)",
}
_JACOBIAN, _JVP, _GRADIENTS_PER_EXAMPLE, _HVP = range(4)  # as in _derivative_entries.py

_lock = threading.Lock()
_ffi = cffi.FFI()
_ffi.cdef(_DECLARATIONS)


@cache
def _functions(dtype: str, target: Target) -> tuple[Any, ...]:
    def entries() -> list[Any]:
        from numba.core import types

        from fastmlp._backends._numba._derivative_entries import derivative_entries

        return derivative_entries(getattr(types, dtype))

    address = load_addresses(f"derivatives-{dtype}", target, entries)
    return tuple(_ffi.cast(signature, address(name)) for name, signature in _SIGNATURES.items())


class NumbaDerivativeKernels:
    """The kernels for one dtype; see DerivativeKernels."""

    def __init__(self, dtype: np.dtype) -> None:
        known = functions(dtype)
        with _lock:
            run, call = _functions(dtype.name, find_target(limit()))
        self._team = Team(known, run, call)

    def _call(self, job: int, **fields: int) -> None:
        self._team.call(job, _ffi.new("derivative_arguments *", fields))

    def jacobian(self, plan: int, derivatives: int, workspace: int, examples: int, n: int, out: int) -> None:
        self._call(_JACOBIAN, plan=plan, derivatives=derivatives, workspace=workspace, examples=examples, n=n, out=out)

    def jvp(self, plan: int, derivatives: int, workspace: int, examples: int, n: int, t: int, y: int, dy: int) -> None:
        self._call(
            _JVP,
            plan=plan,
            derivatives=derivatives,
            workspace=workspace,
            examples=examples,
            n=n,
            direction=t,
            y=y,
            out=dy,
        )

    def gradients_per_example(
        self, plan: int, derivatives: int, workspace: int, examples: int, n: int, out: int
    ) -> None:
        self._call(
            _GRADIENTS_PER_EXAMPLE,
            plan=plan,
            derivatives=derivatives,
            workspace=workspace,
            examples=examples,
            n=n,
            out=out,
        )

    def hvp(self, plan: int, derivatives: int, workspace: int, examples: int, n: int, v: int, out: int) -> None:
        self._call(
            _HVP,
            plan=plan,
            derivatives=derivatives,
            workspace=workspace,
            examples=examples,
            n=n,
            direction=v,
            out=out,
        )
