"""One fully connected layer: forward, and backward panel by panel. As csrc/dense.h.

A panel is the input units whose weights, gradients and input gradients are worked on together while they are in the
cache. Panels are independent of each other.
"""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._activation import (
    activate_rows,
    activate_rows_keeping_factor,
    chain_rows,
    chain_rows_by_factor,
)
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._memory import Pointer, Struct, constructor, copy_reals, is_set, size_of_real
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._tile import multiply_rows, next_tile_vectors, tile_operands
from fastmlp._backends._numba._update import add_rows, update_rows, update_step_struct
from fastmlp._backends._numba._vector import (
    lanes,
    line_lanes,
    load,
    multiply_add,
    smaller,
    splat,
    store,
    transpose_lanes,
)

CHUNK_ROWS = 48
# A product is cut so that its a (rows x depth) and one column of its b stay in the caches: 192 KB and 32 KB.
BLOCK_ROWS = 96
BLOCK_DEPTH_BYTES = 2048
PACKED_COLUMNS = 256  # layers from here on copy what they read again and again from lines that lie pages apart


@inline
def panel_units(like: Reals) -> int:
    """PANEL"""
    return 3 * line_lanes(like)


@inline
def block_depth(like: Reals) -> int:
    """BLOCK_DEPTH"""
    return BLOCK_DEPTH_BYTES // size_of_real(like)


@inline
def whole_vectors(n: int, like: Reals) -> int:
    return (n + lanes(like) - 1) // lanes(like)


@kernel
def pack_column(depth: int, vectors: int, b: Reals, b_row: int, packed: Reals) -> Reals:
    """One column of b side by side."""
    for k in range(depth):
        for j in range(vectors):
            store(packed + (k * vectors + j) * lanes(b), load(b + (k * b_row + j * lanes(b))))
    return packed


ROWS_OF_ONE_EXAMPLE = 8


@kernel
def dense_forward_row(layer: Layer, x: Reals, parameters: Reals, z: Reals) -> None:
    """z = x W^T + b for one example: eight rows of the weights at a time, each read from end to end. Columns of tiles
    would take a few lines out of every row, and the memory of a wide layer is slow at that."""
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, x)
    start = parameters + layer.n_in * leading
    for k in range(0, layer.n_in, ROWS_OF_ONE_EXAMPLE):
        rows = smaller(ROWS_OF_ONE_EXAMPLE, layer.n_in - k)
        weights = parameters + k * leading
        for j in range(vectors):
            total = load(start + j * lanes(x))
            for i in range(rows):
                total = multiply_add(splat(x[k + i], total), load(weights + (i * leading + j * lanes(x))), total)
            store(z + j * lanes(x), total)
        start = z


@kernel
def dense_forward(
    all_rows: int,
    layer: Layer,
    activation: int,
    x: Reals,
    x_leading: int,
    parameters: Reals,
    z: Reals,
    factor: Reals,
    packed: Reals,
) -> None:
    """z = f(x W^T + b) over some rows. With ``factor`` (leading as z) f'(z) is kept there."""
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, x)
    bias = parameters + layer.n_in * leading
    if all_rows == 1 and layer.n_out >= PACKED_COLUMNS:
        dense_forward_row(layer, x, parameters, z)
        if is_set(factor):
            activate_rows_keeping_factor(activation, 1, vectors, z, factor, leading)
        else:
            activate_rows(activation, 1, vectors, z, leading)
        return
    for row in range(0, all_rows, BLOCK_ROWS):
        rows = smaller(BLOCK_ROWS, all_rows - row)
        is_packed = layer.n_out >= PACKED_COLUMNS and rows >= BLOCK_ROWS // 2
        for k in range(0, layer.n_in, block_depth(x)):
            depth = smaller(block_depth(x), layer.n_in - k)
            is_first = k == 0
            is_last = k + depth == layer.n_in
            j = 0
            while j < vectors:
                step = next_tile_vectors(rows, vectors - j)
                at = j * lanes(x)
                b = parameters + (k * leading + at)
                c = z + (row * leading + at)
                t = tile_operands(
                    a=x + (row * x_leading + k), a_row=x_leading, a_step=1,
                    b=pack_column(depth, step, b, leading, packed) if is_packed else b,
                    b_row=step * lanes(x) if is_packed else leading,
                    next_b=b + step * lanes(x), next_row=leading,
                    start=bias + at if is_first else c, start_row=0 if is_first else leading,
                    c=c, c_row=leading, depth=depth,
                )  # fmt: skip
                multiply_rows(rows, step, t)
                if is_last:
                    if is_set(factor):
                        activate_rows_keeping_factor(activation, rows, step, c, factor + (row * leading + at), leading)
                    else:
                        activate_rows(activation, rows, step, c, leading)
                j += step


# What becomes of a gradient tile.
STORE_GRADIENT, ADD_GRADIENT, UPDATE_PARAMETERS = range(3)

GradientSink = Any


def gradient_sink_struct(real: Any) -> Struct:
    return Struct(
        f"gradient_sink_{real}",
        {
            "use": types.int64,
            "gradients": Pointer(real),  # arena, for STORE and ADD
            "parameters": Pointer(real),  # arena
            "update": Pointer(update_step_struct(real)),  # for UPDATE
        },
    )


gradient_sink = constructor(gradient_sink_struct, like="parameters")


@kernel
def dense_weight_gradient(
    rows: int,
    layer: Layer,
    first_unit: int,
    units: int,
    a: Reals,
    a_step: int,
    dz: Reals,
    zeros: Reals,
    tile: Reals,
    sink: GradientSink,
) -> None:
    """dW (or db) of some units: a^T dz over the rows, stored, added, or used for the update at once.

    ``a`` has a_step elements from one example to the next, and units one beside the other.
    """
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, a)
    offset = layer.parameters + first_unit * leading
    j = 0
    while j < vectors:
        step = next_tile_vectors(units, vectors - j)
        at = offset + j * lanes(a)
        direct = sink.use == STORE_GRADIENT
        t = tile_operands(
            a=a, a_row=1, a_step=a_step,
            b=dz + j * lanes(a), b_row=leading, next_b=dz + (j + step) * lanes(a), next_row=leading,
            start=zeros, start_row=0,
            c=sink.gradients + at if direct else tile, c_row=leading if direct else step * lanes(a), depth=rows,
        )  # fmt: skip
        multiply_rows(units, step, t)
        if sink.use == ADD_GRADIENT:
            add_rows(units, step, tile, step * lanes(a), sink.gradients + at, leading)
        if sink.use == UPDATE_PARAMETERS:
            is_weight = first_unit < layer.n_in
            update_rows(sink.update, is_weight, units, step, tile, step * lanes(a), at, leading)
        j += step


@kernel
def transpose_panel(layer: Layer, parameters: Reals, first: int, units: int, panel: Reals) -> None:
    """panel[k][u] = parameters of unit first + u and output k: W^T of a panel, zero beyond its units."""
    source = parameters + first * layer.leading
    for u in range(0, units, lanes(panel)):
        for k in range(0, layer.n_out, lanes(panel)):
            row = panel_units(panel)
            transpose_lanes(source + (u * layer.leading + k), layer.leading, units - u, panel + (k * row + u), row)


@kernel
def dense_input_gradient(
    rows: int,
    layer: Layer,
    below: Layer,
    first: int,
    units: int,
    dz: Reals,
    panel: Reals,
    zeros: Reals,
    tile: Reals,
    a: Reals,
    factor: Reals,
    dx: Reals,
) -> None:
    """dL/da of a panel of the layer's input units, chunk by chunk into ``tile``; and through the activation below in
    place over its outputs a, or (without ``below``) into dx, rows of n_in."""
    leading = layer.leading
    vectors = whole_vectors(units, dz)
    tile_row = panel_units(dz)
    for row in range(0, rows, CHUNK_ROWS):
        chunk = smaller(CHUNK_ROWS, rows - row)
        for k in range(0, layer.n_out, block_depth(dz)):
            j = 0
            while j < vectors:
                step = next_tile_vectors(chunk, vectors - j)
                b = panel + (k * tile_row + j * lanes(dz))
                c = tile + j * lanes(dz)
                t = tile_operands(
                    a=dz + (row * leading + k), a_row=leading, a_step=1,
                    b=b, b_row=tile_row, next_b=b + step * lanes(dz), next_row=tile_row,
                    start=c if k else zeros, start_row=tile_row if k else 0,
                    c=c, c_row=tile_row, depth=smaller(block_depth(dz), layer.n_out - k),
                )  # fmt: skip
                multiply_rows(chunk, step, t)
                j += step
        if is_set(below):
            at = row * below.leading + first
            if is_set(factor):
                chain_rows_by_factor(chunk, vectors, tile, tile_row, factor + at, a + at, below.leading)
            else:
                chain_rows(below.activation, chunk, vectors, tile, tile_row, a + at, below.leading)
        else:
            for i in range(chunk):
                copy_reals(dx + ((row + i) * layer.n_in + first), tile + i * tile_row, units)


BackwardScratch = Any


# What one thread needs beside.
def backward_scratch_struct(real: Any) -> Struct:
    return Struct(
        f"backward_scratch_{real}",
        {
            "constants": Pointer(real),  # a line of ones and then zeros
            "panel": Pointer(real),  # W^T of a panel
            "tile": Pointer(real),
            "packed": Pointer(real),  # a panel of inputs
        },
    )


backward_scratch = constructor(backward_scratch_struct, like="constants")


@kernel
def pack_panel(rows: int, units: int, a: Reals, a_leading: int, packed: Reals) -> Reals:
    """A panel of a side by side. The panel is read again for every column of the product, and its lines lie pages
    apart."""
    for i in range(rows):
        copy_reals(packed + i * panel_units(a), a + i * a_leading, units)
    return packed


@kernel
def dense_backward(
    rows: int,
    layer: Layer,
    below: Layer,
    begin: int,
    end: int,
    a: Reals,
    a_leading: int,
    factor: Reals,
    dz: Reals,
    dx: Reals,
    scratch: BackwardScratch,
    sink: GradientSink,
) -> None:
    """What a layer does backward for input units begin .. end - 1: from dz over its outputs, the weights' gradients
    into the sink and the input's gradient over the layer below (or into dx, or nowhere for the first layer of a
    training step).

    A panel's weights are copied before they are updated.
    """
    zeros = scratch.constants + line_lanes(a)
    wants_input = is_set(below) or is_set(dx)
    for first in range(begin, end, panel_units(a)):
        units = smaller(panel_units(a), end - first)
        if wants_input:
            transpose_panel(layer, sink.parameters + layer.parameters, first, units, scratch.panel)
        inputs = a + first
        step = a_leading
        if layer.n_out >= PACKED_COLUMNS:
            inputs = pack_panel(rows, units, a + first, a_leading, scratch.packed)
            step = panel_units(a)
        dense_weight_gradient(rows, layer, first, units, inputs, step, dz, zeros, scratch.tile, sink)
        if wants_input:
            dense_input_gradient(
                rows, layer, below, first, units, dz, scratch.panel, zeros, scratch.tile, a, factor, dx
            )


@kernel
def dense_bias_gradient(rows: int, layer: Layer, dz: Reals, scratch: BackwardScratch, sink: GradientSink) -> None:
    """The bias is the weight of an input that is always 1."""
    zeros = scratch.constants + line_lanes(dz)
    dense_weight_gradient(rows, layer, layer.n_in, 1, scratch.constants, 0, dz, zeros, scratch.tile, sink)
