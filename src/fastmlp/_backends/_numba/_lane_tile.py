"""The product of an ensemble, all of whose numbers are vectors: sum[i][j] = start[j] + sum_k a[i][k] * b[k][j]. As in
csrc/lanes.h. Tiles are written as LLVM IR."""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._code import Code, Values, table_of_functions
from fastmlp._backends._numba._compiler import call_of_table, kernel, primitive
from fastmlp._backends._numba._memory import INT64, SCALARS, Pointer, Struct, constructor
from fastmlp._backends._numba._target import Target, current_target
from fastmlp._backends._numba._vector import lanes, smaller

# 12 sums, 3 vectors of b and one of a fill 16 registers; 12 chains of sums keep two multipliers busy.
LANE_SUMS = 12
LANE_COLUMNS = 3
LANE_POINTER_ROWS = 4

LaneProduct = Any


def lane_product_struct(real: Any) -> Struct:
    return Struct(
        f"lane_product_{real}",
        {
            "a": Pointer(real),
            "a_row": types.int64,  # in elements, from vector to vector
            "a_step": types.int64,
            "b": Pointer(real),
            "b_step": types.int64,
            "b_column": types.int64,
            "start": Pointer(real),
            "start_column": types.int64,
            "c": Pointer(real),  # columns side by side
            "c_row": types.int64,
            "depth": types.int64,
        },
    )


lane_product = constructor(lane_product_struct, like="a")


class _LaneTile(Code):
    def __init__(self, target: Target, real: str, fields: list[str], rows: int, columns: int) -> None:
        super().__init__(f"lane_tile.{rows}x{columns}", target, real, fields)
        self.rows, self.columns = rows, columns
        self.a_bytes = self.stride("a_row")
        self.a_thrice = self.opaque(self.times(self.a_bytes, 3), "i64")

    def emit(self) -> str:
        start, start_column = self.pointer("start"), self.stride("start_column")
        a_step, b_step, b_column = map(self.stride, ("a_step", "b_step", "b_column"))
        c, c_row = self.pointer("c"), self.stride("c_row")
        a = [self.pointer("a")]
        while len(a) * LANE_POINTER_ROWS < self.rows:
            a.append(self.opaque(self.moved(a[-1], self.times(self.a_bytes, LANE_POINTER_ROWS))))

        def step(places: Values, sums: Values) -> tuple[Values, Values]:
            b, *a_k = places
            row_of_b = self._columns_at(b, b_column)
            results = []
            for i in range(self.rows):
                pointer, number = a_k[i // LANE_POINTER_ROWS], i % LANE_POINTER_ROWS
                x = self.load(self.at_multiple(pointer, self.a_bytes, self.a_thrice, number))
                before = sums[i * self.columns : (i + 1) * self.columns]
                results += [self.multiply_add(x, row, total) for row, total in zip(row_of_b, before)]
            return [self.moved(b, b_step), *(self.moved(pointer, a_step) for pointer in a_k)], results

        starts = self._columns_at(start, start_column) * self.rows
        _, sums = self.loop(self.field("depth"), [self.pointer("b"), *a], starts, step)
        for i in range(self.rows):
            for j in range(self.columns):
                self.store(sums[i * self.columns + j], self.moved(c, self.times(c_row, i)) if i else c, j)
        self.finish()
        return self.text()

    def _columns_at(self, pointer: str, stride: str) -> Values:
        return [self.load(self.moved(pointer, self.times(stride, j)) if j else pointer) for j in range(self.columns)]


def _lane_tile_module(name: str, target: Target, real: str, fields: list[str]) -> str:
    """IR of every tile, and of their table [columns - 1][rows - 1]."""
    functions = [
        _LaneTile(target, real, fields, rows, columns).emit() if rows * columns <= LANE_SUMS else None
        for columns in range(1, LANE_COLUMNS + 1)
        for rows in range(1, LANE_SUMS + 1)
    ]
    return table_of_functions(name, target, real, functions)


@primitive
def lane_tile(rows: Any, columns: Any, p: Any) -> Any:
    """Computes the tile of so many rows and columns that the product describes."""
    struct = p.target
    real = struct.fields["a"].target

    def emit(builder: ir.IRBuilder, row_count: Any, column_count: Any, operand: Any) -> None:
        column = builder.mul(builder.sub(column_count, INT64(1)), INT64(LANE_SUMS))
        number = builder.add(column, builder.sub(row_count, INT64(1)))
        call_of_table(
            builder,
            f"lane_tiles_{real}",
            lambda name: _lane_tile_module(name, current_target(), str(SCALARS[real]), list(struct.fields)),
            number,
            operand,
        )

    return types.void, emit


@kernel
def lane_multiply(rows: int, columns: int, p: LaneProduct) -> None:
    """The whole product, tile by tile."""
    a = p.a
    j = 0
    while j < columns:
        left = columns - j
        step = 2 if left == 4 else smaller(left, LANE_COLUMNS)  # no single column for last
        most = LANE_SUMS // step
        c = p.c
        i = 0
        while i < rows:
            n = rows - i
            if n > most:
                n = (n + 1) // 2 if n < 2 * most else most
            lane_tile(n, step, p)
            p.a = p.a + n * p.a_row
            p.c = p.c + n * p.c_row
            i += n
        p.a = a
        p.b = p.b + step * p.b_column
        p.start = p.start + step * p.start_column
        p.c = c + step * lanes(c)
        j += step
