"""Examples as the kernels want them: rows of reals, gathered and converted block by block where they are not. As
csrc/gather.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._memory import (
    Pointer,
    Struct,
    as_real,
    constructor,
    copy_reals,
    float32_at,
    float64_at,
    int64_at,
    is_set,
    pick,
    reals_at,
    size_of_real,
)
from fastmlp._backends._numba._structs import EXAMPLES, FLOAT32, FLOAT64, Examples, Reals
from fastmlp._backends._numba._vector import is_single, prefetch, prefetch_for_later

Bytes = Any


@inline
def example_row(e: Examples, i: int) -> int:
    if is_set(e.order):
        return e.order[i]
    return i


@inline
def is_own_type(code: int, column_stride: int, like: Reals) -> bool:
    """Whether numbers are reals side by side."""
    return code == pick(is_single(like), FLOAT32, FLOAT64) and column_stride == size_of_real(like)


@kernel
def convert_long_row(to: Reals, source: Bytes, column_stride: int, code: int, n: int) -> None:
    if is_own_type(code, column_stride, to):
        copy_reals(to, reals_at(source, to), n)
    elif code == FLOAT32:
        for j in range(n):
            to[j] = as_real(float32_at(source + j * column_stride), to)
    elif code == FLOAT64:
        for j in range(n):
            to[j] = as_real(float64_at(source + j * column_stride), to)
    else:
        for j in range(n):
            to[j] = as_real(int64_at(source + j * column_stride), to)


FEW_NUMBERS = 8  # are copied sooner than a function is called


@inline
def convert_row(to: Reals, source: Bytes, column_stride: int, code: int, n: int) -> None:
    if n >= FEW_NUMBERS or not is_own_type(code, column_stride, to):
        convert_long_row(to, source, column_stride, code, n)
    else:
        reals = reals_at(source, to)
        for j in range(n):
            to[j] = reals[j]


@inline
def convert_number(source: Bytes, code: int, like: Reals) -> float:
    if code == FLOAT32:
        return as_real(float32_at(source), like)
    if code == FLOAT64:
        return as_real(float64_at(source), like)
    return as_real(int64_at(source), like)


CROWDED_STRIDE = 2048  # rows so many bytes apart share a few sets of the cache
EXAMPLES_AHEAD = 8  # shuffled rows come from anywhere: their first lines are fetched so early
PAGES_AHEAD = 4  # long rows that are fetched for a step to come: each has pages of its own
LONG_ROW = 512  # bytes


@inline
def fetch_example(e: Examples, row: int) -> None:
    """Fetches where an example begins, and its target."""
    prefetch(e.x + row * e.x_row)
    prefetch(e.x + (row * e.x_row + 64))
    prefetch(e.y + row * e.y_row)


# The examples of a step to come, fetched into the second cache a few lines at a time while the tiles of this one are
# computed.
FETCHED_ROWS = Struct(
    "fetched_rows",
    {
        "examples": Pointer(EXAMPLES),
        "next": types.int64,  # examples
        "to": types.int64,
        "place": types.int64,  # in the row of the next one
        "row_bytes": types.int64,
    },
)
FetchedRows = Any
fetched_rows = constructor(lambda real: FETCHED_ROWS, like="next")
# Bytes of a step: less is there at once, more would push out the weights.
LEAST_FETCHED = 2048
MOST_FETCHED = 1 << 18


@kernel
def fetch_lines(f: FetchedRows, lines: int) -> None:
    e = f.examples
    while lines > 0 and f.next < f.to:
        row = example_row(e, f.next)
        if f.place == 0:
            prefetch_for_later(e.y + row * e.y_row)
            if is_set(e.order) and f.row_bytes >= LONG_ROW and f.next + PAGES_AHEAD < f.to:
                x = e.x + e.order[f.next + PAGES_AHEAD] * e.x_row
                prefetch_for_later(x)
                prefetch_for_later(x + (f.row_bytes - 1))
        while lines > 0 and f.place < f.row_bytes:
            prefetch_for_later(e.x + (row * e.x_row + f.place))
            f.place += 64
            lines -= 1
        if f.place >= f.row_bytes:
            f.next += 1
            f.place = 0


@kernel
def input_rows(
    e: Examples, first: int, block_rows: int, begin: int, end: int, n_features: int, buffer: Reals, leading: int
) -> tuple[Reals, int]:
    """The inputs of a block that begins with example ``first``: where they are, if the tile can read them there and
    reads them well, else in ``buffer``, to which rows begin .. end - 1 are brought; and elements from row to row."""
    if (
        not is_set(e.order)
        and is_own_type(e.x_type, e.x_column, buffer)
        and e.x_row >= 0
        and (e.x_row % CROWDED_STRIDE != 0 or block_rows < 8)
    ):
        return reals_at(e.x + first * e.x_row, buffer), e.x_row // size_of_real(buffer)
    for i in range(begin, end):
        if is_set(e.order) and i + EXAMPLES_AHEAD < end:
            fetch_example(e, e.order[first + i + EXAMPLES_AHEAD])
        row = example_row(e, first + i)
        convert_row(buffer + i * leading, e.x + row * e.x_row, e.x_column, e.x_type, n_features)
    return buffer, leading
