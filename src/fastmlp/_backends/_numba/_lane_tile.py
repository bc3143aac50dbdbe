"""The product of an ensemble, all of whose numbers are vectors: sum[i][j] = start[j] + sum_k a[i][k] * b[k][j]. As in
csrc/lanes.h. Tiles are written in LLVM IR, as those of _tile.py."""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import kernel, primitive
from fastmlp._backends._numba._memory import INT32, INT64, Pointer, Struct, constructor
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._tile import _TileEmitter
from fastmlp._backends._numba._vector import Vector, emit_multiply_add, lanes, smaller

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


class _LaneTileEmitter(_TileEmitter):
    """Emits one tile after the other into the cases of a switch."""

    a_row: Any
    a_step: Any
    b_step: Any
    b_column: Any
    start_column: Any

    def __init__(self, builder: ir.IRBuilder, struct: Struct, operands: Any) -> None:
        self.builder = builder
        real = struct.fields["a"].target
        self.vector = Vector(real)
        self.alignment = current_target().vector_bytes
        for name in struct.fields:
            place = builder.gep(operands, [INT32(0), INT32(struct.place_of(name))])
            setattr(self, name, builder.load(place))
        self.a_bytes = builder.mul(self.a_row, INT64(real.bitwidth // 8))
        self.a_thrice = self._opaque(builder.mul(self.a_bytes, INT64(3)))

    def emit_tile(self, rows: int, columns: int, done: Any) -> None:
        """One tile, from the block at hand to ``done``."""
        builder = self.builder
        starts = [self._vector(self.start, self.start_column, j) for j in range(columns)] * rows
        a = [self.a]
        while len(a) * LANE_POINTER_ROWS < rows:
            a.append(self._opaque(self._moved(a[-1], builder.mul(self.a_bytes, INT64(LANE_POINTER_ROWS)))))

        def step(places: list[Any], sums: list[Any]) -> tuple[list[Any], list[Any]]:
            b, *a_k = places
            row_of_b = [self._vector(b, self.b_column, j) for j in range(columns)]
            results = []
            for i in range(rows):
                pointer, place = a_k[i // LANE_POINTER_ROWS], i % LANE_POINTER_ROWS
                x = self._vector(self._at_multiple(pointer, self.a_bytes, self.a_thrice, place), self.a_row, 0)
                results += [emit_multiply_add(builder, x, row_of_b[j], sums[i * columns + j]) for j in range(columns)]
            return [builder.gep(b, [self.b_step]), *(builder.gep(p, [self.a_step]) for p in a_k)], results

        _, sums = self._loop(self.depth, [self.b, *a], starts, step)
        for i in range(rows):
            for j in range(columns):
                place = self._vector_at(self.c, i, self.c_row, j)
                builder.store(sums[i * columns + j], place, align=self.alignment)
        builder.branch(done)

    def _vector(self, pointer: Any, stride: Any, times: int) -> Any:
        """The vector some strides from where a pointer points."""
        place = self.builder.gep(pointer, [self.builder.mul(stride, INT64(times))])
        return self._load(self.builder.bitcast(place, self.vector.llvm.as_pointer()))


@primitive
def lane_tile(rows: Any, columns: Any, p: Any) -> Any:
    """Computes the tile of so many rows and columns that the product describes."""

    def emit(builder: ir.IRBuilder, row_count: Any, column_count: Any, operands: Any) -> None:
        done = builder.append_basic_block("tile.done")
        unknown = builder.append_basic_block("tile.unknown")
        emitter = _LaneTileEmitter(builder, p.target, operands)
        switch = builder.switch(builder.add(builder.mul(column_count, INT64(16)), row_count), unknown)
        for tile_columns in range(1, LANE_COLUMNS + 1):
            for tile_rows in range(1, LANE_SUMS // tile_columns + 1):
                case = builder.append_basic_block(f"tile{tile_rows}x{tile_columns}")
                switch.add_case(INT64(tile_columns * 16 + tile_rows), case)
                builder.position_at_end(case)
                emitter.emit_tile(tile_rows, tile_columns, done)
        builder.position_at_end(unknown)
        builder.unreachable()
        builder.position_at_end(done)

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
