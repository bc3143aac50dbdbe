"""Derivatives beyond the gradient in batched NumPy: the definition of what csrc/derivatives.h computes.

A tangent is the derivative of something along a direction of the inputs, or of the parameters.
"""

from typing import NamedTuple

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Examples
from fastmlp._backends._numpy_functions import (
    ACTIVATIONS,
    DERIVATIVES,
    SECOND_DERIVATIVES,
    gradient_factor,
    loss_gradient,
    loss_gradient_tangent,
)
from fastmlp._layout import Layout

# Rows whose Jacobians, or gradients' tangents, are computed together.
BLOCK_ROWS = 512


class Trace(NamedTuple):
    """A forward pass: what each layer is given, and z, f'(z) of the hidden layers; the logits."""

    inputs: list[np.ndarray]  # A_0 .. A_{L-1}
    z: list[np.ndarray]  # Z_1 .. Z_{L-1}
    slopes: list[np.ndarray]  # f'(Z_1) .. f'(Z_{L-1})
    logits: np.ndarray


class NumpyDerivatives:
    """See Derivatives in _engine.py for the methods."""

    def __init__(self, architecture: Architecture, layout: Layout, matrices: tuple[np.ndarray, ...]) -> None:
        self._architecture = architecture
        self._layout = layout
        self._matrices = matrices

    def jacobian(self, X: np.ndarray, out: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            for block in _blocks(len(X)):
                trace = self._trace(X[block])
                rows = self._output_jacobian(trace.logits)  # (n, n_L, n_l), from the last layer to the first
                for k in range(len(self._matrices) - 1, -1, -1):
                    rows = rows @ self._matrices[k][:-1].T
                    if k > 0:
                        rows *= trace.slopes[k - 1][:, None, :]
                out[block] = rows

    def _output_jacobian(self, logits: np.ndarray) -> np.ndarray:
        """d outputs / d logits, (n, n_L, n_L)."""
        name = self._architecture.output_activation
        outputs = ACTIVATIONS[name](logits)
        unit = np.eye(logits.shape[1], dtype=logits.dtype)
        if name == "softmax":
            result: np.ndarray = outputs[:, :, None] * (unit - outputs[:, None, :])
        else:
            result = DERIVATIVES[name](logits, outputs)[:, :, None] * unit
        return result

    def jvp(self, X: np.ndarray, T: np.ndarray, Y: np.ndarray, dY: np.ndarray) -> None:
        name = self._architecture.output_activation
        with np.errstate(all="ignore"):
            for block in _blocks(len(X)):
                trace = self._trace(X[block])
                tangent = T[block]
                for matrix, slope in zip(self._matrices, trace.slopes):
                    tangent = slope * (tangent @ matrix[:-1])
                tangent = tangent @ self._matrices[-1][:-1]
                outputs = ACTIVATIONS[name](trace.logits)
                Y[block] = outputs
                if name == "softmax":
                    dY[block] = outputs * (tangent - (outputs * tangent).sum(axis=1, keepdims=True))
                else:
                    dY[block] = DERIVATIVES[name](trace.logits, outputs) * tangent

    def gradients_per_example(self, examples: Examples, out: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            for block in _blocks(len(examples.X)):
                trace, (y, scale) = self._trace(examples.X[block]), self._targets(examples, block, 1.0)
                dZ = scale * loss_gradient(*self._loss, trace.logits, y)
                stop = out.shape[1]
                for k in range(len(self._matrices) - 1, -1, -1):
                    A, n_out = trace.inputs[k], dZ.shape[1]
                    start = stop - n_out * (A.shape[1] + 1)
                    out[block, start : stop - n_out] = (dZ[:, :, None] * A[:, None, :]).reshape(len(A), -1)
                    out[block, stop - n_out : stop] = dZ
                    stop = start
                    if k > 0:
                        dZ = (dZ @ self._matrices[k][:-1].T) * trace.slopes[k - 1]

    def hvp(self, examples: Examples, direction: np.ndarray, out: np.ndarray) -> None:
        out[...] = 0.0
        sums, directions = self._layout.matrices(out), self._layout.matrices(direction)
        with np.errstate(all="ignore"):
            for block in _blocks(len(examples.X)):
                self._add_hvp(examples, block, directions, sums)
            for total, V in zip(sums, directions):
                total[:-1] += self._architecture.l2 * V[:-1]  # |w| has no second derivative

    def _add_hvp(
        self, examples: Examples, block: slice, directions: tuple[np.ndarray, ...], sums: tuple[np.ndarray, ...]
    ) -> None:
        """A block's part. Pearlmutter (see `MLP.hvp`) writes R{z} for the tangent of z."""
        trace, (y, scale) = self._trace(examples.X[block]), self._targets(examples, block, float(len(examples.X)))
        input_tangents = [np.zeros_like(trace.inputs[0])]
        bends = []  # tangents of the slopes
        z_tangent = trace.logits
        for k, (matrix, V) in enumerate(zip(self._matrices, directions)):
            z_tangent = trace.inputs[k] @ V[:-1] + V[-1] + input_tangents[k] @ matrix[:-1]
            if k < len(trace.slopes):
                name = self._architecture.activations[k]
                bends.append(SECOND_DERIVATIVES[name](trace.z[k], trace.inputs[k + 1], trace.slopes[k]) * z_tangent)
                input_tangents.append(trace.slopes[k] * z_tangent)
        dZ = scale * loss_gradient(*self._loss, trace.logits, y)
        dZ_tangent = scale * loss_gradient_tangent(*self._loss, trace.logits, y, z_tangent)
        for k in range(len(self._matrices) - 1, -1, -1):
            sums[k][:-1] += trace.inputs[k].T @ dZ_tangent + input_tangents[k].T @ dZ
            sums[k][-1] += dZ_tangent.sum(axis=0)
            if k > 0:
                weights, V = self._matrices[k][:-1], directions[k][:-1]
                dA, dA_tangent = dZ @ weights.T, dZ_tangent @ weights.T + dZ @ V.T
                dZ_tangent = dA_tangent * trace.slopes[k - 1] + dA * bends[k - 1]
                dZ = dA * trace.slopes[k - 1]

    @property
    def _loss(self) -> tuple[str, str]:
        return self._architecture.loss, self._architecture.output_activation

    def _targets(self, examples: Examples, block: slice, divisor: float) -> tuple[np.ndarray, np.ndarray]:
        """A block's targets, and what each example's derivatives are multiplied by, (n, 1)."""
        dtype = self._architecture.dtype
        y = examples.y[block]
        factor = gradient_factor(self._architecture.loss, self._architecture.layer_sizes[-1]) / divisor
        weight = np.ones(len(y)) if examples.sample_weight is None else examples.sample_weight[block]
        return (y.astype(dtype, copy=False) if y.ndim == 2 else y), (weight * factor).astype(dtype)[:, None]

    def _trace(self, X: np.ndarray) -> Trace:
        inputs, zs, slopes = [np.ascontiguousarray(X, dtype=self._architecture.dtype)], [], []
        for matrix, name in zip(self._matrices, self._architecture.activations):
            z = inputs[-1] @ matrix[:-1] + matrix[-1]
            a = ACTIVATIONS[name](z)
            inputs.append(a)
            zs.append(z)
            slopes.append(DERIVATIVES[name](z, a))
        return Trace(inputs, zs, slopes, inputs[-1] @ self._matrices[-1][:-1] + self._matrices[-1][-1])


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS)]
