"""The one matrix product of the package: a tile of a few rows by a few vectors, summed in registers.

    c[i][j] = start[i][j] + sum_k a[i][k] * b[k][j]

As csrc/tile.h. Every output adds k = 0, 1, 2, ... with one multiply_add each, whatever the tile: results do not depend
on how the work is cut. ``a`` has general strides, ``b`` and ``c`` have rows of whole aligned vectors.

The tiles are written in LLVM IR: from loops in Python, LLVM keeps the sums in memory.
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import BYTE, INT32, INT64, Pointer, Struct, constructor
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._vector import Vector, emit_multiply_add, emit_prefetch, spread

MAX_TILE_VECTORS = 8
PREFETCH_ROWS = 8


def _tile_registers() -> int:
    """12 accumulators, 2-3 vectors of b and one of a fill 16 registers; AVX-512 has 32."""
    return 24 if current_target().vector_bytes == 64 else 12


@primitive
def tile_registers() -> Any:
    count = _tile_registers()
    return types.int64, lambda builder: INT64(count)


@primitive
def tile_vectors() -> Any:
    """The widest column of tiles where there are rows enough."""
    count = 3 if _tile_registers() == 24 else 2
    return types.int64, lambda builder: INT64(count)


def tiles() -> list[tuple[int, int]]:
    """Every tile (rows, vectors) that fits the registers."""
    registers = _tile_registers()
    return [
        (rows, vectors)
        for vectors in range(1, MAX_TILE_VECTORS + 1)
        for rows in range(1, (12 if vectors == 1 else registers // (8 if vectors > 4 else vectors)) + 1)
    ]


TileOperands = Any


def tile_operands_struct(real: Any) -> Struct:
    return Struct(
        f"tile_operands_{real}",
        {
            "a": Pointer(real),
            "a_row": types.int64,  # elements from row to row
            "a_step": types.int64,  # and from k to k + 1
            "b": Pointer(real),
            "b_row": types.int64,
            "start": Pointer(real),  # one row for all (start_row 0) or a row each
            "start_row": types.int64,
            "c": Pointer(real),
            "c_row": types.int64,
            "depth": types.int64,
            "next_b": Pointer(real),  # what the next column of tiles will read: fetched while this one is computed
            "next_row": types.int64,
        },
    )


tile_operands = constructor(tile_operands_struct, like="a")


# Rows of a that share a pointer. Each has a register for its offset: from one pointer and multiples of a_row LLVM makes
# a chain of additions, which takes longer than the multiplications.
POINTER_ROWS = 4


class _TileEmitter:
    """Emits one tile after the other into the cases of a switch."""

    a: Any
    a_row: Any
    a_step: Any
    b: Any
    b_row: Any
    start: Any
    start_row: Any
    c: Any
    c_row: Any
    depth: Any
    next_b: Any
    next_row: Any

    def __init__(self, builder: ir.IRBuilder, struct: Struct, operands: Any) -> None:
        self.builder = builder
        self.vector = Vector(struct.fields["a"].target)
        self.alignment = current_target().vector_bytes
        self.line_vectors = 64 // self.alignment
        for name in struct.fields:
            place = builder.gep(operands, [INT32(0), INT32(struct.place_of(name))])
            setattr(self, name, builder.load(place))

    def emit(self, rows: int, vectors: int, done: Any) -> None:
        builder = self.builder
        cells = [(i, j) for i in range(rows) for j in range(vectors)]
        starts = [self._load(self._vector_at(self.start, i, self.start_row, j)) for i, j in cells]
        offsets = [self._opaque(builder.mul(self.a_row, INT64(i))) for i in range(1, min(rows, POINTER_ROWS))]
        a_starts = [
            self._opaque(builder.gep(self.a, [builder.mul(self.a_row, INT64(i))])) for i in range(0, rows, POINTER_ROWS)
        ]
        before = builder.block
        loop = builder.append_basic_block(f"tile{rows}x{vectors}")
        after = builder.append_basic_block(f"tile{rows}x{vectors}.end")
        builder.cbranch(builder.icmp_signed(">", self.depth, INT64(0)), loop, after)

        builder.position_at_end(loop)
        first = [INT64(0), self.next_b, self.b, *a_starts, *starts]
        phis = [builder.phi(value.type) for value in first]
        (k, ahead, b), a, sums = phis[:3], phis[3 : 3 + len(a_starts)], phis[3 + len(a_starts) :]
        for j in range(0, vectors, self.line_vectors):
            emit_prefetch(builder, builder.bitcast(self._vector_at(ahead, 0, self.b_row, j), BYTE.as_pointer()))
        results = self._multiply(rows, vectors, a, offsets, b, sums)
        steps = [builder.gep(pointer, [self.a_step]) for pointer in a]
        next_rows = [builder.gep(ahead, [self.next_row]), builder.gep(b, [self.b_row])]
        later = [builder.add(k, INT64(1)), *next_rows, *steps, *results]
        builder.cbranch(builder.icmp_signed("<", later[0], self.depth), loop, after)
        for phi, value, next_value in zip(phis, first, later):
            phi.add_incoming(value, before)
            phi.add_incoming(next_value, loop)

        builder.position_at_end(after)
        totals = []
        for start, result in zip(starts, results):
            total = builder.phi(self.vector.llvm)
            total.add_incoming(start, before)
            total.add_incoming(result, loop)
            totals.append(total)
        for (i, j), total in zip(cells, totals):
            builder.store(total, self._vector_at(self.c, i, self.c_row, j), align=self.alignment)
        builder.branch(done)

    def _multiply(
        self, rows: int, vectors: int, a: list[Any], offsets: list[Any], b: Any, sums: list[Any]
    ) -> list[Any]:
        """One k. Of a and b the smaller side stays in registers while the other streams by."""

        def broadcast(i: int) -> Any:
            place, row_of_pointer = a[i // POINTER_ROWS], i % POINTER_ROWS
            if row_of_pointer:
                place = self.builder.gep(place, [offsets[row_of_pointer - 1]])
            return spread(self.builder, self.builder.load(place), self.vector.llvm)

        def row(j: int) -> Any:
            return self._load(self._vector_at(b, 0, self.b_row, j))

        results = list(sums)
        if rows < vectors:
            scalars = [broadcast(i) for i in range(rows)]
            cells = [(i, j, scalars[i], b_j) for j in range(vectors) for b_j in [row(j)] for i in range(rows)]
        else:
            row_of_b = [row(j) for j in range(vectors)]
            cells = [(i, j, a_i, row_of_b[j]) for i in range(rows) for a_i in [broadcast(i)] for j in range(vectors)]
        for i, j, a_i, b_j in cells:
            results[i * vectors + j] = emit_multiply_add(self.builder, a_i, b_j, sums[i * vectors + j])
        return results

    def _vector_at(self, pointer: Any, row: int, row_elements: Any, j: int) -> Any:
        """The place of vector j of a row."""
        builder = self.builder
        offset = builder.mul(row_elements, INT64(row))
        place = builder.gep(builder.gep(pointer, [offset]), [INT64(j * self.vector.lanes)])
        return builder.bitcast(place, self.vector.llvm.as_pointer())

    def _load(self, place: Any) -> Any:
        return self.builder.load(place, align=self.alignment)

    def _opaque(self, value: Any) -> Any:
        """The same value, which LLVM cannot tell from any other."""
        return self.builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], side_effect=False)


@primitive
def tile_multiply(rows: Any, vectors: Any, t: Any) -> Any:
    """Computes the tile of so many rows and vectors that the operands describe."""

    def emit(builder: ir.IRBuilder, row_count: Any, vector_count: Any, operands: Any) -> None:
        done = builder.append_basic_block("tile.done")
        unknown = builder.append_basic_block("tile.unknown")
        key = builder.add(builder.mul(vector_count, INT64(16)), row_count)
        emitter = _TileEmitter(builder, t.target, operands)
        switch = builder.switch(key, unknown)
        for tile_rows, tile_vectors in tiles():
            case = builder.append_basic_block(f"tile{tile_rows}x{tile_vectors}.start")
            switch.add_case(INT64(tile_vectors * 16 + tile_rows), case)
            builder.position_at_end(case)
            emitter.emit(tile_rows, tile_vectors, done)
        builder.position_at_end(unknown)
        builder.unreachable()
        builder.position_at_end(done)

    return types.void, emit


@inline
def most_tile_rows(vectors: int) -> int:
    """The most rows a tile of so many vectors may have."""
    if vectors == 1:
        return 12
    return tile_registers() // (8 if vectors > 4 else vectors)


@kernel
def next_tile_vectors(rows: int, left: int) -> int:
    """How many of the vectors that are left the next column of tiles takes: few rows want wide tiles, since every
    accumulator is a chain of dependent sums and a core needs 8 to 10 of them at once."""
    widest = tile_vectors()
    while widest < MAX_TILE_VECTORS and most_tile_rows(widest + 1) >= rows:
        widest += 1
    if left <= widest or left == 3:
        return left
    if left == widest + 1:
        return (left + 1) // 2  # no single vector for last
    return widest


@kernel
def multiply_rows(rows: int, vectors: int, t: TileOperands) -> None:
    """All rows of one column of tiles, split evenly. Moves the operands.

    The first tile fetches the next column's b, whose lines lie pages apart where no hardware looks for them; the others
    what they read themselves eight rows later.
    """
    count = (rows + most_tile_rows(vectors) - 1) // most_tile_rows(vectors)
    rows_ahead = t.b + PREFETCH_ROWS * t.b_row
    for i in range(count):
        tile_rows = rows * (i + 1) // count - rows * i // count
        tile_multiply(tile_rows, vectors, t)
        t.next_b = rows_ahead
        t.next_row = t.b_row
        t.a = t.a + tile_rows * t.a_row
        t.start = t.start + tile_rows * t.start_row
        t.c = t.c + tile_rows * t.c_row
