"""The C backend: the kernels of csrc/, built with the package where there was a compiler."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Self

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._compiled import CompiledEngine
from fastmlp._backends._compiled_ensemble import CompiledEnsemble
from fastmlp._backends._plan import TYPE_CODES
from fastmlp._layout import Layout

try:
    from fastmlp import _fastmlp_c
except ImportError as error:
    _missing: str | None = f"the C kernels were not built, or cannot be loaded ({error})"
else:
    _missing = None

NAME = "c"


def reason_missing() -> str | None:
    """Why this backend cannot be used here; None where it can."""
    return _missing


def isa() -> str:
    """The instruction set of the kernels in use."""
    return CKernels(np.dtype("float32")).isa


class CKernels:
    """The kernels for one dtype; see Kernels. cffi lets other Python threads run during each call."""

    def __init__(self, dtype: np.dtype) -> None:
        lib = _fastmlp_c.lib
        limit = os.environ.get("FASTMLP_ISA", "")
        table = lib.fastmlp_find_kernels(TYPE_CODES[dtype], limit.encode())
        if not table:
            raise ValueError(f"FASTMLP_ISA is {limit!r}; it may be 'baseline', 'avx2' or 'avx512'")
        self.isa: str = _fastmlp_c.ffi.string(lib.fastmlp_isa(table)).decode()
        self.table: int = table
        self.forward_call = lib.fastmlp_forward_call
        self.predict_call = lib.fastmlp_predict_call
        self.step_call = lib.fastmlp_step_call
        self.draw_orders = lib.fastmlp_draw_orders
        self.shuffle_orders = lib.fastmlp_shuffle_orders
        self.forward = partial(lib.fastmlp_forward, table)
        self.layer_outputs = partial(lib.fastmlp_layer_outputs, table)
        self.penalty = partial(lib.fastmlp_penalty, table)
        self.loss = partial(lib.fastmlp_loss, table)
        self.gradients = partial(lib.fastmlp_gradients, table)
        self.backward = partial(lib.fastmlp_backward, table)
        self.apply = partial(lib.fastmlp_apply, table)
        self.train = partial(lib.fastmlp_train, table)
        self.jacobian = partial(lib.fastmlp_jacobian, table)
        self.jvp = partial(lib.fastmlp_jvp, table)
        self.gradients_per_example = partial(lib.fastmlp_gradients_per_example, table)
        self.hvp = partial(lib.fastmlp_hvp, table)
        self.train_members = partial(lib.fastmlp_train_members, table)
        self.member_losses = partial(lib.fastmlp_member_losses, table)

    def address_of(self, name: str) -> int:
        """See Kernels."""
        ffi = _fastmlp_c.ffi
        return int(ffi.cast("intptr_t", ffi.addressof(_fastmlp_c.lib, f"fastmlp_{name}")))

    def needs_python(self, plan: int, n: int, passes: int) -> bool:
        """Threads are the kernels' own."""
        return False

    def derivatives(self) -> Self:
        """Further kernels: these."""
        return self


class CEngine(CompiledEngine):
    """A net's engine over the C kernels."""

    def __init__(
        self, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int, n_threads: int
    ) -> None:
        super().__init__(CKernels(architecture.dtype), architecture, layout, parameters, seed, n_threads)


class CEnsemble(CompiledEnsemble):
    """An ensemble's engine over the C kernels."""

    def __init__(
        self, architectures: Sequence[Architecture], layout: Layout, parameters: np.ndarray, seeds: np.ndarray
    ) -> None:
        super().__init__(CKernels(layout.dtype), architectures, layout, parameters, seeds)
