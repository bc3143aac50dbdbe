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
from fastmlp._backends._numba._memory import Pointer, Struct, as_real, constructor, copy_reals, is_set
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._tile import multiply_rows, next_tile_vectors, tile_operands
from fastmlp._backends._numba._update import add_rows, update_rows, update_step_struct
from fastmlp._backends._numba._vector import lanes, line_lanes, smaller

CHUNK_ROWS = 48


@inline
def panel_units(like: Reals) -> int:
    """PANEL"""
    return 3 * line_lanes(like)


@inline
def whole_vectors(n: int, like: Reals) -> int:
    return (n + lanes(like) - 1) // lanes(like)


@kernel
def dense_forward(
    rows: int, layer: Layer, activation: int, x: Reals, x_leading: int, parameters: Reals, z: Reals, factor: Reals
) -> None:
    """z = f(x W^T + b) over some rows. With ``factor`` (leading as z) f'(z) is kept there."""
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, x)
    j = 0
    while j < vectors:
        step = next_tile_vectors(rows, vectors - j)
        at = j * lanes(x)
        t = tile_operands(
            a=x, a_row=x_leading, a_step=1,
            b=parameters + at, b_row=leading,
            start=parameters + (layer.n_in * leading + at), start_row=0,
            c=z + at, c_row=leading, depth=layer.n_in,
        )  # fmt: skip
        multiply_rows(rows, step, t)
        if is_set(factor):
            activate_rows_keeping_factor(activation, rows, step, z + at, factor + at, leading)
        else:
            activate_rows(activation, rows, step, z + at, leading)
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
            b=dz + j * lanes(a), b_row=leading,
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
    leading = layer.leading
    width = whole_vectors(units, panel) * lanes(panel)
    row = panel_units(panel)
    source = parameters + first * leading
    for k0 in range(0, layer.n_out, line_lanes(panel)):
        k1 = smaller(k0 + line_lanes(panel), layer.n_out)
        for u in range(units):
            for k in range(k0, k1):
                panel[k * row + u] = source[u * leading + k]
        for u in range(units, width):
            for k in range(k0, k1):
                panel[k * row + u] = as_real(0, panel)


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
    vectors = whole_vectors(units, dz)
    for row in range(0, rows, CHUNK_ROWS):
        chunk = smaller(CHUNK_ROWS, rows - row)
        j = 0
        while j < vectors:
            step = next_tile_vectors(chunk, vectors - j)
            tile_row = step * lanes(dz)
            t = tile_operands(
                a=dz + row * layer.leading, a_row=layer.leading, a_step=1,
                b=panel + j * lanes(dz), b_row=panel_units(dz),
                start=zeros, start_row=0,
                c=tile, c_row=tile_row, depth=layer.n_out,
            )  # fmt: skip
            multiply_rows(chunk, step, t)
            if is_set(below):
                at = row * below.leading + first + j * lanes(dz)
                if is_set(factor):
                    chain_rows_by_factor(chunk, step, tile, tile_row, factor + at, a + at, below.leading)
                else:
                    chain_rows(below.activation, chunk, step, tile, tile_row, a + at, below.leading)
            else:
                width = smaller(tile_row, units - j * lanes(dz))
                for i in range(chunk):
                    copy_reals(dx + ((row + i) * layer.n_in + first + j * lanes(dz)), tile + i * tile_row, width)
            j += step


BackwardScratch = Any


# What one thread needs beside.
def backward_scratch_struct(real: Any) -> Struct:
    return Struct(
        f"backward_scratch_{real}",
        {
            "constants": Pointer(real),  # a line of ones and then zeros
            "panel": Pointer(real),  # W^T of a panel
            "tile": Pointer(real),
        },
    )


backward_scratch = constructor(backward_scratch_struct, like="constants")


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
        dense_weight_gradient(rows, layer, first, units, a + first, a_leading, dz, zeros, scratch.tile, sink)
        if wants_input:
            dense_input_gradient(
                rows, layer, below, first, units, dz, scratch.panel, zeros, scratch.tile, a, factor, dx
            )


@kernel
def dense_bias_gradient(rows: int, layer: Layer, dz: Reals, scratch: BackwardScratch, sink: GradientSink) -> None:
    """The bias is the weight of an input that is always 1."""
    zeros = scratch.constants + line_lanes(dz)
    dense_weight_gradient(rows, layer, layer.n_in, 1, scratch.constants, 0, dz, zeros, scratch.tile, sink)
