"""Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of a
unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. As csrc/philox.h."""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._columns import columns_buffer
from fastmlp._backends._numba._compiler import kernel, primitive
from fastmlp._backends._numba._memory import INT32, INT64, is_set
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._target import current_target
from fastmlp._backends._numba._vector import Vector, lanes, load, smaller, spread, store

_WORD = 0xFFFFFFFF
DRAWN_ROWS = 3  # side by side, since every round waits for the one before it


def _quads() -> int:
    """Counters of a row at a time, one in every lane of 64 bits."""
    return current_target().vector_bytes // 8


@primitive
def drawn() -> Any:
    """DRAWN: units that get a word of theirs each."""
    count = 4 * _quads()
    return types.int64, lambda builder: INT64(count)


@primitive
def draw_scales(seed: Any, step: Any, number: Any, layer: Any, row: Any, first: Any, to: Any) -> Any:
    """What DRAWN units, from unit ``first``, a multiple of 4, on, are multiplied by in DRAWN_ROWS rows from ``row`` on,
    row after row into ``to``. Upper halves of lanes are anything until the words are put together."""
    vector, quads = Vector(to.target), _quads()
    wide = ir.VectorType(INT64, quads)
    fields = layer.target

    def emit(
        builder: ir.IRBuilder, key: Any, step: Any, number: Any, layer_at: Any, row: Any, unit: Any, scales: Any
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

        # The even lanes have the first half of the quads: so their words come out in order.
        places = ir.Constant(wide, [i % 2 * (quads // 2) + i // 2 for i in range(quads)])
        c0 = builder.add(spread(builder, builder.lshr(unit, INT64(2)), wide), places)
        c2, c3 = (spread(builder, word, wide) for word in (number, step))
        counters = [(c0, spread(builder, builder.add(row, INT64(i)), wide), c2, c3) for i in range(DRAWN_ROWS)]
        for n in range(10):
            key0, key1 = key_of_round(0, 0x9E3779B9, n), key_of_round(32, 0xBB67AE85, n)
            for i, (c0, c1, c2, c3) in enumerate(counters):
                product0, product1 = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
                high0, high1 = (builder.lshr(x, constant(32)) for x in (product0, product1))
                c0 = builder.xor(builder.xor(high1, c1), key0)
                c2 = builder.xor(builder.xor(high0, c3), key1)
                counters[i] = c0, product1, c2, product0
        least, scale = field("dropout_from"), field("dropout_scale")
        if vector.element == types.float32:
            scale = builder.fptrunc(scale, vector.llvm.element)
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
                    naturals = builder.zext(word, ir.VectorType(INT64, vector.lanes))
                    is_kept = builder.icmp_unsigned(">=", naturals, spread(builder, least, naturals.type))
                    result = builder.select(is_kept, kept, ir.Constant(vector.llvm, None))
                    place = builder.gep(scales, [INT64((4 * i + 2 * half) * quads + at)])
                    builder.store(
                        result, builder.bitcast(place, vector.llvm.as_pointer()), align=current_target().vector_bytes
                    )

    return types.void, emit


@kernel
def drop_rows(
    seed: int, step: int, number: int, layer: Layer, first_row: int, rows: int, a: Reals, factor: Reals
) -> None:
    """Drops units of the outputs a (and of their derivatives, where these are kept) of hidden layer ``number``, counted
    from 1; first_row is their place in the batch."""
    scales = columns_buffer(a)
    for i in range(0, rows, DRAWN_ROWS):
        for first in range(0, layer.n_out, drawn()):
            draw_scales(seed, step, number, layer, first_row + i, first, scales)
            for r in range(smaller(DRAWN_ROWS, rows - i)):
                j = 0
                while j < drawn() and first + j < layer.n_out:
                    at = (i + r) * layer.leading + first + j
                    scale = load(scales + (r * drawn() + j))
                    store(a + at, load(a + at) * scale)
                    if is_set(factor):
                        store(factor + at, load(factor + at) * scale)
                    j += lanes(a)
