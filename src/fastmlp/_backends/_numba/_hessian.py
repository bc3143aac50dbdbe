"""Hessian-vector products: tangents of the gradient along a direction of the parameters. As csrc/hessian.h.

B. A. Pearlmutter, "Fast exact multiplication by the Hessian", 1994, calls them R{...}. They go forward with the
activations, and back with dL/dz.
"""

from fastmlp._backends._numba._activation import bend_rows
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._dense import (
    ADD_GRADIENT,
    STORE_GRADIENT,
    GradientSink,
    backward_scratch,
    dense_backward,
    dense_bias_gradient,
    dense_forward,
    gradient_sink,
)
from fastmlp._backends._numba._derivatives import gradient_at, inner_product, multiply_rows, prepare_way_back
from fastmlp._backends._numba._gather import example_row, input_rows
from fastmlp._backends._numba._loss import output_rows, padded_row, real_lanes, target_row, weight_of
from fastmlp._backends._numba._memory import (
    as_double,
    as_real,
    int64_at,
    is_set,
    null_like,
    pick,
)
from fastmlp._backends._numba._network import (
    SHARED_ROWS,
    Network,
    last_layer,
    output_of,
    scratch_at,
    share_of,
)
from fastmlp._backends._numba._structs import (
    CROSS_ENTROPY,
    HUBER,
    IDENTITY,
    MAE,
    MSE,
    SOFTMAX,
    Derivatives,
    Examples,
    Reals,
    Vector,
)
from fastmlp._backends._numba._team import meet
from fastmlp._backends._numba._vector import (
    absolute,
    choose,
    lanes,
    line_lanes,
    line_of,
    line_sum,
    load,
    load_line,
    multiply_add,
    smaller,
    splat,
    store,
    whole_vectors,
    with_sign_of,
)


@kernel
def forward_with_tangents(
    net: Network, d: Derivatives, first: int, block_rows: int, begin: int, end: int, direction: Reals
) -> None:
    """A member's rows of a block forward to the logits, with tangents; each hidden layer's slope is kept, and its
    tangent."""
    plan = net.plan
    rows = end - begin
    n_features = plan.layers[0].n_in
    buffer = net.workspace + plan.input
    x, x_leading = input_rows(net.examples, first, block_rows, begin, end, n_features, buffer, plan.input_leading)
    net.x = x
    net.x_leading = x_leading
    x = x + begin * x_leading
    x_tangent = null_like(x)
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        leading = layer.leading
        skipped = begin * leading
        outputs = layer.n_out
        weights = net.parameters + layer.parameters
        weights_tangent = direction + layer.parameters
        z = output_of(net, layer) + skipped
        tangent = net.workspace + (d.layers[number].tangent + skipped)
        packed = scratch_at(net, plan.packed)
        dense_forward(rows, layer, outputs, IDENTITY, x, x_leading, weights, packed, z, null_like(z))
        dense_forward(rows, layer, outputs, IDENTITY, x, x_leading, weights_tangent, packed, tangent, null_like(z))
        if is_set(x_tangent):
            multiply_rows(net, rows, layer.n_in, layer.n_out, x_tangent, x_leading, weights, leading, tangent, True)
        if number < plan.n_layers - 1:
            slope = net.workspace + (layer.factor + skipped)
            bend = net.workspace + (d.layers[number].bend + skipped)
            bend_rows(layer.activation, rows, whole_vectors(layer.n_out, z), z, slope, tangent, bend, leading)
        x = z
        x_tangent = tangent
        x_leading = leading


@kernel
def bend_cross_entropy(e: Examples, row: int, n: int, p: Reals, t: Reals, scale: float, target: Reals) -> None:
    """dL/dz of one row over its probabilities p, and its tangent over t, the logits'."""
    is_class = e.y_column == 0
    weight = as_real(1, p)
    label = 0
    if is_class:
        label = int64_at(e.y + row * e.y_row)
    else:
        target_row(e, row, n, target)
        total = line_of(0, p)
        for j in range(0, padded_row(n, p), line_lanes(p)):
            total = total + load_line(target + j)
        weight = line_sum(total)
    mean = splat(inner_product(n, p, t), p)
    factor = splat(scale, p)
    of_class = p[label]
    for j in range(0, n, lanes(p)):
        each = load(p + j) * splat(weight, p)
        store(t + j, choose(real_lanes(n - j, p), each * (load(t + j) - mean) * factor, splat(0, p)))
        if not is_class:
            each = each - load(target + j)
        store(p + j, each * factor)
    if is_class:
        p[label] = (of_class - as_real(1, p)) * scale


@inline
def element_slopes(loss: int, d: Vector) -> tuple[Vector, Vector]:
    """The first and second derivatives by the outputs of a loss of the difference d, up to a factor."""
    zero = splat(0, d)
    one = splat(1, d)
    if loss == MAE:
        return choose(d > zero, one, choose(d < zero, -one, d)), zero
    if loss == HUBER:
        return choose(absolute(d) > one, with_sign_of(one, d), d), choose(absolute(d) < one, one, zero)
    return d, one


@kernel
def bend_element_row(loss: int, n: int, a: Reals, slope: Reals, t: Reals, bend: Reals, y: Reals, scale: float) -> None:
    """The same of an element-wise loss, over outputs a and their tangents t; slope and bend are f'(z) and its
    tangent."""
    zero = splat(0, a)
    for j in range(0, n, lanes(a)):
        inside = real_lanes(n - j, a)
        first = load(a + j) - load(y + j)  # derivatives of the loss by z
        second = load(t + j)
        if loss == MSE or loss == MAE or loss == HUBER:
            by_output, curvature = element_slopes(loss, first)
            first = by_output * load(slope + j)
            second = multiply_add(curvature * load(slope + j), second, by_output * load(bend + j))
        store(a + j, choose(inside, first * splat(scale, a), zero))
        store(t + j, choose(inside, second * splat(scale, a), zero))


@kernel
def bend_losses(net: Network, d: Derivatives, first: int, begin: int, end: int, divisor: float) -> None:
    """The logits of a member's rows become dL/dz, and their tangents its tangents; see loss_rows."""
    plan = net.plan
    layer = last_layer(net)
    n = layer.n_out
    loss = plan.loss
    rows = end - begin
    skipped = begin * layer.leading
    outputs = as_double(n)
    factor = (1.0 if loss == CROSS_ENTROPY else (2.0 / outputs if loss == MSE else 1.0 / outputs)) / divisor
    z = output_of(net, layer) + skipped
    t = net.workspace + (d.layers[plan.n_layers - 1].tangent + skipped)
    bend = net.workspace + (d.layers[plan.n_layers - 1].bend + skipped)
    slope = net.workspace + (d.gradient + begin * d.widest)
    target = scratch_at(net, plan.target)
    if loss == CROSS_ENTROPY:
        output_rows(SOFTMAX, rows, n, z, layer.leading)
    else:
        bend_rows(layer.activation, rows, whole_vectors(n, z), z, slope, t, bend, layer.leading)
    for i in range(rows):
        row = example_row(net.examples, first + begin + i)
        at = i * layer.leading
        scale = as_real(weight_of(net.examples, row) * factor, z)
        if loss == CROSS_ENTROPY:
            bend_cross_entropy(net.examples, row, n, z + at, t + at, scale, target)
        else:
            target_row(net.examples, row, n, target)
            bend_element_row(loss, n, z + at, slope + at, t + at, bend + at, target, scale)


@inline
def gradient_tangent_at(net: Network, d: Derivatives, number: int) -> Reals:
    """Where the tangent of dL/dz of a layer comes to lie; see gradient_at."""
    if number == net.plan.n_layers - 1:
        return net.workspace + d.layers[number].tangent
    return net.workspace + d.layers[number].bend


@kernel
def chain_tangents_below(net: Network, d: Derivatives, number: int, begin: int, end: int) -> None:
    """dL/dz below a layer, over the slopes, and its tangent, over the slopes' tangents, for a member's rows."""
    layer = net.plan.layers[number]
    leading = net.plan.layers[number - 1].leading
    rows = end - begin
    n_in = layer.n_in
    n_out = layer.n_out
    skipped = begin * layer.leading
    weights = net.workspace + d.layers[number].weights
    direction = net.workspace + d.layers[number].direction
    dz = gradient_at(net, number) + skipped
    dz_tangent = gradient_tangent_at(net, d, number) + skipped
    da = net.workspace + (d.gradient + begin * d.widest)
    da_tangent = net.workspace + (d.gradient_tangent + begin * d.widest)
    slope = gradient_at(net, number - 1) + begin * leading
    bend = gradient_tangent_at(net, d, number - 1) + begin * leading
    multiply_rows(net, rows, n_out, n_in, dz, layer.leading, weights, leading, da, False)
    multiply_rows(net, rows, n_out, n_in, dz_tangent, layer.leading, weights, leading, da_tangent, False)
    multiply_rows(net, rows, n_out, n_in, dz, layer.leading, direction, leading, da_tangent, True)
    for i in range(rows):
        for j in range(0, n_in, lanes(da)):
            at = i * leading + j
            d_a = load(da + at)
            factor = load(slope + at)
            store(bend + at, multiply_add(load(da_tangent + at), factor, d_a * load(bend + at)))
            store(slope + at, d_a * factor)


@kernel
def add_gradient_tangents(net: Network, d: Derivatives, block_rows: int, sink: GradientSink) -> None:
    """The tangents of the weights' gradients over a block, whose members share every layer's input units."""
    plan = net.plan
    member = net.member
    scratch = backward_scratch(
        constants=net.workspace + plan.constants,
        panel=scratch_at(net, plan.panel),
        transposed=scratch_at(net, plan.transposed),
        tile=scratch_at(net, plan.tile),
        fetched=0,
        is_dropped=0,
    )
    further = gradient_sink(use=ADD_GRADIENT, gradients=sink.gradients, parameters=sink.parameters, update=0)
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        none = null_like(layer)
        null = null_like(net.workspace)
        begin, end = share_of(member, layer.n_in, line_lanes(null))
        dz_tangent = gradient_tangent_at(net, d, number)
        a = net.x
        a_leading = net.x_leading
        if number > 0:
            below = plan.layers[number - 1]
            a = output_of(net, below)
            a_leading = below.leading
        dense_backward(block_rows, layer, none, begin, end, a, a_leading, null, dz_tangent, null, scratch, sink)
        if number > 0:
            a = net.workspace + d.layers[number - 1].tangent
            dz = gradient_at(net, number)
            dense_backward(block_rows, layer, none, begin, end, a, a_leading, null, dz, null, scratch, further)
        if member.index == member.count - 1:
            dense_bias_gradient(block_rows, layer, dz_tangent, scratch, sink)


@kernel
def add_penalty_tangent(net: Network, direction: Reals, out: Reals) -> None:
    """Of the penalty, whose second derivative is l2 for weights: |w| has none."""
    plan = net.plan
    if plan.l2 == 0:
        return
    l2 = splat(plan.l2, out)
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        begin, end = share_of(net.member, layer.n_in, 1)
        for i in range(begin, end):
            for j in range(0, layer.n_out, lanes(out)):
                at = layer.parameters + i * layer.leading + j
                store(out + at, multiply_add(l2, load(direction + at), load(out + at)))


@kernel
def gradient_tangents(net: Network, d: Derivatives, n: int, direction: Reals, out: Reals) -> None:
    plan = net.plan
    prepare_way_back(net, d, 1, direction)
    for first in range(0, n, plan.block_rows):
        block_rows = smaller(plan.block_rows, n - first)
        begin, end = share_of(net.member, block_rows, SHARED_ROWS)
        use = pick(first > 0, ADD_GRADIENT, STORE_GRADIENT)
        sink = gradient_sink(use=use, gradients=out, parameters=net.parameters, update=0)
        forward_with_tangents(net, d, first, block_rows, begin, end, direction)
        bend_losses(net, d, first, begin, end, as_double(n))
        for number in range(plan.n_layers - 1, 0, -1):
            chain_tangents_below(net, d, number, begin, end)
        meet(net.member)
        add_gradient_tangents(net, d, block_rows, sink)
        meet(net.member)
    add_penalty_tangent(net, direction, out)
