"""Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of a
unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. As csrc/philox.h."""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._columns import columns_buffer
from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import INT16, INT32, INT64, is_set
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._vector import Vector, lanes, load, load_loose, smaller, splat, spread, store

_WORD = 0xFFFFFFFF
COUNTER_UNITS = 8  # of a row, that share the 128 bits of a counter
DRAWN_ROWS = 3  # side by side, since every round waits for the one before it


def _counters() -> int:
    """COUNTERS: so many at a time, one in every lane of 64 bits."""
    return current_target().vector_bytes // 8


def _counter_places() -> Any:
    """The even lanes have the first half of the counters: so their bits come out in order."""
    counters = _counters()
    return ir.Constant(ir.VectorType(INT64, counters), [i % 2 * (counters // 2) + i // 2 for i in range(counters)])


def _wide_vector() -> Vector:
    return Vector(types.int64, _counters())


@primitive
def together(counters: Any) -> Any:
    """How many rows of so many counters fill a vector."""
    return types.int64, lambda builder, n: builder.sdiv(INT64(_counters()), n)


@primitive
def counters_of_lanes(counters: Any) -> Any:
    """The counter of every lane where rows of so many lie side by side."""
    wide = _wide_vector()
    return wide, lambda builder, n: builder.urem(_counter_places(), spread(builder, n, wide.llvm))


@primitive
def rows_of_lanes(counters: Any) -> Any:
    """The row of every lane then."""
    wide = _wide_vector()
    return wide, lambda builder, n: builder.udiv(_counter_places(), spread(builder, n, wide.llvm))


@primitive
def drawn() -> Any:
    """DRAWN: the units of so many counters."""
    count = COUNTER_UNITS * _counters()
    return types.int64, lambda builder: INT64(count)


@primitive
def draw_scales(
    seed: Any,
    step: Any,
    number: Any,
    layer: Any,
    counters_of_lanes: Any,
    rows_of_lanes: Any,
    first: Any,
    row: Any,
    rows_further: Any,
    to: Any,
) -> Any:
    """What DRAWN units are multiplied by: of every lane a counter in a row, from that of unit ``first`` on, a multiple
    of COUNTER_UNITS, and from ``row``, and again so many rows further, DRAWN_ROWS times, one after the other into
    ``to``. Upper halves of lanes are anything until the words are put together."""
    vector, counters = Vector(to.target), _counters()
    wide = ir.VectorType(INT64, counters)
    fields = layer.target

    def emit(
        builder: ir.IRBuilder,
        key: Any,
        step: Any,
        number: Any,
        layer_at: Any,
        lane_counters: Any,
        lane_rows: Any,
        unit: Any,
        row: Any,
        further: Any,
        scales: Any,
    ) -> None:
        def constant(x: int) -> Any:
            return ir.Constant(wide, [x] * counters)

        def field(name: str) -> Any:
            return builder.load(builder.gep(layer_at, [INT32(0), INT32(fields.place_of(name))]))

        def product(a: int, b: Any) -> Any:
            return builder.mul(constant(a), builder.and_(b, constant(_WORD)))

        def key_of_round(shift: int, increment: int, n: int) -> Any:
            word = builder.add(builder.lshr(key, INT64(shift)), INT64(increment * n & _WORD))
            return spread(builder, word, wide)

        c0 = builder.add(spread(builder, builder.sdiv(unit, INT64(COUNTER_UNITS)), wide), lane_counters)
        c2, c3 = (spread(builder, word, wide) for word in (number, step))
        firsts = [builder.add(row, builder.mul(further, INT64(i))) for i in range(DRAWN_ROWS)]
        words = [(c0, builder.add(spread(builder, first, wide), lane_rows), c2, c3) for first in firsts]
        for n in range(10):
            key0, key1 = key_of_round(0, 0x9E3779B9, n), key_of_round(32, 0xBB67AE85, n)
            for i, (c0, c1, c2, c3) in enumerate(words):
                product0, product1 = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
                high0, high1 = (builder.lshr(x, constant(32)) for x in (product0, product1))
                c0 = builder.xor(builder.xor(high1, c1), key0)
                c2 = builder.xor(builder.xor(high0, c3), key1)
                words[i] = c0, product1, c2, product0
        least, scale = field("dropout_from"), field("dropout_scale")
        whole = INT64  # of the reals' size
        if vector.element == types.float32:
            scale, whole = builder.fptrunc(scale, vector.llvm.element), INT32
            least = builder.trunc(least, whole)
        kept = spread(builder, scale, vector.llvm)
        wholes = ir.VectorType(whole, vector.lanes)
        for i, (c0, c1, c2, c3) in enumerate(words):
            halves = [
                builder.or_(builder.and_(low, constant(_WORD)), builder.shl(high, constant(32)))
                for low, high in ((c0, c1), (c2, c3))
            ]
            for half in range(2):  # the even lanes of both, and the odd ones
                order = [which * counters + lane for lane in range(half, counters, 2) for which in range(2)]
                in_order = builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(INT32, counters), order))
                units = COUNTER_UNITS * counters // 2
                bits = builder.bitcast(in_order, ir.VectorType(INT16, units))
                for at in range(0, units, vector.lanes):
                    which = ir.Constant(ir.VectorType(INT32, vector.lanes), list(range(at, at + vector.lanes)))
                    bits_here = builder.zext(builder.shuffle_vector(bits, bits, which), wholes)
                    is_kept = builder.icmp_signed(">=", bits_here, spread(builder, least, wholes))
                    result = builder.select(is_kept, kept, ir.Constant(vector.llvm, None))
                    place = builder.gep(scales, [INT64((2 * i + half) * units + at)])
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


@primitive
def drop_drawn(scales: Any, a: Any) -> Any:
    """DRAWN units, or their derivatives, by their scales: straight code, which LLVM would not make of a loop here."""
    vector, count = Vector(a.target), COUNTER_UNITS * _counters()

    def emit(builder: ir.IRBuilder, scales: Any, a: Any) -> None:
        for j in range(0, count, vector.lanes):
            scale, at = (builder.bitcast(builder.gep(p, [INT64(j)]), vector.llvm.as_pointer()) for p in (scales, a))
            kept = builder.fmul(*(builder.load(p, align=current_target().vector_bytes) for p in (scale, at)))
            builder.store(kept, at, align=current_target().vector_bytes)

    return types.void, emit


@kernel
def drop_last_units(
    seed: int, step: int, number: int, layer: Layer, first: int, first_row: int, rows: int, a: Reals, factor: Reals
) -> None:
    """The last units of every row, from ``first`` on, so few that the counters of some rows fill a vector."""
    scales = columns_buffer(a)
    left = layer.n_out - first
    counters = (left + COUNTER_UNITS - 1) // COUNTER_UNITS
    rows_together = together(counters)
    lane_counters, lane_rows = counters_of_lanes(counters), rows_of_lanes(counters)
    store(scales + DRAWN_ROWS * drawn(), splat(0, scales))  # for the padding of the last row, which must stay finite
    i = 0
    while i < rows:
        draw_scales(seed, step, number, layer, lane_counters, lane_rows, first, first_row + i, rows_together, scales)
        for d in range(DRAWN_ROWS):
            for k in range(smaller(rows_together, rows - i)):
                drawn_at = scales + (d * drawn() + COUNTER_UNITS * k * counters)
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
    n, leading = layer.n_out, layer.leading
    rest = n % drawn()
    alone = n if rest > drawn() // 2 else n - rest
    lane_counters, lane_rows = counters_of_lanes(drawn()), rows_of_lanes(drawn())
    for i in range(0, rows, DRAWN_ROWS):
        for first in range(0, alone, drawn()):
            draw_scales(seed, step, number, layer, lane_counters, lane_rows, first, first_row + i, 1, scales)
            for r in range(DRAWN_ROWS):
                if i + r < rows:
                    at, scale = (i + r) * leading + first, scales + r * drawn()
                    if first + drawn() <= n:
                        drop_drawn(scale, a + at)
                        if is_set(factor):
                            drop_drawn(scale, factor + at)
                    else:
                        for j in range(0, n - first, lanes(a)):
                            drop_vector(load(scale + j), at + j, a, factor)
    if alone < n:
        drop_last_units(seed, step, number, layer, alone, first_row, rows, a, factor)
