"""The one matrix product of the package: a tile of a few rows by a few vectors, summed in registers.

    sum[i][j] = start[i][j] + sum_k a[i][k] * b[k][j],  and then  c = sum  or  c += scale * sum

As csrc/tile.h. Every output adds k = 0, 1, 2, ... with one multiply_add each, whatever the tile: results do not depend
on how the work is cut. ``b`` and ``c`` have rows of whole aligned vectors. Of ``a`` one stride is 1: from k to k + 1
where rows of it are multiplied (forward, and the input's gradient), from row to row where columns are (the weights'
gradient).
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba import _tile_code
from fastmlp._backends._numba._compiler import call_of_table, inline, kernel, primitive
from fastmlp._backends._numba._gather import FETCHED_ROWS, fetch_lines
from fastmlp._backends._numba._memory import (
    INT64,
    SCALARS,
    Pointer,
    Struct,
    array_constructor,
    constructor,
    is_set,
    pick,
)
from fastmlp._backends._numba._structs import Reals
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._tile_code import (
    COLUMNS_OF_A,
    HALF,
    MAX_TILE_ROWS,
    MAX_TILE_VECTORS,
    UNROLLED,
    tile_module,
)
from fastmlp._backends._numba._vector import lanes, prefetch, whole_vectors


@primitive
def tile_registers() -> Any:
    count = _tile_code.tile_registers(current_target())
    return types.int64, lambda builder: INT64(count)


@primitive
def tile_vectors() -> Any:
    """The widest column of tiles where there are rows enough."""
    count = 3 if _tile_code.tile_registers(current_target()) == 24 else 2
    return types.int64, lambda builder: INT64(count)


@primitive
def has_halves() -> Any:
    is_so = int(current_target().vector_bytes == 64)
    return types.int64, lambda builder: INT64(is_so)


# Rows of a column of tiles; a list of them ends with one that has none.
def column_rows_struct(real: Any) -> Struct:
    return Struct(f"column_rows_{real}", {"start": Pointer(real), "row": types.int64, "rows": types.int64})


column_rows_list = array_constructor(column_rows_struct, 5)
ColumnRows = Any


@inline
def append_rows(rows: ColumnRows, n: int, start: Reals, row: int, count: int) -> int:
    """Puts them in place n of a list, and ends it there; returns how many there are."""
    (rows + n).start = start
    (rows + n).row = row
    (rows + n).rows = count
    (rows + (n + 1)).rows = 0
    return n + 1


Product = Any


def product_struct(real: Any) -> Struct:
    return Struct(
        f"product_{real}",
        {
            "a": Pointer(real),
            "a_stride": types.int64,  # elements from row to row; of columns from k to k + 1
            "b": Pointer(real),
            "b_row": types.int64,
            "start": Pointer(real),  # for rows of a; columns start from +0. One row for all (start_row 0) or a row each
            "start_row": types.int64,
            "c": Pointer(real),
            "c_row": types.int64,
            "depth": types.int64,
            "scale": real,  # 0: c is overwritten
            # What will be read soon: fetched while this is computed, a row with every four k.
            "next": Pointer(real),
            "next_row": types.int64,
            "next_rows": types.int64,
            "then": Pointer(column_rows_struct(real)),  # and what after that; or null
            "fetched": Pointer(FETCHED_ROWS),  # a line of them with every four k, too; or null
        },
    )


product = constructor(product_struct, like="a")


@primitive
def tile_multiply(kind: Any, rows: Any, vectors: Any, p: Any) -> Any:
    """Computes the tile of so many rows and vectors that the product describes."""
    struct = p.target
    real = struct.fields["a"].target

    def emit(builder: ir.IRBuilder, kind_of_a: Any, row_count: Any, vector_count: Any, operand: Any) -> None:
        column = builder.add(builder.mul(kind_of_a, INT64(1 + MAX_TILE_VECTORS)), vector_count)
        number = builder.add(builder.mul(column, INT64(MAX_TILE_ROWS)), builder.sub(row_count, INT64(1)))
        call_of_table(
            builder,
            f"tiles_{real}",
            lambda name: tile_module(name, current_target(), str(SCALARS[real]), list(struct.fields)),
            number,
            operand,
        )

    return types.void, emit


@inline
def most_tile_rows(vectors: int) -> int:
    """The most rows a tile of so many vectors may have."""
    if vectors <= 1:
        return 12
    return tile_registers() // (8 if vectors > 4 else vectors)


@kernel
def next_tile_vectors(rows: int, outputs: int, like: Reals) -> int:
    """How many vectors the next column of tiles takes, or HALF, where so many outputs are left.

    Few rows want wide tiles, since every accumulator is a chain of dependent sums and a core needs 8 to 10 of them at
    once.
    """
    left = whole_vectors(outputs, like)
    if has_halves() and outputs <= left * lanes(like) - lanes(like) // 2:
        if left == 1:
            return HALF
        if rows >= MAX_TILE_ROWS:
            left -= 1
    widest = tile_vectors()
    while widest < MAX_TILE_VECTORS and most_tile_rows(widest + 1) >= rows:
        widest += 1
    if left <= widest or left == 3:
        return left
    if left == widest + 1:
        return (left + 1) // 2  # no single vector for last
    return widest


@inline
def touched(vectors: int) -> int:
    """Vectors that are loaded and stored for it."""
    return pick(vectors == HALF, 1, vectors)


@kernel
def fetch_then(p: Product) -> None:
    """The next rows of the list are fetched from now on; where there are none, a line again and again."""
    p.next_row = 0
    if p.then.rows == 0:
        return
    p.next = p.then.start
    p.next_row = p.then.row
    p.next_rows = p.then.rows
    p.then = p.then + 1


@kernel
def multiply(kind: int, rows: int, vectors: int, p: Product) -> None:
    """All rows of one column of tiles of some vectors, or HALF, the last two of one height. Moves the product on by
    them."""
    most = most_tile_rows(vectors)
    fetched = p.depth // UNROLLED
    reads_c = p.scale != 0 or p.start_row != 0
    while rows > 0:
        tile_rows = most
        if rows <= most:
            tile_rows = rows
        elif rows < 2 * most:
            tile_rows = (rows + 1) // 2
        if reads_c:
            for row in range(tile_rows, 2 * tile_rows):
                prefetch(p.c + row * p.c_row)
        if is_set(p.fetched):
            fetch_lines(p.fetched, fetched)
        tile_multiply(kind, tile_rows, vectors, p)
        p.a = p.a + (tile_rows if kind == COLUMNS_OF_A else tile_rows * p.a_stride)
        p.start = p.start + tile_rows * p.start_row
        p.c = p.c + tile_rows * p.c_row
        p.next = p.next + fetched * p.next_row
        p.next_rows -= fetched
        rows -= tile_rows
        if p.next_rows > 0:
            continue
        if is_set(p.then):
            fetch_then(p)
        else:
            p.next_row = 0
