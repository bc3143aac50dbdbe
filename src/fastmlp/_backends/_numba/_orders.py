"""The orders that examples go in, number by number as NumPy draws them: Generator.permutation with PCG64, and
RandomState.shuffle. As csrc/orders.c.

PCG64 is PCG XSL RR 128/64 (O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms for
random number generation", 2014); the shuffle is Durstenfeld's, each place drawn by masking until it is in range.
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import INT64, Pointer, Struct, pick
from fastmlp._backends._numba._vector import smaller

Generator = Any
Integers = Any

# As src/fastmlp/_orders.py hands it over: 128-bit numbers as two words, the lower first.
GENERATOR = Struct(
    "Generator",
    dict.fromkeys(("state", "state_high", "increment", "increment_high", "has_half", "half"), types.int64),
)
PLACES = 512  # drawn before any is used: the loop that draws has no branch to be guessed wrong
TAKEN, OUT_OF_RANGE = 1, 0
_WORD = 0xFFFFFFFF
_INT128 = ir.IntType(128)
_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645


@primitive
def next_number(generator: Any) -> Any:
    """64 random bits."""

    def emit(builder: ir.IRBuilder, p: Any) -> Any:
        words = builder.bitcast(p, _INT128.as_pointer())
        increment = builder.load(builder.gep(words, [INT64(1)]), align=8)
        state = builder.add(builder.mul(builder.load(words, align=8), _INT128(_MULTIPLIER)), increment)
        builder.store(state, words, align=8)
        high = builder.trunc(builder.lshr(state, _INT128(64)), INT64)
        turn = builder.lshr(high, INT64(58))
        rotate = builder.module.declare_intrinsic("llvm.fshr", [INT64], ir.FunctionType(INT64, 3 * [INT64]))
        mixed = builder.xor(high, builder.trunc(state, INT64))
        return builder.call(rotate, [mixed, mixed, turn])

    return types.int64, emit


@primitive
def room_for_places() -> Any:
    def emit(builder: ir.IRBuilder) -> Any:
        with builder.goto_entry_block():
            p = builder.alloca(ir.ArrayType(INT64, PLACES))
        return builder.bitcast(p, INT64.as_pointer())

    return Pointer(types.int64), emit


@primitive
def called(function: Any, argument: Any) -> Any:
    """What the function at an address, which returns a word of 32 bits, makes of an address."""
    pointer = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.IntType(32), [pointer])

    def emit(builder: ir.IRBuilder, address: Any, state: Any) -> Any:
        word = builder.call(builder.inttoptr(address, signature.as_pointer()), [builder.inttoptr(state, pointer)])
        return builder.zext(word, INT64)

    return types.int64, emit


@inline
def ones_for(number: int) -> int:
    """As many ones as a number has bits."""
    mask = 1
    while mask < number:
        mask = 2 * mask + 1
    return mask


@inline
def mask_for(top: int, mask: int) -> int:
    while mask >> 1 >= top:
        mask >>= 1
    return mask


@inline
def next_places(top: int, mask: int) -> int:
    """How many places come next, from ``top`` downwards: as long as they have as many bits."""
    return smaller(top - (mask >> 1), PLACES)


@kernel
def change_places(order: Integers, top: int, places: Integers, count: int) -> None:
    """Element top - t changes places with one of those up to it."""
    for t in range(count):
        moved = order[top - t]
        order[top - t] = order[places[t]]
        order[places[t]] = moved


@kernel
def shuffle_orders(next_uint32: int, state: int, n: int, count: int, orders: Integers) -> None:
    """``count`` orders of n numbers, each the one before, shuffled; the first is what stands there."""
    places = room_for_places()
    for c in range(count):
        order = orders + c * n
        if c > 0:
            for i in range(n):
                order[i] = order[i - n]
        mask = ones_for(n - 1)
        top = n - 1
        while top > 0:
            mask = mask_for(top, mask)
            wanted = next_places(top, mask)
            left = top
            while left > top - wanted:
                place = called(next_uint32, state) & mask
                places[top - left] = place
                left -= pick(place <= left, TAKEN, OUT_OF_RANGE)
            change_places(order, top, places, wanted)
            top -= wanted


@kernel
def draw_orders(g: Generator, n: int, count: int, orders: Integers) -> int:
    """``count`` permutations of 0 .. n - 1 one after the other."""
    places = room_for_places()
    has_half = g.has_half
    half = g.half
    for c in range(count):
        order = orders + c * n
        mask = ones_for(n - 1)
        for i in range(n):
            order[i] = i
        top = n - 1
        while top > 0:
            mask = mask_for(top, mask)
            wanted = next_places(top, mask)
            end = top - wanted
            left = top
            while left > end:
                if has_half == 0:
                    drawn = next_number(g)
                    half = (drawn >> 32) & _WORD
                    has_half = 1
                    place = drawn & mask
                    places[top - left] = place
                    left -= pick(place <= left, TAKEN, OUT_OF_RANGE)
                if left > end:
                    has_half = 0
                    place = half & mask
                    places[top - left] = place
                    left -= pick(place <= left, TAKEN, OUT_OF_RANGE)
            change_places(order, top, places, wanted)
            top = end
    g.has_half = has_half
    g.half = half
    return 1
