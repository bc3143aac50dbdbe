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
from fastmlp._backends._numba._gather import FETCHED_ROWS
from fastmlp._backends._numba._memory import (
    Pointer,
    Struct,
    as_real,
    constructor,
    copy_reals,
    is_set,
    null_like,
    pick,
    size_of_real,
)
from fastmlp._backends._numba._structs import SGD, Layer, Reals
from fastmlp._backends._numba._tile import (
    append_rows,
    column_rows_list,
    fetch_then,
    multiply,
    next_tile_vectors,
    product,
    tile_registers,
    touched,
)
from fastmlp._backends._numba._tile_code import COLUMNS_OF_A, MAX_TILE_ROWS, ROWS_OF_A, UNROLLED
from fastmlp._backends._numba._update import PLAIN, extras_of, update_rows, update_step_struct, uses_first, uses_second
from fastmlp._backends._numba._vector import (
    lanes,
    line_lanes,
    load,
    multiply_add,
    part_of,
    prefetch,
    smaller,
    splat,
    store,
    transpose_block,
    whole_vectors,
)

PANEL = 48
# A product is cut so that its a (rows x depth) and one column of its b stay in the caches: 240 KB and 20 KB.
BLOCK_ROWS_BYTES = 768
BLOCK_DEPTH = 320
PACKED_OUTPUTS = 1024  # a block of x is packed where so many outputs read it, under vectors shorter than a line
# Of a layer's outputs, or of what the gradient of its weights goes to: more than half the second cache is fetched
# beforehand.
FETCHED_BYTES = 1 << 19
STREAMED_COLUMNS = 256  # one example goes through layers from here on row by row


@inline
def most_block_rows(like: Reals) -> int:
    """BLOCK_ROWS"""
    return BLOCK_ROWS_BYTES // size_of_real(like)


@inline
def packed_columns(like: Reals) -> int:
    """PACKED_COLUMNS: a panel of inputs nobody writes over too early is packed where layers have more. 784-128-10 gains
    0.7 %, in float64 3 %."""
    return pick(lanes(like) == line_lanes(like), 256, 112)


@inline
def packed_row(like: Reals) -> int:
    """PACKED_ROW: an odd number of lines"""
    return BLOCK_DEPTH + line_lanes(like)


@inline
def parts_of(n: int, most: int) -> int:
    """In how many parts n things go, each of at most so many."""
    return (n + most - 1) // most if n > most else 1


ROWS_OF_ONE_EXAMPLE = 8


@inline
def add_eight_rows(x: Reals, weights: Reals, leading: int, vectors: int, start: Reals, z: Reals) -> None:
    """z = start + x times eight rows of the weights. Written out, so that x stays in registers."""
    x0, x1, x2, x3 = splat(x[0], x), splat(x[1], x), splat(x[2], x), splat(x[3], x)
    x4, x5, x6, x7 = splat(x[4], x), splat(x[5], x), splat(x[6], x), splat(x[7], x)
    for j in range(vectors):
        at = j * lanes(x)
        total = multiply_add(x0, load(weights + at), load(start + at))
        total = multiply_add(x1, load(weights + (leading + at)), total)
        total = multiply_add(x2, load(weights + (2 * leading + at)), total)
        total = multiply_add(x3, load(weights + (3 * leading + at)), total)
        total = multiply_add(x4, load(weights + (4 * leading + at)), total)
        total = multiply_add(x5, load(weights + (5 * leading + at)), total)
        total = multiply_add(x6, load(weights + (6 * leading + at)), total)
        store(z + at, multiply_add(x7, load(weights + (7 * leading + at)), total))


@kernel
def dense_forward_row(layer: Layer, outputs: int, x: Reals, parameters: Reals, z: Reals) -> None:
    """z = x W^T + b for one example: eight rows of the weights at a time, each read from end to end. Columns of tiles
    would take a few lines out of every row, and the memory of a wide layer is slow at that."""
    leading = layer.leading
    vectors = whole_vectors(outputs, x)
    start = parameters + layer.n_in * leading
    for k in range(0, layer.n_in, line_lanes(x)):
        prefetch(x + k)  # other threads may have computed parts
    for k in range(0, layer.n_in, ROWS_OF_ONE_EXAMPLE):
        weights = parameters + k * leading
        if k + ROWS_OF_ONE_EXAMPLE <= layer.n_in:
            add_eight_rows(x + k, weights, leading, vectors, start, z)
        else:
            for j in range(vectors):
                at = j * lanes(x)
                total = load(start + at)
                for i in range(layer.n_in - k):
                    total = multiply_add(splat(x[k + i], total), load(weights + (i * leading + at)), total)
                store(z + at, total)
        start = z


@kernel
def dense_forward(
    all_rows: int,
    layer: Layer,
    outputs: int,
    activation: int,
    x: Reals,
    x_leading: int,
    parameters: Reals,
    packed: Reals,
    z: Reals,
    factor: Reals,
) -> None:
    """z = f(x W^T + b) over some rows and so many outputs, ``parameters`` and z leading to the first of them. With
    ``factor`` (leading as z) f'(z) is kept there. ``packed``: a place for a block of x."""
    leading = layer.leading
    vectors = whole_vectors(outputs, x)
    bias = parameters + layer.n_in * leading
    if all_rows == 1 and outputs >= STREAMED_COLUMNS:
        dense_forward_row(layer, outputs, x, parameters, z)
        if is_set(factor):
            activate_rows_keeping_factor(activation, 1, vectors, z, factor, leading)
        else:
            activate_rows(activation, 1, vectors, z, leading)
        return
    ahead = column_rows_list(x)
    row_blocks = parts_of(all_rows, most_block_rows(x))
    depth_blocks = parts_of(layer.n_in, BLOCK_DEPTH)
    for r in range(row_blocks):
        row, row_end = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS)
        rows = row_end - row
        is_fetched = rows * leading * size_of_real(x) >= FETCHED_BYTES
        for d in range(depth_blocks):
            k, k_end = part_of(layer.n_in, depth_blocks, d, UNROLLED)
            depth = k_end - k
            a = x + (row * x_leading + k)
            a_leading = x_leading
            if outputs >= PACKED_OUTPUTS and lanes(x) < line_lanes(x):
                a_leading = packed_row(x)
                for i in range(rows):
                    copy_reals(packed + i * a_leading, a + i * x_leading, depth)
                a = packed
            j = 0
            while j < vectors:
                at = j * lanes(x)
                tile = next_tile_vectors(rows, outputs - at, x)
                step = touched(tile)
                b = parameters + (k * leading + at)
                c = z + (row * leading + at)
                append_rows(ahead, 0, c + step * lanes(x), leading, rows)
                p = product(
                    a=a, a_stride=a_leading,
                    b=b, b_row=leading, next=b + step * lanes(x), next_row=leading, next_rows=depth,
                    then=ahead if is_fetched else null_like(ahead),
                    start=bias + at if d == 0 else c, start_row=0 if d == 0 else leading,
                    c=c, c_row=leading, depth=depth, scale=0.0, fetched=0,
                )  # fmt: skip
                multiply(ROWS_OF_A, rows, tile, p)
                if d + 1 == depth_blocks:
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


@inline
def is_plain_sgd(sink: GradientSink) -> bool:
    """Plain steps of SGD: w + (-rate) dL/dw."""
    return sink.use == UPDATE_PARAMETERS and sink.update.code == SGD and extras_of(sink.update) == PLAIN


BackwardScratch = Any


# What one thread needs beside.
def backward_scratch_struct(real: Any) -> Struct:
    return Struct(
        f"backward_scratch_{real}",
        {
            "constants": Pointer(real),  # a line of ones and then zeros
            "panel": Pointer(real),  # a panel of inputs
            "transposed": Pointer(real),  # a block of W^T
            "tile": Pointer(real),  # what tiles compute
            "fetched": Pointer(FETCHED_ROWS),  # or null
            "is_dropped": types.int64,  # whether units were, on the way forward
        },
    )


backward_scratch = constructor(backward_scratch_struct, like="constants")


@inline
def dropout_scale(layer: Layer, scratch: BackwardScratch) -> float:
    """What dropout has multiplied a layer's outputs by."""
    if scratch.is_dropped and layer.dropout_from > 0:
        return as_real(layer.dropout_scale, scratch.tile)
    return as_real(1, scratch.tile)


@inline
def group_units(like: Reals) -> int:
    """GROUP: units of a panel that are packed together, a number that the rows of the common tiles divide. 12 in
    float64 under AVX2 would be 96 bytes, of which a tile reads half: 4 x 1024 -6 %."""
    return pick(lanes(like) == line_lanes(like), tile_registers(), 48 // size_of_real(like))


CHUNK = 4  # they are copied so many at a time


@kernel
def pack_panel(rows: int, units: int, a: Reals, a_leading: int, panel: Reals) -> None:
    """Some units of every example as columns of GROUP units. A panel is read again for every column of the product, and
    its lines lie pages apart."""
    whole = units // group_units(a) * group_units(a)
    for i in range(rows):
        source = a + i * a_leading
        packed = panel + i * group_units(a)
        for u in range(0, whole, group_units(a)):
            copy_reals(packed + u * rows, source + u, group_units(a))
        rest = packed + (whole * rows - whole)
        copied = units // CHUNK * CHUNK
        for u in range(whole, copied, CHUNK):
            copy_reals(rest + u, source + u, CHUNK)
        for u in range(copied, units):
            rest[u] = source[u]


@kernel
def dense_weight_gradient(
    rows: int,
    layer: Layer,
    first: int,
    units: int,
    a: Reals,
    a_stride: int,
    a_unit: int,
    dz: Reals,
    scratch: BackwardScratch,
    sink: GradientSink,
) -> None:
    """dW of a panel of units, or db: a^T dz over the rows, stored, added, or used for the update at once. Numbers of a
    lie a_stride apart from row to row, and a_unit from unit to unit whose number GROUP divides."""
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, a)
    # The product adds rate * gradient by itself, but for a rate of 0, which tells it to overwrite.
    is_added = is_plain_sgd(sink) and sink.update.rate != 0
    is_direct = is_added or sink.use != UPDATE_PARAMETERS
    scale = 0.0
    if is_added:
        scale = -sink.update.rate
    elif sink.use == ADD_GRADIENT:
        scale = 1.0
    arena = sink.parameters if is_added else sink.gradients
    has_first = not is_direct and uses_first(sink.update.code)
    has_second = not is_direct and uses_second(sink.update.code)
    arenas = 1 + pick(has_first, 1, 0) + pick(has_second, 1, 0)
    is_fetched = arenas * layer.n_in * leading * size_of_real(a) >= FETCHED_BYTES
    ahead = column_rows_list(a)
    j = 0
    while j < vectors:
        tile = next_tile_vectors(smaller(group_units(a), units), layer.n_out - j * lanes(a), a)
        step = touched(tile)
        at = layer.parameters + first * leading + j * lanes(a)
        p = product(
            a=a, a_stride=a_stride,
            b=dz + j * lanes(a), b_row=leading, next=dz + (j + step) * lanes(a), next_row=leading, next_rows=rows,
            then=0, start=dz, start_row=0,  # start is not read: columns start from +0
            c=arena + at if is_direct else scratch.tile, c_row=leading if is_direct else step * lanes(a),
            depth=rows, scale=scale, fetched=scratch.fetched,
        )  # fmt: skip
        if is_fetched:  # and last the rows of dz for the next column
            n = append_rows(ahead, 0, (arena if is_direct else sink.parameters) + at, leading, units)
            if has_first:
                n = append_rows(ahead, n, sink.update.first + at, leading, units)
            if has_second:
                n = append_rows(ahead, n, sink.update.second + at, leading, units)
            append_rows(ahead, n, p.next, leading, rows)
            p.then = ahead
            fetch_then(p)
        for u in range(0, units, group_units(a)):
            p.a = a + u * a_unit
            multiply(COLUMNS_OF_A, smaller(group_units(a), units - u), tile, p)
        if not is_direct:
            update_rows(sink.update, first < layer.n_in, units, step, scratch.tile, step * lanes(a), at, leading)
        j += step


@kernel
def pack_transposed(units: int, outputs: int, vectors: int, parameters: Reals, leading: int, packed: Reals) -> None:
    """packed[k][u] = parameters of unit u and output k of some units and outputs: a block of W^T, zero beyond the
    units."""
    row = vectors * lanes(packed)
    for u in range(0, row, lanes(packed)):
        for k in range(0, outputs, lanes(packed)):
            transpose_block(parameters + (u * leading + k), leading, units - u, packed + (k * row + u), row)


@kernel
def dense_input_gradient(
    all_rows: int,
    layer: Layer,
    below: Layer,
    first: int,
    units: int,
    dz: Reals,
    parameters: Reals,
    scratch: BackwardScratch,
    a: Reals,
    factor: Reals,
    dx: Reals,
) -> None:
    """dL/da of a panel of the layer's input units; and through the activation below in place over its outputs a, or
    (without ``below``) into dx, rows of n_in."""
    leading = layer.leading
    vectors = whole_vectors(units, dz)
    row_blocks = parts_of(all_rows, most_block_rows(dz))
    depth_blocks = parts_of(layer.n_out, BLOCK_DEPTH)
    for d in range(depth_blocks):
        k, k_end = part_of(layer.n_out, depth_blocks, d, lanes(dz))
        depth = k_end - k
        pack_transposed(units, depth, vectors, parameters + (first * leading + k), leading, scratch.transposed)
        for r in range(row_blocks):
            row, row_end = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS)
            rows = row_end - row
            gradients = scratch.tile + row * PANEL
            j = 0
            while j < vectors:
                at = j * lanes(dz)
                tile = next_tile_vectors(rows, units - at, dz)
                c = gradients + at
                p = product(
                    a=dz + (row * leading + k), a_stride=leading,
                    b=scratch.transposed + at, b_row=vectors * lanes(dz), next=dz, next_row=0, next_rows=0, then=0,
                    start=scratch.constants + line_lanes(dz) if d == 0 else c, start_row=0 if d == 0 else PANEL,
                    c=c, c_row=PANEL, depth=depth, scale=0.0, fetched=scratch.fetched,
                )  # fmt: skip
                multiply(ROWS_OF_A, rows, tile, p)
                j += touched(tile)
            if d + 1 < depth_blocks:
                continue
            if is_set(below):
                at = row * below.leading + first
                if is_set(factor):
                    chain_rows_by_factor(rows, vectors, gradients, PANEL, factor + at, a + at, below.leading)
                else:
                    scale = dropout_scale(below, scratch)
                    chain_rows(below.activation, scale, rows, vectors, gradients, PANEL, a + at, below.leading)
            else:
                for i in range(rows):
                    copy_reals(dx + ((row + i) * layer.n_in + first), gradients + i * PANEL, units)


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
    training step)."""
    reaches_below = is_set(below) or is_set(dx)
    # Both gradients come from what the other overwrites: the inputs, and with an update the weights.
    packs = layer.n_out > packed_columns(a) or (reaches_below and sink.use == UPDATE_PARAMETERS)
    for first in range(begin, end, PANEL):
        units = smaller(PANEL, end - first)
        if packs:
            pack_panel(rows, units, a + first, a_leading, scratch.panel)
        else:
            dense_weight_gradient(rows, layer, first, units, a + first, a_leading, 1, dz, scratch, sink)
        if reaches_below:
            parameters = sink.parameters + layer.parameters
            dense_input_gradient(rows, layer, below, first, units, dz, parameters, scratch, a, factor, dx)
        if packs:
            dense_weight_gradient(rows, layer, first, units, scratch.panel, group_units(a), rows, dz, scratch, sink)


@kernel
def dense_bias_gradient(rows: int, layer: Layer, dz: Reals, scratch: BackwardScratch, sink: GradientSink) -> None:
    """The bias is the weight of an input that is always 1."""
    dense_weight_gradient(rows, layer, layer.n_in, 1, scratch.constants, 0, 0, dz, scratch, sink)
