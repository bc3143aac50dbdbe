"""How the parameters of a net lie in memory; gradients and optimizer state lie the same way.

One arena holds every layer as a row-major matrix of n_in + 1 rows: row i carries the weights that leave
input i, the last row is the bias. Rows are padded with zeros to whole cache lines; W_l of shape
(n_out, n_in) and b_l are plain strided views.
"""

import math

import numpy as np

from fastmlp import _guards

LINE_BYTES = 64


def leading_dimension(n: int, itemsize: int) -> int:
    """Elements from one row of ``n`` to the next: whole cache lines, and an odd number of them from 8 up.

    An even number of lines puts rows that are used together on the same sets of the cache (4 KB aliasing),
    which cost 2-6 % on nets 512 and more wide.
    """
    lines = max(1, math.ceil(n * itemsize / LINE_BYTES))
    if lines >= 8 and lines % 2 == 0:
        lines += 1
    return lines * LINE_BYTES // itemsize


def aligned_zeros(n: int, dtype: "np.dtype | type") -> np.ndarray:
    """A zeroed vector of ``n`` elements that starts on a cache line."""
    dtype = np.dtype(dtype)
    n_bytes = n * dtype.itemsize
    margin = _guards.GUARD_BYTES if _guards.active else 0
    raw = np.zeros(n_bytes + LINE_BYTES + 2 * margin, dtype=np.uint8)
    start = margin + -raw.ctypes.data % LINE_BYTES
    if margin:
        _guards.guard(raw, [slice(start - margin, start), slice(start + n_bytes, start + n_bytes + margin)])
    return raw[start : start + n_bytes].view(dtype)


def guard_inside(arena: np.ndarray, gaps: list[tuple[int, int]]) -> None:
    """Watch some gaps of an arena, each from one element to before another, where arenas are guarded."""
    if _guards.active:
        memory = arena.base
        assert isinstance(memory, np.ndarray)
        start = arena.ctypes.data - memory.ctypes.data
        _guards.guard(memory, [slice(start + a * arena.itemsize, start + b * arena.itemsize) for a, b in gaps])


class Layout:
    """Where each layer's matrix lies in an arena of ``size`` elements."""

    def __init__(self, layer_sizes: tuple[int, ...], dtype: np.dtype) -> None:
        self.layer_sizes = layer_sizes
        self.dtype = np.dtype(dtype)
        self.leading: list[int] = []
        self.offsets: list[int] = []
        self.size = 0
        for n_in, n_out in zip(layer_sizes, layer_sizes[1:]):
            leading = leading_dimension(n_out, self.dtype.itemsize)
            self.leading.append(leading)
            self.offsets.append(self.size)
            self.size += (n_in + 1) * leading

    def arena(self) -> np.ndarray:
        """A new arena of zeros."""
        return aligned_zeros(self.size, self.dtype)

    def matrices(self, arena: np.ndarray) -> tuple[np.ndarray, ...]:
        """Per layer the (n_in + 1, n_out) matrix, bias row last, without padding: views of ``arena``."""
        views = []
        for n_in, n_out, leading, offset in zip(self.layer_sizes, self.layer_sizes[1:], self.leading, self.offsets):
            rows = arena[offset : offset + (n_in + 1) * leading].reshape(n_in + 1, leading)
            views.append(rows[:, :n_out])
        return tuple(views)

    def weights(self, arena: np.ndarray) -> tuple[np.ndarray, ...]:
        """Per layer W_l of shape (n_out, n_in): views of ``arena``."""
        return tuple(matrix[:-1].T for matrix in self.matrices(arena))

    def biases(self, arena: np.ndarray) -> tuple[np.ndarray, ...]:
        """Per layer b_l of shape (n_out,): views of ``arena``."""
        return tuple(matrix[-1] for matrix in self.matrices(arena))

    def flatten(self, arena: np.ndarray) -> np.ndarray:
        """One flat copy, layer by layer, W_l row-major and then b_l."""
        arrays = [array for pair in zip(self.weights(arena), self.biases(arena)) for array in pair]
        flat = np.empty(sum(array.size for array in arrays), self.dtype)
        start = 0
        for array in arrays:
            flat[start : start + array.size].reshape(array.shape)[...] = array
            start += array.size
        return flat

    def unflatten(self, flat: np.ndarray, arena: np.ndarray) -> None:
        """The inverse of ``flatten``, written into ``arena``."""
        start = 0
        for weights, bias in zip(self.weights(arena), self.biases(arena)):
            weights[...] = flat[start : start + weights.size].reshape(weights.shape)
            start += weights.size
            bias[...] = flat[start : start + bias.size]
            start += bias.size
