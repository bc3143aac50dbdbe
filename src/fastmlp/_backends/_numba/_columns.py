"""Rows side by side, one in every lane: column j has element j of all of them. As csrc/columns.h, where the reasons
stand.

What C keeps on its stack comes as an argument: ``line``, a vector for every element of a line.
"""

from typing import Any

import llvmlite.ir as ir

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._elementary import exponential, logarithm
from fastmlp._backends._numba._memory import INT32, INT64, SCALARS, Pointer, copy_reals, real_of
from fastmlp._backends._numba._structs import Reals
from fastmlp._backends._numba._vector import (
    Vector,
    choose,
    lanes,
    line_lanes,
    load,
    multiply_add,
    splat,
    store,
    store_all_columns,
    store_half_of_columns,
    store_quarter_of_columns,
    transpose_block,
)

MOST_COLUMNS = 32


@primitive
def columns_buffer(like: Any) -> Any:
    """A place for MOST_COLUMNS vectors on the stack of its kernel."""
    vector = Vector(real_of(like))

    def emit(builder: ir.IRBuilder, _: Any) -> Any:
        with builder.goto_entry_block():
            p = builder.alloca(SCALARS[vector.element], MOST_COLUMNS * vector.lanes)
            p.align = 64
        return p

    return Pointer(vector.element), emit


@primitive
def load_elements(pointer: Any, step: Any, count: Any) -> Any:
    """A vector put together in registers, from ``count`` numbers ``step`` elements apart and zeros: to load one that
    single numbers were stored to waits until they are in the cache."""
    vector = Vector(pointer.target)

    def emit(builder: ir.IRBuilder, p: Any, step: Any, count: Any) -> Any:
        result, done, ends = vector.llvm(None), builder.append_basic_block(), []
        for lane in range(vector.lanes):
            ends.append((result, builder.block))
            more = builder.append_basic_block()
            builder.cbranch(builder.icmp_signed("<", INT64(lane), count), more, done)
            builder.position_at_end(more)
            element = builder.load(builder.gep(p, [builder.mul(INT64(lane), step)]))
            result = builder.insert_element(result, element, INT32(lane))
        ends.append((result, builder.block))
        builder.branch(done)
        builder.position_at_end(done)
        together = builder.phi(vector.llvm)
        for end in ends:
            together.add_incoming(*end)
        return together

    return vector, emit


# Sums over the outputs of a row: a line, then a tree.


@inline
def clear_line(line: Reals) -> None:
    for i in range(line_lanes(line)):
        store(line + i * lanes(line), splat(0, line))


@inline
def part_of_line(line: Reals, j: int) -> Reals:
    """Where element j of a row is added up."""
    return line + (j & (line_lanes(line) - 1)) * lanes(line)


@kernel
def lane_line_sum(line: Reals, n: int) -> Vector:
    """The sum of what n elements of a row left in a line; parts that none of them reached are zero."""
    width = line_lanes(line)
    while width // 2 >= n:
        width = width // 2
    width = width // 2
    while width > 0:
        for i in range(width):
            p = line + i * lanes(line)
            store(p, load(p) + load(p + width * lanes(line)))
        width = width // 2
    return load(line)


@kernel
def lane_exponentials(z: Reals, n: int, line: Reals) -> tuple[Vector, Vector]:
    """exp(z - max z) in place; their sum, and the maximum."""
    most = load(z)
    for j in range(1, n):
        x = load(z + j * lanes(z))
        most = choose(x > most, x, most)
    clear_line(line)
    for j in range(n):
        e = exponential(load(z + j * lanes(z)) - most)
        store(z + j * lanes(z), e)
        part = part_of_line(line, j)
        store(part, load(part) + e)
    return lane_line_sum(line, n), most


@kernel
def cross_entropy_of_classes(
    z: Reals, label: Vector, n: int, with_gradient: bool, scale: Vector, line: Reals
) -> Vector:
    logit = splat(0, z)
    one = splat(1, z)
    for j in range(n):
        logit = choose(label == splat(j, z), load(z + j * lanes(z)), logit)
    total, largest = lane_exponentials(z, n, line)
    if with_gradient:
        for j in range(n):
            p = load(z + j * lanes(z)) / total
            store(z + j * lanes(z), choose(label == splat(j, z), p - one, p) * scale)
    return multiply_add(logarithm(total), one, -(logit - largest))


@kernel
def cross_entropy_of_rows(
    z: Reals, y: Reals, n: int, with_gradient: bool, scale: Vector, shifted: Reals, line: Reals, other_line: Reals
) -> Vector:
    copy_reals(shifted, z, n * lanes(z))
    total, largest = lane_exponentials(z, n, line)
    zero = splat(0, z)
    clear_line(line)
    clear_line(other_line)
    for j in range(n):
        target = load(y + j * lanes(z))
        d = load(shifted + j * lanes(z)) - largest
        weight = part_of_line(line, j)
        gap = part_of_line(other_line, j)
        store(weight, load(weight) + target)
        store(gap, choose(target == zero, load(gap), multiply_add(target, d, load(gap))))
    whole = lane_line_sum(line, n)
    if with_gradient:
        for j in range(n):
            p = load(z + j * lanes(z)) / total
            store(z + j * lanes(z), (p * whole - load(y + j * lanes(z))) * scale)
    return multiply_add(logarithm(total), whole, -lane_line_sum(other_line, n))


@inline
def fit_columns(rows: int, n: int, z: Reals) -> bool:
    """Rows of few outputs are brought into columns; fewer rows than there are lanes stay as they are."""
    return rows >= lanes(z) and n <= MOST_COLUMNS


@kernel
def rows_to_columns(z: Reals, leading: int, n: int, columns: Reals) -> None:
    for j in range(0, n, lanes(z)):
        to = columns + j * lanes(z)
        if n - j <= lanes(z) // 4:  # few need few zips
            store_quarter_of_columns(z + j, leading, to)
        elif n - j <= lanes(z) // 2:
            store_half_of_columns(z + j, leading, to)
        else:
            store_all_columns(z + j, leading, to)


@kernel
def columns_to_rows(columns: Reals, n: int, z: Reals, leading: int) -> None:
    for j in range(0, n, lanes(z)):
        transpose_block(columns + j * lanes(z), lanes(z), n - j, z + j, leading)
