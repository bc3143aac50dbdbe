"""A small batch through a layer that has no more inputs or outputs than a vector has lanes. As csrc/narrow.h."""

from fastmlp._backends._numba._activation import (
    activate_rows,
    activate_rows_keeping_factor,
    chain_rows,
    chain_rows_by_factor,
)
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._dense import (
    STORE_GRADIENT,
    UPDATE_PARAMETERS,
    BackwardScratch,
    GradientSink,
    dropout_scale,
    is_plain_sgd,
    pack_transposed,
)
from fastmlp._backends._numba._memory import copy_reals, is_set
from fastmlp._backends._numba._structs import Layer, Reals
from fastmlp._backends._numba._update import update_rows
from fastmlp._backends._numba._vector import lanes, load, multiply_add, splat, store

NARROW_ROWS = 16
FEW_WEIGHTS = 32  # csrc/narrow.h has the reasons


@inline
def is_narrow(rows: int, layer: Layer, like: Reals) -> bool:
    return rows <= NARROW_ROWS and layer.n_in <= lanes(like) and layer.n_out <= lanes(like)


@kernel
def narrow_forward(
    rows: int,
    layer: Layer,
    activation: int,
    x: Reals,
    x_leading: int,
    parameters: Reals,
    z: Reals,
    factor: Reals,
) -> None:
    """As dense_forward."""
    leading = layer.leading
    n_in = layer.n_in
    bias = load(parameters + n_in * leading)
    for i in range(rows):
        total = bias
        for k in range(n_in):
            total = multiply_add(splat(x[i * x_leading + k], x), load(parameters + k * leading), total)
        store(z + i * leading, total)
    if is_set(factor):
        activate_rows_keeping_factor(activation, rows, 1, z, factor, leading)
    else:
        activate_rows(activation, rows, 1, z, leading)


@kernel
def narrow_transposed(layer: Layer, parameters: Reals, transposed: Reals) -> None:
    """transposed[j][k] = the weight of input k and output j, zero beyond the inputs."""
    n_in = layer.n_in
    n_out = layer.n_out
    if n_in * n_out > FEW_WEIGHTS:
        pack_transposed(n_in, n_out, 1, parameters, layer.leading, transposed)
        return
    for j in range(n_out):
        row = transposed + j * lanes(transposed)
        store(row, splat(0.0, row))
        for k in range(n_in):
            row[k] = parameters[k * layer.leading + j]


@kernel
def narrow_sink(sink: GradientSink, layer: Layer, gradients: Reals) -> None:
    """What becomes of the gradients of a layer, its bias the last row. Plain SGD is not worth a call."""
    n_in = layer.n_in
    leading = layer.leading
    at = layer.parameters
    width = lanes(gradients)
    is_update = sink.use == UPDATE_PARAMETERS
    if is_update and not is_plain_sgd(sink):
        update_rows(sink.update, True, n_in, 1, gradients, width, at, leading)
        update_rows(sink.update, False, 1, 1, gradients + n_in * width, width, at + n_in * leading, leading)
        return
    arena = sink.parameters if is_update else sink.gradients
    rate = splat(-sink.update.rate if is_update else 1.0, gradients)
    for k in range(n_in + 1):
        to = arena + (at + k * leading)
        gradient = load(gradients + k * width)
        if sink.use != STORE_GRADIENT:
            gradient = multiply_add(rate, gradient, load(to))
        store(to, gradient)


@kernel
def narrow_backward(
    rows: int,
    layer: Layer,
    below: Layer,
    a: Reals,
    a_leading: int,
    factor: Reals,
    dz: Reals,
    dx: Reals,
    scratch: BackwardScratch,
    sink: GradientSink,
) -> None:
    """As dense_backward for all units of the layer, and dense_bias_gradient."""
    leading = layer.leading
    n_in = layer.n_in
    n_out = layer.n_out
    reaches_below = is_set(below) or is_set(dx)
    tile = scratch.tile
    if reaches_below:
        narrow_transposed(layer, sink.parameters + layer.parameters, scratch.transposed)
    for k in range(n_in):
        total = splat(0.0, a)
        for i in range(rows):
            total = multiply_add(splat(a[i * a_leading + k], a), load(dz + i * leading), total)
        store(tile + k * lanes(a), total)
    bias = splat(0.0, a)
    for i in range(rows):
        bias = bias + load(dz + i * leading)
    store(tile + n_in * lanes(a), bias)
    narrow_sink(sink, layer, tile)
    if not reaches_below:
        return
    for i in range(rows):
        total = splat(0.0, a)
        for j in range(n_out):
            total = multiply_add(splat(dz[i * leading + j], a), load(scratch.transposed + j * lanes(a)), total)
        store(tile + i * lanes(a), total)
    if is_set(dx):
        for i in range(rows):
            copy_reals(dx + i * n_in, tile + i * lanes(a), n_in)
    elif is_set(factor):
        chain_rows_by_factor(rows, 1, tile, lanes(a), factor, a, below.leading)
    else:
        chain_rows(below.activation, dropout_scale(below, scratch), rows, 1, tile, lanes(a), a, below.leading)
