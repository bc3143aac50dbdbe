"""Derivatives beyond the gradient: Jacobians, directional derivatives, and gradients of each example. As
csrc/derivatives.h.

A tangent is the derivative of something along a direction of the inputs, or of the parameters.
"""

from fastmlp._backends._numba._activation import activate_rows_keeping_factor, chain_rows_by_factor
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._dense import (
    BLOCK_DEPTH,
    most_block_rows,
    pack_transposed,
    parts_of,
)
from fastmlp._backends._numba._loss import loss_rows, output_rows
from fastmlp._backends._numba._memory import (
    copy_reals,
    doubles_at,
    is_set,
    null_like,
)
from fastmlp._backends._numba._network import (
    NO_DROPOUT,
    SHARED_ROWS,
    Network,
    copy_rows,
    last_layer,
    network_forward,
    output_of,
    scratch_at,
    share_of,
)
from fastmlp._backends._numba._structs import (
    SOFTMAX,
    Derivatives,
    Layer,
    Plan,
    Reals,
)
from fastmlp._backends._numba._team import meet
from fastmlp._backends._numba._tile import multiply, next_tile_vectors, product, touched
from fastmlp._backends._numba._tile_code import MAX_TILE_ROWS, ROWS_OF_A, UNROLLED
from fastmlp._backends._numba._vector import (
    lanes,
    line_lanes,
    line_of,
    line_sum,
    load,
    load_line,
    load_loose,
    multiply_add,
    part_of,
    smaller,
    splat,
    store,
    store_loose,
    whole_vectors,
)


@kernel
def multiply_rows(
    net: Network,
    all_rows: int,
    n_in: int,
    n_out: int,
    x: Reals,
    x_leading: int,
    b: Reals,
    leading: int,
    z: Reals,
    is_continued: bool,
) -> None:
    """z = x B over some rows, or z += x B where z is continued; B has a row, as long as z's, for each element of x's
    rows."""
    vectors = whole_vectors(n_out, x)
    zeros = net.workspace + (net.plan.constants + line_lanes(x))
    row_blocks = parts_of(all_rows, most_block_rows(x))
    depth_blocks = parts_of(n_in, BLOCK_DEPTH)
    for r in range(row_blocks):
        row, row_end = part_of(all_rows, row_blocks, r, MAX_TILE_ROWS)
        for d in range(depth_blocks):
            k, k_end = part_of(n_in, depth_blocks, d, UNROLLED)
            from_zero = d == 0 and not is_continued
            j = 0
            while j < vectors:
                tile = next_tile_vectors(row_end - row, n_out - j * lanes(x), x)
                step = touched(tile)
                column = b + (k * leading + j * lanes(x))
                c = z + (row * leading + j * lanes(x))
                p = product(
                    a=x + (row * x_leading + k), a_stride=x_leading,
                    b=column, b_row=leading, next=column + step * lanes(x), next_row=leading, next_rows=k_end - k,
                    then=0,
                    start=zeros if from_zero else c, start_row=0 if from_zero else leading,
                    c=c, c_row=leading, depth=k_end - k, scale=0.0, fetched=0,
                )  # fmt: skip
                multiply(ROWS_OF_A, row_end - row, tile, p)
                j += step


@inline
def leading_below(plan: Plan, number: int) -> int:
    """The leading dimension of what goes into a layer."""
    if number > 0:
        return plan.layers[number - 1].leading
    return plan.input_leading


@kernel
def transpose_weights(net: Network, number: int, arena: Reals, to: Reals) -> None:
    """A layer's weights in an arena, a row for each output: what a way back multiplies by."""
    layer = net.plan.layers[number]
    vectors = leading_below(net.plan, number) // lanes(to)
    pack_transposed(layer.n_in, layer.n_out, vectors, arena + layer.parameters, layer.leading, to)


@kernel
def prepare_way_back(net: Network, d: Derivatives, first_layer: int, direction: Reals) -> None:
    """The weights, and those of a direction where there is one, from layer ``first_layer`` on. Members take layers in
    turn."""
    for number in range(first_layer + net.member.index, net.plan.n_layers, net.member.count):
        transpose_weights(net, number, net.parameters, net.workspace + d.layers[number].weights)
        if is_set(direction):
            transpose_weights(net, number, direction, net.workspace + d.layers[number].direction)
    meet(net.member)


@kernel
def scale_rows(examples: int, directions: int, vectors: int, factor: Reals, rows: Reals, leading: int) -> None:
    """Rows of some directions for each example, times a row of factors for each example."""
    for e in range(examples):
        factors = factor + e * leading
        for i in range(directions):
            row = rows + (e * directions + i) * leading
            for j in range(vectors):
                at = j * lanes(rows)
                store(row + at, load(row + at) * load(factors + at))


@kernel
def activate_outputs(layer: Layer, rows: int, z: Reals, slope: Reals) -> Reals:
    """The logits of some rows become outputs. Returns what tells the outputs' derivatives: the slopes, or a softmax's
    outputs."""
    if layer.activation == SOFTMAX:
        output_rows(SOFTMAX, rows, layer.n_out, z, layer.leading)
        return z
    activate_rows_keeping_factor(layer.activation, rows, whole_vectors(layer.n_out, z), z, slope, layer.leading)
    return slope


@inline
def inner_product(n: int, p: Reals, t: Reals) -> float:
    """sum_k p_k t_k, where padding is zero."""
    total = line_of(0, p)
    for j in range(0, n, line_lanes(p)):
        total = multiply_add(load_line(p + j), load_line(t + j), total)
    return line_sum(total)


@kernel
def chain_output_tangents(layer: Layer, examples: int, directions: int, slope: Reals, rows: Reals) -> None:
    """Tangents of the logits, some directions for each example, become tangents of the outputs."""
    leading = layer.leading
    vectors = whole_vectors(layer.n_out, rows)
    if layer.activation == SOFTMAX:
        for e in range(examples):
            for i in range(directions):
                row = rows + (e * directions + i) * leading
                mean = splat(inner_product(layer.n_out, slope + e * leading, row), rows)
                for j in range(vectors):
                    store(row + j * lanes(rows), load(row + j * lanes(rows)) - mean)
    scale_rows(examples, directions, vectors, slope, rows, leading)


# ---- Jacobians


@kernel
def seed_rows(net: Network, d: Derivatives, examples: int, slope: Reals, rows: Reals, mean: Reals) -> None:
    """Each output's derivative by the inputs of the last layer: its slope times its row of the weights, from which a
    softmax takes the mean row first."""
    number = net.plan.n_layers - 1
    leading = leading_below(net.plan, number)
    layer = net.plan.layers[number]
    weights = net.workspace + d.layers[number].weights
    is_softmax = layer.activation == SOFTMAX
    n_out = layer.n_out
    if is_softmax:
        multiply_rows(net, examples, n_out, layer.n_in, slope, layer.leading, weights, leading, mean, False)
    for e in range(examples):
        for k in range(n_out):
            factor = splat(slope[e * layer.leading + k], rows)
            row = rows + (e * n_out + k) * leading
            for j in range(0, layer.n_in, lanes(rows)):
                w = load(weights + (k * leading + j))
                if is_softmax:
                    w = w - load(mean + (e * leading + j))
                store(row + j, w * factor)


@kernel
def jacobian_backward(net: Network, d: Derivatives, begin: int, examples: int, slope: Reals, out: Reals) -> None:
    """From the outputs' slopes to the inputs, for examples ``begin`` and following of the block."""
    plan = net.plan
    n_features = plan.layers[0].n_in
    all_rows = examples * d.directions
    rows = net.workspace + (d.first_rows + net.member.index * d.rows_stride)
    other = rows + (d.second_rows - d.first_rows)
    seed_rows(net, d, examples, slope, rows, other)
    for number in range(plan.n_layers - 2, -1, -1):
        layer = plan.layers[number]
        factor = net.workspace + (layer.factor + begin * layer.leading)
        weights = net.workspace + d.layers[number].weights
        scale_rows(examples, d.directions, whole_vectors(layer.n_out, rows), factor, rows, layer.leading)
        leading = leading_below(plan, number)
        multiply_rows(
            net, all_rows, layer.n_out, layer.n_in, rows, layer.leading, weights, leading, other, False
        )  # fmt: skip
        done = other
        other = rows
        rows = done
    for i in range(all_rows):
        copy_reals(out + i * n_features, rows + i * plan.input_leading, n_features)


@kernel
def jacobian_forward(net: Network, d: Derivatives, begin: int, examples: int, slope: Reals, out: Reals) -> None:
    """From the inputs to the outputs; there are two layers at least."""
    plan = net.plan
    first = plan.layers[0]
    last = last_layer(net)
    n_features = first.n_in
    n_outputs = last.n_out
    all_rows = examples * n_features
    rows = net.workspace + (d.first_rows + net.member.index * d.rows_stride)
    other = rows + (d.second_rows - d.first_rows)
    size = n_features * first.leading
    for e in range(examples):
        copy_reals(rows + e * size, net.parameters + first.parameters, size)
    for number in range(1, plan.n_layers):
        layer = plan.layers[number]
        below = plan.layers[number - 1]
        factor = net.workspace + (below.factor + begin * below.leading)
        weights = net.parameters + layer.parameters
        scale_rows(examples, n_features, whole_vectors(below.n_out, rows), factor, rows, below.leading)
        multiply_rows(
            net, all_rows, layer.n_in, layer.n_out, rows, below.leading, weights, layer.leading, other, False
        )  # fmt: skip
        done = other
        other = rows
        rows = done
    chain_output_tangents(last, examples, n_features, slope, rows)
    for e in range(examples):
        for k in range(n_outputs):
            for j in range(n_features):
                out[(e * n_outputs + k) * n_features + j] = rows[(e * n_features + j) * last.leading + k]


@kernel
def jacobians(net: Network, d: Derivatives, n: int, out: Reals) -> None:
    last = last_layer(net)
    bend = net.workspace + d.layers[net.plan.n_layers - 1].bend
    size = last.n_out * net.plan.layers[0].n_in
    if d.is_reverse:
        prepare_way_back(net, d, 0, null_like(out))
    for first in range(0, n, d.jacobian_rows):
        block_rows = smaller(d.jacobian_rows, n - first)
        begin, end = share_of(net.member, block_rows, SHARED_ROWS)
        network_forward(net, first, block_rows, 0, NO_DROPOUT)
        for i in range(begin, end, d.part_rows):
            examples = smaller(d.part_rows, end - i)
            skipped = i * last.leading
            slope = activate_outputs(last, examples, output_of(net, last) + skipped, bend + skipped)
            to = out + (first + i) * size
            if d.is_reverse:
                jacobian_backward(net, d, i, examples, slope, to)
            else:
                jacobian_forward(net, d, i, examples, slope, to)
        meet(net.member)  # shares of a shorter block lie elsewhere


# ---- along one direction of the inputs


@kernel
def input_tangents(net: Network, d: Derivatives, n: int, t: Reals, y: Reals, dy: Reals) -> None:
    plan = net.plan
    last = last_layer(net)
    n_features = plan.layers[0].n_in
    for first in range(0, n, plan.block_rows):
        block_rows = smaller(plan.block_rows, n - first)
        begin, end = share_of(net.member, block_rows, SHARED_ROWS)
        rows = end - begin
        network_forward(net, first, block_rows, 0, NO_DROPOUT)
        x = t + (first + begin) * n_features
        x_leading = n_features
        for number in range(plan.n_layers):
            layer = plan.layers[number]
            skipped = begin * layer.leading
            tangent = net.workspace + (d.layers[number].tangent + skipped)
            weights = net.parameters + layer.parameters
            multiply_rows(net, rows, layer.n_in, layer.n_out, x, x_leading, weights, layer.leading, tangent, False)
            if number < plan.n_layers - 1:
                factor = net.workspace + (layer.factor + skipped)
                scale_rows(rows, 1, whole_vectors(layer.n_out, x), factor, tangent, layer.leading)
            x = tangent
            x_leading = layer.leading
        skipped = begin * last.leading
        z = output_of(net, last) + skipped
        slope = activate_outputs(last, rows, z, net.workspace + (d.layers[plan.n_layers - 1].bend + skipped))
        chain_output_tangents(last, rows, 1, slope, x)
        copy_rows(rows, last.n_out, z, last.leading, y + (first + begin) * last.n_out)
        copy_rows(rows, last.n_out, x, last.leading, dy + (first + begin) * last.n_out)
        meet(net.member)


# ---- the gradient of each example's loss


@kernel
def outer_rows(
    rows: int, layer: Layer, all_dz: Reals, all_a: Reals, a_leading: int, out: Reals, n_parameters: int
) -> None:
    """A row of a gradient for each example: dz_u a_k for every unit u and input k, then dz."""
    n_in = layer.n_in
    whole = n_in // lanes(out) * lanes(out)
    for i in range(rows):
        dz = all_dz + i * layer.leading
        a = all_a + i * a_leading
        to = out + i * n_parameters
        for u in range(layer.n_out):
            factor = splat(dz[u], out)
            for k in range(0, whole, lanes(out)):
                store_loose(to + k, factor * load_loose(a + k))
            for k in range(whole, n_in):
                to[k] = dz[u] * a[k]
            to = to + n_in
        copy_reals(to, dz, layer.n_out)


@inline
def gradient_at(net: Network, number: int) -> Reals:
    """Where dL/dz of a layer comes to lie: over the logits, or the derivatives that were kept."""
    layer = net.plan.layers[number]
    if number == net.plan.n_layers - 1:
        return net.workspace + layer.output
    return net.workspace + layer.factor


@kernel
def chain_below(net: Network, d: Derivatives, number: int, begin: int, end: int, dz: Reals) -> None:
    """dL/dz of the layer below some rows, which replaces the derivative that was kept there."""
    layer = net.plan.layers[number]
    below = net.plan.layers[number - 1]
    rows = end - begin
    leading = below.leading
    gradient = net.workspace + (d.gradient + begin * d.widest)
    factor = net.workspace + (below.factor + begin * leading)
    weights = net.workspace + d.layers[number].weights
    multiply_rows(net, rows, layer.n_out, layer.n_in, dz, layer.leading, weights, leading, gradient, False)
    chain_rows_by_factor(rows, whole_vectors(below.n_out, dz), gradient, leading, factor, factor, leading)


@kernel
def example_gradients(net: Network, d: Derivatives, n: int, out: Reals) -> None:
    plan = net.plan
    n_parameters = 0
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        n_parameters += layer.n_out * (layer.n_in + 1)
    prepare_way_back(net, d, 1, null_like(out))
    target = scratch_at(net, plan.target)
    parts = net.workspace + plan.parts
    losses = doubles_at(net.workspace + plan.losses)
    for first in range(0, n, plan.block_rows):
        block_rows = smaller(plan.block_rows, n - first)
        begin, end = share_of(net.member, block_rows, SHARED_ROWS)
        network_forward(net, first, block_rows, 0, NO_DROPOUT)
        z = output_of(net, last_layer(net))
        loss_rows(plan, net.examples, first, begin, end, z, True, 1.0, target, parts, losses)
        place = n_parameters
        for number in range(plan.n_layers - 1, -1, -1):
            layer = plan.layers[number]
            dz = gradient_at(net, number) + begin * layer.leading
            a = net.x
            a_leading = net.x_leading
            if number > 0:
                below = plan.layers[number - 1]
                a = output_of(net, below)
                a_leading = below.leading
            place -= layer.n_out * (layer.n_in + 1)
            to = out + ((first + begin) * n_parameters + place)
            outer_rows(end - begin, layer, dz, a + begin * a_leading, a_leading, to, n_parameters)
            if number > 0:
                chain_below(net, d, number, begin, end, dz)
        meet(net.member)
