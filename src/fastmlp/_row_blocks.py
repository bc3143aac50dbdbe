"""Examples that go through a net a block of rows at a time, because kernels cannot read them where they are.

Sparse matrices; objects that give their rows in slices, such as data sets of h5py and zarr; large arrays of other
dtypes, which would take several times their memory if they were converted at once.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._backends._engine import Examples
from fastmlp._block_order import default_block_rows
from fastmlp._checks import (
    KERNEL_DTYPES,
    check_input_shape,
    check_length,
    check_numbers,
    check_sample_weight,
    check_targets,
    is_sliced,
    is_sparse,
)

if TYPE_CHECKING:
    from fastmlp._architecture import Architecture
    from fastmlp._mlp import MLP

# Smaller arrays are converted at once.
SMALL_ELEMENTS = 2**20
# Of a block after its conversion, which stays in the cache; in whole blocks of 512 rows, as large as an engine's.
CONVERTED_BYTES = 2**21
ENGINE_ROWS = 512


def comes_in_blocks(X: Any) -> bool:
    """Whether X is better read block by block than converted at once."""
    if isinstance(X, np.ndarray):
        if X.size <= SMALL_ELEMENTS or (X.dtype in KERNEL_DTYPES and X.flags.aligned):
            return False
        return X.ndim == 2 and X.dtype.kind in "biuf" and not isinstance(X, np.ma.MaskedArray)
    return is_sparse(X) or (is_sliced(X) and len(X.shape) == 2)


def row_blocks(X: Any, n_features: int, dtype: np.dtype) -> Iterator[tuple[slice, np.ndarray]]:
    """An X of shape (n, n_features) that comes in blocks, as arrays that engines can read, each with its place."""
    check_input_shape(X.shape, n_features)
    n = int(X.shape[0])
    if is_sliced(X):
        step = default_block_rows(X, CONVERTED_BYTES)
        for start in range(0, n, step):
            place = slice(start, min(start + step, n))
            yield place, check_numbers("X", rows_of(X, place, n_features), dtype)
        return
    rows = X.tocsr() if is_sparse(X) else X
    step = max(1, CONVERTED_BYTES // (ENGINE_ROWS * n_features * dtype.itemsize)) * ENGINE_ROWS
    for start in range(0, n, step):
        place = slice(start, min(start + step, n))
        block = rows[place]
        yield place, check_numbers("X", block.toarray() if is_sparse(block) else block, dtype)


def rows_of(X: Any, place: slice, n_features: int) -> np.ndarray:
    """A slice of the rows of what gives them in slices; whatever it returns is checked."""
    rows = X[place]
    if isinstance(rows, np.ma.MaskedArray):
        if np.ma.is_masked(rows):
            raise TypeError(f"X[{place.start}:{place.stop}] is masked; fill or drop what is masked first")
        rows = rows.data
    block = np.asarray(rows)
    if block.shape != (place.stop - place.start, n_features) or block.dtype.kind not in "biuf":
        raise ValueError(
            f"X[{place.start}:{place.stop}] gave an array of {block.dtype} of shape {block.shape}; "
            f"expected real numbers of shape {(place.stop - place.start, n_features)}"
        )
    return block


Reader = Callable[[slice], Any]


def targets_reader(y: Any, n: int, architecture: "Architecture") -> Reader:
    """What gives the targets of a slice of the n examples, checked: at once, or of what is sliced then and there."""
    if not is_sliced(y):
        return check_targets(y, n, architecture).__getitem__
    check_length("y", y, n)

    def read(place: slice) -> np.ndarray:
        return check_targets(y[place], place.stop - place.start, architecture)

    return read


def weights_reader(sample_weight: Any, n: int) -> Reader:
    """The same for sample weights; of None it gives None."""
    if not is_sliced(sample_weight):
        weight = check_sample_weight(sample_weight, n)
        return lambda place: None if weight is None else weight[place]
    check_length("sample_weight", sample_weight, n)
    return lambda place: check_sample_weight(sample_weight[place], place.stop - place.start)


def loss_in_blocks(net: "MLP", X: Any, y: Any, sample_weight: Any) -> float:
    """``net.loss`` of an X that comes in blocks."""
    n = int(X.shape[0])
    if n == 0:
        raise ValueError("X has no examples")
    targets = targets_reader(y, n, net._architecture)
    weights = weights_reader(sample_weight, n)
    penalty = net._engine.penalty()
    total = 0.0
    for place, rows in row_blocks(X, net.layer_sizes[0], net.dtype):
        examples = Examples(rows, targets(place), weights(place))
        total += (net._engine.loss(examples) - penalty) * len(rows)
    return total / n + penalty
