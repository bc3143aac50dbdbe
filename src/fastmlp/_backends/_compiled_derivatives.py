"""Derivatives beyond the gradient by the compiled kernels; CompiledEngine makes one of these at their first use."""

from typing import Protocol

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._addresses import address
from fastmlp._backends._derivative_plan import DerivativePlan
from fastmlp._backends._engine import Examples
from fastmlp._backends._plan import examples_record, readable
from fastmlp._layout import Layout


class DerivativeKernels(Protocol):
    """One backend's kernels for one dtype; csrc/fastmlp.h says what each does. Every array comes as its address."""

    def jacobian(self, plan: int, derivatives: int, workspace: int, examples: int, n: int, out: int) -> None: ...
    def jvp(
        self, plan: int, derivatives: int, workspace: int, examples: int, n: int, t: int, y: int, dy: int
    ) -> None: ...
    def gradients_per_example(
        self, plan: int, derivatives: int, workspace: int, examples: int, n: int, out: int
    ) -> None: ...
    def hvp(self, plan: int, derivatives: int, workspace: int, examples: int, n: int, v: int, out: int) -> None: ...


class CompiledDerivatives:
    """Turns arrays into addresses; see Engine for what each call does. Calls take workspaces from a pool."""

    def __init__(
        self,
        kernels: DerivativeKernels,
        architecture: Architecture,
        layout: Layout,
        parameters: np.ndarray,
        seed: int,
        n_threads: int,
    ) -> None:
        self._kernels = kernels
        self._plan = DerivativePlan(architecture, layout, parameters, seed, n_threads)
        self._workspaces: list[tuple[np.ndarray, int]] = []

    def jacobian(self, X: np.ndarray, out: np.ndarray) -> None:
        X = readable(X)
        self._call("jacobian", examples_record(X, None, None, None), len(X), out)

    def jvp(self, X: np.ndarray, T: np.ndarray, Y: np.ndarray, dY: np.ndarray) -> None:
        X = readable(X)
        self._call("jvp", examples_record(X, None, None, None), len(X), T, Y, dY)

    def gradients_per_example(self, examples: Examples, out: np.ndarray) -> None:
        X, y = readable(examples.X), readable(examples.y)
        self._call("gradients_per_example", examples_record(X, y, examples.sample_weight, None), len(X), out)

    def hvp(self, examples: Examples, direction: np.ndarray, out: np.ndarray) -> None:
        X, y = readable(examples.X), readable(examples.y)
        self._call("hvp", examples_record(X, y, examples.sample_weight, None), len(X), direction, out)

    def _call(self, name: str, examples: np.ndarray, n: int, *arrays: np.ndarray) -> None:
        workspace, place = self._workspaces.pop() if self._workspaces else self._new_workspace()
        plan = self._plan
        kernel = getattr(self._kernels, name)
        kernel(plan.address, plan.derivatives_address, place, address(examples), n, *map(address, arrays))
        self._workspaces.append((workspace, place))

    def _new_workspace(self) -> tuple[np.ndarray, int]:
        workspace = self._plan.new_workspace()
        return workspace, address(workspace)
