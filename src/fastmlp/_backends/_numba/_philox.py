"""Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of a
unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. As csrc/philox.h."""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._columns import columns_buffer
from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import INT32, INT64, is_set
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._vector import Vector, lanes, load, load_loose, smaller, splat, spread, store

_WORD = 0xFFFFFFFF
DRAWN_ROWS = 3  # side by side, since every round waits for the one before it


def _quads() -> int:
    """QUADS: counters at a time, one in every lane of 64 bits, each for four units of a row."""
    return current_target().vector_bytes // 8


def _quad_places() -> Any:
    """The even lanes have the first half of the quads: so their words come out in order."""
    quads = _quads()
    return ir.Constant(ir.VectorType(INT64, quads), [i % 2 * (quads // 2) + i // 2 for i in range(quads)])


def _wide_vector() -> Vector:
    return Vector(types.int64, _quads())


@primitive
def together(quads: Any) -> Any:
    """How many rows of so many quads fill a vector."""
    return types.int64, lambda builder, n: builder.sdiv(INT64(_quads()), n)


@primitive
def quads_of_lanes(quads: Any) -> Any:
    """The quad of every lane where rows of so many lie side by side."""
    wide = _wide_vector()
    return wide, lambda builder, n: builder.urem(_quad_places(), spread(builder, n, wide.llvm))


@primitive
def rows_of_lanes(quads: Any) -> Any:
    """The row of every lane then."""
    wide = _wide_vector()
    return wide, lambda builder, n: builder.udiv(_quad_places(), spread(builder, n, wide.llvm))


@primitive
def drawn() -> Any:
    """DRAWN: units that get a word of theirs each."""
    count = 4 * _quads()
    return types.int64, lambda builder: INT64(count)


@primitive
def draw_scales(
    seed: Any,
    step: Any,
    number: Any,
    layer: Any,
    quads_of_lanes: Any,
    rows_of_lanes: Any,
    first: Any,
    row: Any,
    rows_further: Any,
    to: Any,
) -> Any:
    """What DRAWN units are multiplied by: of every lane a quad in a row, counted from unit ``first``, a multiple of 4,
    and from ``row``, and again so many rows further, DRAWN_ROWS times, one after the other into ``to``. Upper halves of
    lanes are anything until the words are put together."""
    vector, quads = Vector(to.target), _quads()
    wide = ir.VectorType(INT64, quads)
    fields = layer.target

    def emit(
        builder: ir.IRBuilder,
        key: Any,
        step: Any,
        number: Any,
        layer_at: Any,
        lane_quads: Any,
        lane_rows: Any,
        unit: Any,
        row: Any,
        further: Any,
        scales: Any,
    ) -> None:
        def constant(x: int) -> Any:
            return ir.Constant(wide, [x] * quads)

        def field(name: str) -> Any:
            return builder.load(builder.gep(layer_at, [INT32(0), INT32(fields.place_of(name))]))

        def product(a: int, b: Any) -> Any:
            return builder.mul(constant(a), builder.and_(b, constant(_WORD)))

        def key_of_round(shift: int, increment: int, n: int) -> Any:
            word = builder.add(builder.lshr(key, INT64(shift)), INT64(increment * n & _WORD))
            return spread(builder, word, wide)

        c0 = builder.add(spread(builder, builder.lshr(unit, INT64(2)), wide), lane_quads)
        c2, c3 = (spread(builder, word, wide) for word in (number, step))
        firsts = [builder.add(row, builder.mul(further, INT64(i))) for i in range(DRAWN_ROWS)]
        counters = [(c0, builder.add(spread(builder, first, wide), lane_rows), c2, c3) for first in firsts]
        for n in range(10):
            key0, key1 = key_of_round(0, 0x9E3779B9, n), key_of_round(32, 0xBB67AE85, n)
            for i, (c0, c1, c2, c3) in enumerate(counters):
                product0, product1 = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
                high0, high1 = (builder.lshr(x, constant(32)) for x in (product0, product1))
                c0 = builder.xor(builder.xor(high1, c1), key0)
                c2 = builder.xor(builder.xor(high0, c3), key1)
                counters[i] = c0, product1, c2, product0
        least, scale = field("dropout_from"), field("dropout_scale")
        natural = INT64  # of the reals' size
        if vector.element == types.float32:
            scale, natural = builder.fptrunc(scale, vector.llvm.element), INT32
            least = builder.trunc(least, natural)
        kept = spread(builder, scale, vector.llvm)
        for i, (c0, c1, c2, c3) in enumerate(counters):
            words = [
                builder.or_(builder.and_(low, constant(_WORD)), builder.shl(high, constant(32)))
                for low, high in ((c0, c1), (c2, c3))
            ]
            for half in range(2):  # the even lanes of both, and the odd ones
                order = [which * quads + lane for lane in range(half, quads, 2) for which in range(2)]
                in_order = builder.shuffle_vector(*words, ir.Constant(ir.VectorType(INT32, quads), order))
                narrow = builder.bitcast(in_order, ir.VectorType(INT32, 2 * quads))
                for at in range(0, 2 * quads, vector.lanes):
                    which = ir.Constant(ir.VectorType(INT32, vector.lanes), list(range(at, at + vector.lanes)))
                    word = builder.shuffle_vector(narrow, narrow, which)
                    if natural == INT64:
                        word = builder.zext(word, ir.VectorType(natural, vector.lanes))
                    is_kept = builder.icmp_unsigned(">=", word, spread(builder, least, word.type))
                    result = builder.select(is_kept, kept, ir.Constant(vector.llvm, None))
                    place = builder.gep(scales, [INT64((4 * i + 2 * half) * quads + at)])
                    builder.store(
                        result, builder.bitcast(place, vector.llvm.as_pointer()), align=current_target().vector_bytes
                    )

    return types.void, emit


@inline
def drop_vector(scale: Vector, at: int, a: Reals, factor: Reals) -> None:
    """A vector of outputs, and of their derivatives where these are kept, by a vector of scales."""
    store(a + at, load(a + at) * scale)
    if is_set(factor):
        store(factor + at, load(factor + at) * scale)


@kernel
def drop_last_units(
    seed: int, step: int, number: int, layer: Layer, first: int, first_row: int, rows: int, a: Reals, factor: Reals
) -> None:
    """The last units of every row, from ``first`` on, so few that the counters of some rows fill a vector."""
    scales = columns_buffer(a)
    left = layer.n_out - first
    quads = (left + 3) // 4
    rows_together = together(quads)
    lane_quads, lane_rows = quads_of_lanes(quads), rows_of_lanes(quads)
    store(scales + DRAWN_ROWS * drawn(), splat(0, scales))  # for the padding of the last row, which must stay finite
    i = 0
    while i < rows:
        draw_scales(seed, step, number, layer, lane_quads, lane_rows, first, first_row + i, rows_together, scales)
        for d in range(DRAWN_ROWS):
            for k in range(smaller(rows_together, rows - i)):
                drawn_at = scales + (d * drawn() + 4 * k * quads)
                for j in range(0, left, lanes(a)):
                    drop_vector(load_loose(drawn_at + j), (i + k) * layer.leading + first + j, a, factor)
            i += rows_together


@kernel
def drop_rows(
    seed: int, step: int, number: int, layer: Layer, first_row: int, rows: int, a: Reals, factor: Reals
) -> None:
    """Drops units of the outputs a (and of their derivatives, where these are kept) of hidden layer ``number``, counted
    from 1; first_row is their place in the batch."""
    scales = columns_buffer(a)
    rest = layer.n_out % drawn()
    alone = layer.n_out if rest > drawn() // 2 else layer.n_out - rest
    lane_quads, lane_rows = quads_of_lanes(drawn()), rows_of_lanes(drawn())
    for i in range(0, rows, DRAWN_ROWS):
        for first in range(0, alone, drawn()):
            draw_scales(seed, step, number, layer, lane_quads, lane_rows, first, first_row + i, 1, scales)
            for r in range(smaller(DRAWN_ROWS, rows - i)):
                j = 0
                while j < drawn() and first + j < layer.n_out:
                    scale = load(scales + (r * drawn() + j))
                    drop_vector(scale, (i + r) * layer.leading + first + j, a, factor)
                    j += lanes(a)
    if alone < layer.n_out:
        drop_last_units(seed, step, number, layer, alone, first_row, rows, a, factor)
