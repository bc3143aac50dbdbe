"""The Numba backend: the kernels of csrc/ in Python, compiled when a wheel is made or at their first use. Needs no
compiler.

Kernels: _vector, _elementary, _tile (with _tile_code), _activation, _philox, _gather, _update, _dense, _narrow,
_columns, _loss, _network, _entries, _derivatives, _hessian, _derivative_entries, _lanes (with _lane_tile), _ensemble
and _orders stand for the files of the same names in csrc/, _team and _watch for csrc/team.c; _specialized makes kernels
of one architecture. What compiles them: _memory (pointers and structs), _compiler, _code, _target, _ship; what
runs it: _cache, _kernels, _derivative_kernels, _pool.
"""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._compiled import CompiledEngine
from fastmlp._backends._compiled_ensemble import CompiledEnsemble
from fastmlp._layout import Layout

NAME = "numba"
OLDEST_NUMBA = (0, 61)


def reason_missing() -> str | None:
    """Why this backend cannot be used here; None where it can. Does not import Numba."""
    if find_spec("numba") is None:
        return "numba is not installed"
    installed = version("numba")
    if tuple(map(int, installed.split(".")[:2])) < OLDEST_NUMBA:
        return f"numba {installed} is too old: {'.'.join(map(str, OLDEST_NUMBA))} is needed"
    try:
        import llvmlite.binding  # noqa: F401
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be loaded ({error})"
    return None


def isa() -> str:
    """The instruction set of the kernels in use."""
    from fastmlp._backends._numba._target import find_target, limit

    return find_target(limit()).isa


class NumbaEngine(CompiledEngine):
    """A net's engine over the Numba kernels."""

    def __init__(
        self, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int, n_threads: int
    ) -> None:
        from fastmlp._backends._numba._kernels import NumbaKernels

        super().__init__(NumbaKernels(architecture.dtype), architecture, layout, parameters, seed, n_threads)


class NumbaEnsemble(CompiledEnsemble):
    """An ensemble's engine over the Numba kernels."""

    def __init__(
        self, architectures: Sequence[Architecture], layout: Layout, parameters: np.ndarray, seeds: np.ndarray
    ) -> None:
        from fastmlp._backends._numba._kernels import NumbaKernels

        super().__init__(NumbaKernels(layout.dtype), architectures, layout, parameters, seeds)
