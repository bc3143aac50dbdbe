"""The tiles of _tile.py."""

from collections.abc import Callable

from fastmlp._backends._numba._code import Code, Values, table_of_functions
from fastmlp._backends._numba._target import Target

HALF = 0  # of a vector; csrc/tile.h has the reasons
MAX_TILE_VECTORS = 8
MAX_TILE_ROWS = 12
UNROLLED = 4
POINTER_ROWS = 3
UNROLLED_SUMS = 8  # smaller tiles take one k at a time, and so less long to compile

ROWS_OF_A, COLUMNS_OF_A = range(2)


def tile_registers(target: Target) -> int:
    """12 accumulators, 2-3 vectors of b and one of a fill 16 registers; AVX-512 has 32."""
    return 24 if target.vector_bytes == 64 else 12


def shapes(target: Target) -> list[tuple[int, int]]:
    """Every tile (rows, vectors) that fits the registers."""
    registers = tile_registers(target)
    return [
        (rows, vectors)
        for vectors in range(HALF if target.vector_bytes == 64 else 1, MAX_TILE_VECTORS + 1)
        for rows in range(1, (12 if vectors <= 1 else registers // (8 if vectors > 4 else vectors)) + 1)
    ]


class _Tile(Code):
    def __init__(
        self, name: str, target: Target, real: str, fields: list[str], kind: int, rows: int, vectors: int
    ) -> None:
        self.is_half = vectors == HALF
        super().__init__(name, target, real, fields, target.vector_bytes // 2 if self.is_half else 0)
        self.kind, self.rows, self.vectors = kind, rows, 1 if self.is_half else vectors
        self.last = 2 if tile_registers(target) == 24 else 1  # k's that are finished row by row
        self.b_bytes = self.stride("b_row")
        self.a_bytes = self.stride("a_stride")
        self.a_thrice, self.b_thrice = (self.opaque(self.times(s, 3), "i64") for s in (self.a_bytes, self.b_bytes))
        self.c_bytes = self.stride("c_row")
        self.c = self.pointer("c")

    def emit(self) -> str:
        a = [self.pointer("a")]
        while self.kind == ROWS_OF_A and len(a) * POINTER_ROWS < self.rows:
            a.append(self.opaque(self.moved(a[-1], self.a_thrice)))
        places, sums, left = [self.pointer("b"), *a], self._starts(), self.field("depth")
        if self.rows * self.vectors >= UNROLLED_SUMS:
            next_bytes = self.stride("next_row")

            def four(places: Values, sums: Values) -> tuple[Values, Values]:
                # Opaque, or LLVM keeps a pointer for every row, more than there are registers for.
                following, b, *a = map(self.opaque, places)
                for k in range(UNROLLED):
                    sums = self._step(self._a_at(a, k), self.at_multiple(b, self.b_bytes, self.b_thrice, k), sums)
                for j in range(0, self.vectors, 64 // self.target.vector_bytes):
                    self.prefetch(self.moved(following, j * self.vector_bytes))
                return [self.moved(following, next_bytes), *self._advanced(b, a, UNROLLED)], sums

            quads = self._at_least_zero(self.let(f"sub i64 {self.let(f'ashr i64 {left}, 2')}, 1"))
            (_, *places), sums = self.loop(quads, [self.pointer("next"), *places], sums, four)
            left = self.let(f"sub i64 {left}, {self.let(f'shl i64 {quads}, 2')}")
        is_short = self.let(f"icmp slt i64 {left}, {self.last}")
        last = self.let(f"select i1 {is_short}, i64 0, i64 {self.last}")
        singles = self.let(f"sub i64 {left}, {last}")
        (b, *a), sums = self.loop(singles, places, sums, self._one)
        short, long = self.new_block("short"), self.new_block("long")
        self.branch(is_short, short, long)
        self.begin(short)
        self._end(lambda scale: self._store_all(scale, sums))
        self.begin(long)
        self._end(lambda scale: self._finish(scale, a, b, sums))
        return self.text()

    def _starts(self) -> Values:
        if self.kind == COLUMNS_OF_A:
            return ["zeroinitializer"] * (self.rows * self.vectors)
        start, row = self.pointer("start"), self.stride("start_row")
        return [
            self.load(place, j)
            for i in range(self.rows)
            for place in [self.moved(start, self.times(row, i)) if i else start]
            for j in range(self.vectors)
        ]

    def _a_at(self, a: Values, k: int) -> Values:
        """The pointers at one of the k's that go together."""
        if self.kind == ROWS_OF_A:
            return [self.moved(pointer, k * self.real_bytes) for pointer in a]
        return [self.at_multiple(a[0], self.a_bytes, self.a_thrice, k)]

    def _scalar(self, a: Values, i: int) -> str:
        """Row i's number of a at one k, in every lane."""
        if self.kind == COLUMNS_OF_A:
            return self.load_spread(a[0], i)
        pointer, number = a[i // POINTER_ROWS], i % POINTER_ROWS
        return self.load_spread(self.at_multiple(pointer, self.a_bytes, self.a_thrice, number))

    def _step(self, a: Values, b: str, sums: Values) -> Values:
        """One k. Of a and b the smaller side stays in registers while the other streams by."""
        results = list(sums)
        rows, vectors = range(self.rows), range(self.vectors)
        if self.rows < self.vectors:
            scalars = [self._scalar(a, i) for i in rows]
            for j in vectors:
                row = self.load(b, j)
                for i in rows:
                    at = i * self.vectors + j
                    results[at] = self.multiply_add(scalars[i], row, sums[at])
        else:
            row_of_b = [self.load(b, j) for j in vectors]
            for i in rows:
                scalar = self._scalar(a, i)
                for j in vectors:
                    at = i * self.vectors + j
                    results[at] = self.multiply_add(scalar, row_of_b[j], sums[at])
        return results

    def _one(self, places: Values, sums: Values) -> tuple[Values, Values]:
        b, *a = places
        return self._advanced(b, a, 1), self._step(a, b, sums)

    def _advanced(self, b: str, a: Values, steps: int) -> Values:
        """b, and the pointers into a, so many k later."""
        a_bytes = steps * self.real_bytes if self.kind == ROWS_OF_A else self.times(self.a_bytes, steps)
        return [self.moved(b, self.times(self.b_bytes, steps)), *(self.moved(pointer, a_bytes) for pointer in a)]

    def _at_least_zero(self, value: str) -> str:
        return self.let(f"select i1 {self.let(f'icmp sgt i64 {value}, 0')}, i64 {value}, i64 0")

    def _end(self, store: Callable[[str | None], None]) -> None:
        """Stores the sums; or, where columns of a are multiplied and the scale is not 0, adds them to what is there."""
        if self.kind == COLUMNS_OF_A:
            scale = self.field("scale", self.real)
            added, stored = self.new_block("added"), self.new_block("stored")
            self.branch(self.let(f"fcmp une {self.real} {scale}, 0.0"), added, stored)
            self.begin(added)
            store(self.spread(scale))
            self.finish()
            self.begin(stored)
        store(None)
        self.finish()

    def _finish(self, scale: str | None, a: Values, b: str, sums: Values) -> None:
        """The last k's, row by row, each row stored while the next is summed."""
        a_k, b_k, sums, c = [a], [b], list(sums), self.c
        for _ in range(1, self.last):
            following, *pointers = self._advanced(b_k[-1], a_k[-1], 1)
            b_k.append(following)
            a_k.append(pointers)
        row_of_b = [[self.load(place, j) for j in range(self.vectors)] for place in b_k]
        for i in range(self.rows):
            for k in range(self.last):
                scalar = self._scalar(a_k[k], i)
                for j in range(self.vectors):
                    at = i * self.vectors + j
                    sums[at] = self.multiply_add(scalar, row_of_b[k][j], sums[at])
            if i > 0:
                self._store_row(scale, sums, i - 1, c)
                c = self.opaque(self.moved(c, self.c_bytes))
        self._store_row(scale, sums, self.rows - 1, c)

    def _store_all(self, scale: str | None, sums: Values) -> None:
        c = self.c
        for i in range(self.rows):
            self._store_row(scale, sums, i, c)
            c = self.moved(c, self.c_bytes)

    def _store_row(self, scale: str | None, sums: Values, i: int, c: str) -> None:
        for j in range(self.vectors):
            total = sums[i * self.vectors + j]
            self.store(self.multiply_add(scale, total, self.load(c, j)) if scale else total, c, j)
        if self.is_half and not scale:
            self.store("zeroinitializer", c, 1)


def tile_module(name: str, target: Target, real: str, fields: list[str]) -> str:
    """IR of every tile, and of their table [kind][vectors][rows - 1]."""
    known = set(shapes(target))
    functions = [
        _Tile(f"tile.{kind}.{rows}x{vectors}", target, real, fields, kind, rows, vectors).emit()
        if (rows, vectors) in known
        else None
        for kind in (ROWS_OF_A, COLUMNS_OF_A)
        for vectors in range(HALF, MAX_TILE_VECTORS + 1)
        for rows in range(1, MAX_TILE_ROWS + 1)
    ]
    return table_of_functions(name, target, real, functions)
