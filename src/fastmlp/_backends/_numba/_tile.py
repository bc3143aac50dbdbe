"""The one matrix product of the package: a tile of a few rows by a few vectors, summed in registers.

    sum[i][j] = start[i][j] + sum_k a[i][k] * b[k][j],  and then  c = sum  or  c += scale * sum

As csrc/tile.h. Every output adds k = 0, 1, 2, ... with one multiply_add each, whatever the tile: results do not depend
on how the work is cut. ``b`` and ``c`` have rows of whole aligned vectors. Of ``a`` one stride is 1: from k to k + 1
where rows of it are multiplied (forward, and the input's gradient), from row to row where columns are (the weights'
gradient).

The tiles are written in LLVM IR: from loops in Python, LLVM keeps the sums in memory.
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._gather import FETCHED_ROWS, fetch_lines
from fastmlp._backends._numba._memory import BYTE, INT32, INT64, Pointer, Struct, constructor, is_set
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._vector import Vector, emit_multiply_add, emit_prefetch, prefetch, spread

MAX_TILE_VECTORS = 8
MAX_TILE_ROWS = 12
UNROLLED = 4  # csrc/tile.h has the reasons
POINTER_ROWS = 3
UNROLLED_SUMS = 8  # smaller tiles take one k at a time, and so less long to compile

ROWS_OF_A, COLUMNS_OF_A = range(2)


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


Product = Any


def product_struct(real: Any) -> Struct:
    return Struct(
        f"product_{real}",
        {
            "a": Pointer(real),
            "a_stride": types.int64,  # elements from row to row; of columns from k to k + 1
            "b": Pointer(real),
            "b_row": types.int64,
            "start": Pointer(real),  # one row for all (start_row 0) or a row each
            "start_row": types.int64,
            "c": Pointer(real),
            "c_row": types.int64,
            "depth": types.int64,
            "scale": real,  # 0: c is overwritten
            # What the next product will read: fetched while this one is computed, a row with every four k.
            "next": Pointer(real),
            "next_row": types.int64,
            "next_rows": types.int64,
            "fetched": Pointer(FETCHED_ROWS),  # a line of them with every four k, too; or null
        },
    )


product = constructor(product_struct, like="a")


class _TileEmitter:
    """Emits one tile after the other into the cases of a switch."""

    a: Any
    a_stride: Any
    b: Any
    b_row: Any
    start: Any
    start_row: Any
    c: Any
    c_row: Any
    depth: Any
    scale: Any
    next: Any
    next_row: Any

    def __init__(self, builder: ir.IRBuilder, struct: Struct, operands: Any) -> None:
        self.builder = builder
        real = struct.fields["a"].target
        self.vector = Vector(real)
        self.alignment = current_target().vector_bytes
        self.line_vectors = 64 // self.alignment
        for name in struct.fields:
            place = builder.gep(operands, [INT32(0), INT32(struct.place_of(name))])
            setattr(self, name, builder.load(place))
        self.real_bytes = real.bitwidth // 8
        self.a_bytes, self.b_bytes, self.next_bytes = (
            builder.mul(stride, INT64(self.real_bytes)) for stride in (self.a_stride, self.b_row, self.next_row)
        )
        self.a_thrice, self.b_thrice = (
            self._opaque(builder.mul(stride, INT64(3))) for stride in (self.a_bytes, self.b_bytes)
        )

    def emit(self, kind: int, rows: int, vectors: int, done: Any) -> None:
        """One tile, from the block at hand to ``done``."""
        builder = self.builder
        cells = [(i, j) for i in range(rows) for j in range(vectors)]
        starts = [self._load(self._vector_at(self.start, i, self.start_row, j)) for i, j in cells]
        a = [self.a]
        while kind == ROWS_OF_A and len(a) * POINTER_ROWS < rows:
            a.append(self._opaque(self._moved(a[-1], self.a_thrice)))

        def four(places: list[Any], sums: list[Any]) -> tuple[list[Any], list[Any]]:
            # Opaque, or LLVM keeps a pointer for every row, more than there are registers for.
            following, b, *a = map(self._opaque, places)
            for k in range(UNROLLED):
                if kind == ROWS_OF_A:
                    a_k = [builder.gep(pointer, [INT64(k)]) for pointer in a]
                else:
                    a_k = [self._at_multiple(a[0], self.a_bytes, self.a_thrice, k)]
                sums = self._step(kind, rows, vectors, a_k, self._at_multiple(b, self.b_bytes, self.b_thrice, k), sums)
            for j in range(0, vectors, self.line_vectors):
                emit_prefetch(builder, builder.bitcast(self._vector_at(following, 0, self.b_row, j), BYTE.as_pointer()))
            return [self._moved(following, self.next_bytes), *self._advanced(kind, b, a, UNROLLED)], sums

        def one(places: list[Any], sums: list[Any]) -> tuple[list[Any], list[Any]]:
            b, *a = places
            return self._advanced(kind, b, a, 1), self._step(kind, rows, vectors, a, b, sums)

        places, sums, rest = [self.b, *a], starts, self.depth
        if rows * vectors >= UNROLLED_SUMS:
            quads, rest = builder.ashr(self.depth, INT64(2)), builder.and_(self.depth, INT64(UNROLLED - 1))
            (_, *places), sums = self._loop(quads, [self.next, *places], sums, four)
        _, sums = self._loop(rest, places, sums, one)
        self._finish(rows, vectors, sums, done)

    def _loop(self, count: Any, places: list[Any], sums: list[Any], body: Any) -> tuple[list[Any], list[Any]]:
        """Does ``body`` so many times, and returns what it leaves."""
        builder = self.builder
        first = [count, *places, *sums]
        before = builder.block
        loop, after = builder.append_basic_block("k"), builder.append_basic_block("k.end")
        builder.cbranch(builder.icmp_signed(">", count, INT64(0)), loop, after)
        builder.position_at_end(loop)
        phis = [builder.phi(value.type) for value in first]
        next_places, next_sums = body(phis[1 : 1 + len(places)], phis[1 + len(places) :])
        later = [builder.sub(phis[0], INT64(1)), *next_places, *next_sums]
        builder.cbranch(builder.icmp_signed(">", later[0], INT64(0)), loop, after)
        for phi, value, next_value in zip(phis, first, later):
            phi.add_incoming(value, before)
            phi.add_incoming(next_value, loop)
        builder.position_at_end(after)
        results = []
        for value, next_value in zip(first[1:], later[1:]):
            results.append(builder.phi(value.type))
            results[-1].add_incoming(value, before)
            results[-1].add_incoming(next_value, loop)
        return results[: len(places)], results[len(places) :]

    def _step(self, kind: int, rows: int, vectors: int, a: list[Any], b: Any, sums: list[Any]) -> list[Any]:
        """One k. Of a and b the smaller side stays in registers while the other streams by."""

        def broadcast(i: int) -> Any:
            if kind == COLUMNS_OF_A:
                place = self.builder.gep(a[0], [INT64(i)])
            else:
                place = self._at_multiple(a[i // POINTER_ROWS], self.a_bytes, self.a_thrice, i % POINTER_ROWS)
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

    def _advanced(self, kind: int, b: Any, a: list[Any], steps: int) -> list[Any]:
        """b, and the pointers into a, so many k later."""
        builder = self.builder
        a_bytes = INT64(steps * self.real_bytes) if kind == ROWS_OF_A else builder.mul(self.a_bytes, INT64(steps))
        return [self._moved(b, builder.mul(self.b_bytes, INT64(steps))), *(self._moved(p, a_bytes) for p in a)]

    def _finish(self, rows: int, vectors: int, sums: list[Any], done: Any) -> None:
        builder = self.builder
        places = [self._vector_at(self.c, i, self.c_row, j) for i in range(rows) for j in range(vectors)]
        added, stored = builder.append_basic_block("added"), builder.append_basic_block("stored")
        is_added = builder.fcmp_unordered("!=", self.scale, ir.Constant(self.scale.type, 0.0))
        builder.cbranch(is_added, added, stored)
        builder.position_at_end(added)
        scale = spread(builder, self.scale, self.vector.llvm)
        for place, total in zip(places, sums):
            result = emit_multiply_add(builder, scale, total, self._load(place))
            builder.store(result, place, align=self.alignment)
        builder.branch(done)
        builder.position_at_end(stored)
        for place, total in zip(places, sums):
            builder.store(total, place, align=self.alignment)
        builder.branch(done)

    def _at_multiple(self, pointer: Any, stride: Any, thrice: Any, times: int) -> Any:
        """0 to 3 strides on, which an instruction can add by itself."""
        if times == 0:
            return pointer
        return self._moved(pointer, thrice if times == 3 else self.builder.mul(stride, INT64(times)))

    def _moved(self, pointer: Any, byte_count: Any) -> Any:
        place = self.builder.gep(self.builder.bitcast(pointer, BYTE.as_pointer()), [byte_count])
        return self.builder.bitcast(place, pointer.type)

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
def tile_multiply(kind: Any, rows: Any, vectors: Any, p: Any) -> Any:
    """Computes the tile of so many rows and vectors that the product describes."""

    def emit(builder: ir.IRBuilder, kind_of_a: Any, row_count: Any, vector_count: Any, operands: Any) -> None:
        done = builder.append_basic_block("tile.done")
        unknown = builder.append_basic_block("tile.unknown")
        shape = builder.add(builder.mul(vector_count, INT64(16)), row_count)
        emitter = _TileEmitter(builder, p.target, operands)
        switch = builder.switch(builder.add(builder.mul(kind_of_a, INT64(256)), shape), unknown)
        for tile_kind in (ROWS_OF_A, COLUMNS_OF_A):
            for tile_rows, tile_vectors in tiles():
                case = builder.append_basic_block(f"tile{tile_rows}x{tile_vectors}")
                switch.add_case(INT64(tile_kind * 256 + tile_vectors * 16 + tile_rows), case)
                builder.position_at_end(case)
                emitter.emit(tile_kind, tile_rows, tile_vectors, done)
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
def multiply(kind: int, rows: int, vectors: int, p: Product) -> None:
    """All rows of one column of tiles, the last two of one height. Moves the product on by them."""
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
        if p.next_rows <= 0:
            p.next_row = 0
        rows -= tile_rows
