"""The whole net: blocks of rows forward and backward, and training steps. As csrc/network.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._dense import (
    ADD_GRADIENT,
    STORE_GRADIENT,
    UPDATE_PARAMETERS,
    GradientSink,
    backward_scratch,
    dense_backward,
    dense_bias_gradient,
    dense_forward,
    gradient_sink,
    parts_of,
)
from fastmlp._backends._numba._gather import FETCHED_ROWS, input_rows
from fastmlp._backends._numba._loss import chain_output_rows, loss_rows, output_rows
from fastmlp._backends._numba._memory import (
    Pointer,
    Struct,
    as_double,
    as_real,
    constructor,
    copy_reals,
    doubles_at,
    is_set,
    null_like,
    pick,
)
from fastmlp._backends._numba._narrow import is_narrow, narrow_backward, narrow_forward
from fastmlp._backends._numba._philox import drop_rows
from fastmlp._backends._numba._structs import (
    EXAMPLES,
    IDENTITY,
    Layer,
    Plan,
    Reals,
    Update,
    plan_struct,
)
from fastmlp._backends._numba._team import MEMBER, Member, meet, member_alone
from fastmlp._backends._numba._update import (
    UpdateStep,
    begin_update,
    end_update,
    penalty_gradient,
    update_rows,
    update_step,
)
from fastmlp._backends._numba._vector import (
    absolute,
    lanes,
    line_lanes,
    line_of,
    line_sum,
    load,
    load_line,
    multiply_add,
    part_of,
    smaller,
    splat,
    square_root,
    store,
    store_loose,
    whole_vectors,
)
from fastmlp._update import CLIP_NORM

Network = Any


# One thread's view of a call: the net, and the block of rows that is in the workspace.
def network_struct(real: Any) -> Struct:
    return Struct(
        f"network_{real}",
        {
            "plan": Pointer(plan_struct(real)),
            "workspace": Pointer(real),
            "parameters": Pointer(real),
            "examples": Pointer(EXAMPLES),
            "member": Pointer(MEMBER),
            "x": Pointer(real),  # the block's inputs
            "x_leading": types.int64,
            "fetched": Pointer(FETCHED_ROWS),  # while going backward; or null
            "is_dropped": types.int64,  # whether units of the block were
        },
    )


network = constructor(network_struct, like="workspace")


@inline
def is_finite(x: float) -> bool:
    return x - x == 0.0


@inline
def last_layer(net: Network) -> Layer:
    return net.plan.layers[net.plan.n_layers - 1]


@inline
def output_of(net: Network, layer: Layer) -> Reals:
    return net.workspace + layer.output


@inline
def scratch_at(net: Network, offset: int) -> Reals:
    """A member's own of what is there for each thread."""
    return net.workspace + (offset + net.member.index * net.plan.member_stride)


@inline
def share_of(member: Member, n: int, unit: int) -> tuple[int, int]:
    """A member's share of n things, from one to before the other."""
    return part_of(n, member.count, member.index, unit)


SHARED_ROWS = 12  # rows are shared by whole tiles
INFERENCE, NO_DROPOUT = -2, -1


@kernel
def are_outputs_shared(net: Network, rows: int) -> bool:
    """Whether members take all rows of a block through some of each layer's outputs, and meet after it, or some of the
    rows through all layers: whichever leaves less to the busiest. Meetings count for a sixteenth."""
    count = net.member.count
    of_all_outputs = 0
    of_most_outputs = 0
    for number in range(net.plan.n_layers):
        layer = net.plan.layers[number]
        lines = parts_of(layer.n_out, line_lanes(net.workspace))
        of_all_outputs += layer.n_in * lines
        of_most_outputs += layer.n_in * parts_of(lines, count)
    most_rows = smaller(rows, parts_of(parts_of(rows, SHARED_ROWS), count) * SHARED_ROWS)
    return 17 * rows * of_most_outputs < 16 * most_rows * of_all_outputs


@inline
def factor_at(net: Network, layer: Layer, place: int, dropout_step: int) -> Reals:
    """Where a layer's derivatives are kept, from some place on; or null."""
    if dropout_step != INFERENCE and layer.factor >= 0:
        return net.workspace + (layer.factor + place)
    return null_like(net.workspace)


@inline
def layer_forward(
    net: Network,
    number: int,
    row: int,
    rows: int,
    output: int,
    outputs: int,
    dropout_step: int,
    x: Reals,
    x_leading: int,
) -> None:
    """So many outputs of a layer, from the first on, over so many rows, x being the first row of its inputs."""
    plan = net.plan
    layer = plan.layers[number]
    place = row * layer.leading + output
    activation = pick(number == plan.n_layers - 1, IDENTITY, layer.activation)
    parameters = net.parameters + (layer.parameters + output)
    z = output_of(net, layer) + place
    factor = factor_at(net, layer, place, dropout_step)
    if is_narrow(rows, layer, z):
        narrow_forward(rows, layer, activation, x, x_leading, parameters, z, factor)
    else:
        packed = scratch_at(net, plan.packed)
        dense_forward(rows, layer, outputs, activation, x, x_leading, parameters, packed, z, factor)


@inline
def layer_dropout(net: Network, number: int, row: int, rows: int, batch_row: int, dropout_step: int) -> None:
    """Drops units of a layer's outputs over some rows, if it has dropout."""
    layer = net.plan.layers[number]
    if not net.is_dropped or layer.dropout_from == 0:
        return
    place = row * layer.leading
    z = output_of(net, layer) + place
    factor = factor_at(net, layer, place, dropout_step)
    drop_rows(net.plan.seed, dropout_step, number + 1, layer, batch_row + row, rows, z, factor)


@kernel
def forward_by_outputs(net: Network, block_rows: int, begin: int, end: int, batch_row: int, dropout_step: int) -> None:
    """All rows of a block whose inputs are there, through a member's share of each layer's outputs. Its rows, from
    ``begin`` to before ``end``, are those in which it drops units."""
    x = net.x
    x_leading = net.x_leading
    meet(net.member)  # the others have brought rows of the inputs
    for number in range(net.plan.n_layers):
        layer = net.plan.layers[number]
        output, output_end = share_of(net.member, layer.n_out, line_lanes(x))
        if output_end > output:
            layer_forward(net, number, 0, block_rows, output, output_end - output, dropout_step, x, x_leading)
        meet(net.member)
        if net.is_dropped:
            layer_dropout(net, number, begin, end - begin, batch_row, dropout_step)
            meet(net.member)
        x = output_of(net, layer)
        x_leading = layer.leading


@kernel
def network_forward(net: Network, first: int, block_rows: int, batch_row: int, dropout_step: int) -> None:
    """A member's part of the block that begins with example ``first``, through every layer to the logits.

    For training (``dropout_step`` from -1) derivatives are kept where the plan says so, and units dropped from step 0
    on; ``batch_row`` is the block's place in its batch.
    """
    plan = net.plan
    begin, end = share_of(net.member, block_rows, SHARED_ROWS)
    rows = end - begin
    net.is_dropped = pick(dropout_step >= 0, 1, 0)
    layer = plan.layers
    x, x_leading = input_rows(
        net.examples, first, block_rows, begin, end, layer.n_in, net.workspace + plan.input, plan.input_leading
    )
    net.x = x
    net.x_leading = x_leading
    if net.member.count > 1 and are_outputs_shared(net, block_rows):
        forward_by_outputs(net, block_rows, begin, end, batch_row, dropout_step)
        return
    x = x + begin * x_leading
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        layer_forward(net, number, begin, rows, 0, layer.n_out, dropout_step, x, x_leading)
        layer_dropout(net, number, begin, rows, batch_row, dropout_step)
        x = output_of(net, layer) + begin * layer.leading
        x_leading = layer.leading


@kernel
def network_backward(net: Network, rows: int, dx: Reals, sink: GradientSink) -> None:
    """From dL/dz over the last layer's outputs: gradients of every layer into the sink; dx: rows of n_in, or null.

    Each member takes a share of every layer's input units.
    """
    plan = net.plan
    member = net.member
    scratch = backward_scratch(
        constants=net.workspace + plan.constants,
        panel=scratch_at(net, plan.panel),
        transposed=scratch_at(net, plan.transposed),
        tile=scratch_at(net, plan.tile),
        fetched=net.fetched,
        is_dropped=net.is_dropped,
    )
    for number in range(plan.n_layers - 1, -1, -1):
        layer = plan.layers[number]
        below = null_like(layer)
        a = net.x  # never written
        a_leading = net.x_leading
        factor = null_like(a)
        out = dx
        if number > 0:
            below = plan.layers[number - 1]
            a = output_of(net, below)
            a_leading = below.leading
            out = null_like(a)
            if below.factor >= 0:
                factor = net.workspace + below.factor
        dz = output_of(net, layer)
        if member.count == 1 and is_narrow(rows, layer, a):
            narrow_backward(rows, layer, below, a, a_leading, factor, dz, out, scratch, sink)
            continue
        begin, end = share_of(member, layer.n_in, line_lanes(a))
        dense_backward(rows, layer, below, begin, end, a, a_leading, factor, dz, out, scratch, sink)
        if member.index == member.count - 1:
            dense_bias_gradient(rows, layer, dz, scratch, sink)
        meet(member)


@kernel
def block_loss(net: Network, first: int, block_rows: int, with_gradient: bool, divisor: float) -> float:
    """The sum of weight * loss over the block that begins with example ``first``, from its logits, which become dL/dz
    where a gradient is wanted. Every member returns the same sum."""
    plan = net.plan
    begin, end = share_of(net.member, block_rows, SHARED_ROWS)
    losses = doubles_at(net.workspace + plan.losses)
    z = output_of(net, last_layer(net))
    target = scratch_at(net, plan.target)
    parts = net.workspace + plan.parts
    loss_rows(plan, net.examples, first, begin, end, z, with_gradient, divisor, target, parts, losses)
    meet(net.member)
    total = 0.0
    for i in range(block_rows):
        total += losses[i]
    return total


@kernel
def chain_outputs(net: Network, dy: Reals, block_rows: int) -> None:
    """The logits of a block become dL/dz, from its rows of dL/dy_hat."""
    layer = last_layer(net)
    begin, end = share_of(net.member, block_rows, SHARED_ROWS)
    z = output_of(net, layer) + begin * layer.leading
    chain_output_rows(layer, end - begin, dy + begin * layer.n_out, z, scratch_at(net, net.plan.target))
    meet(net.member)


@inline
def sum_over(plan: Plan, arena: Reals, is_squared: bool, biases: int) -> float:
    """The sum of x^2, or of abs(x), over the weights in an arena and, with 1, the biases."""
    total = 0.0
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        for i in range(layer.n_in + biases):
            row = arena + (layer.parameters + i * layer.leading)
            row_sum = line_of(0, row)
            for j in range(0, layer.n_out, line_lanes(row)):
                x = load_line(row + j)
                row_sum = multiply_add(x, x, row_sum) if is_squared else row_sum + absolute(x)
            total += as_double(line_sum(row_sum))
    return total


@kernel
def penalty_of(plan: Plan) -> float:
    penalty = 0.0
    if plan.l1 != 0:
        penalty += plan.l1 * sum_over(plan, plan.parameters, False, 0)
    if plan.l2 != 0:
        penalty += plan.l2 / 2 * sum_over(plan, plan.parameters, True, 0)
    return penalty


@kernel
def norm_of(plan: Plan, gradients: Reals) -> float:
    """The Euclidean norm of a whole gradient."""
    return square_root(sum_over(plan, gradients, True, 1))


@kernel
def add_penalty_gradient(net: Network, gradients: Reals, scale: float) -> None:
    plan = net.plan
    l1 = as_real(plan.l1 * scale, gradients)
    l2 = as_real(plan.l2 * scale, gradients)
    if l1 == 0 and l2 == 0:
        return
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        begin, end = share_of(net.member, layer.n_in, 1)
        for i in range(begin, end):
            for j in range(0, layer.n_out, lanes(gradients)):
                at = layer.parameters + i * layer.leading + j
                weights = load(plan.parameters + at)
                store(gradients + at, penalty_gradient(load(gradients + at), weights, l1, l2))


@kernel
def apply_gradients(net: Network, s: UpdateStep, clip_norm: float, gradients: Reals) -> None:
    """One update of everything from a finished gradient, its norm clipped."""
    plan = net.plan
    if clip_norm > 0:
        ratio = clip_norm / (norm_of(plan, gradients) + 1e-6)
        s.clip = ratio if ratio < 1 else 1.0
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        begin, end = share_of(net.member, layer.n_in + 1, 1)
        leading = layer.leading
        vectors = whole_vectors(layer.n_out, gradients)
        weights = smaller(end, layer.n_in) - begin
        at = layer.parameters + begin * leading
        bias = layer.parameters + layer.n_in * leading
        update_rows(s, True, weights, vectors, gradients + at, leading, at, leading)
        if end > layer.n_in:
            update_rows(s, False, 1, vectors, gradients + bias, leading, bias, leading)
    meet(net.member)


# Batches of several blocks.


@kernel
def walk_blocks(net: Network, mine: Network, alone: Member, n: int) -> tuple[int, int]:
    """A member's way through them: shared blocks, one after the other, or every so many a whole one of its own. So it
    is with small nets where there are enough blocks: few units are badly shared, and members meet once a round, not
    once a layer.

    ``mine`` becomes the net as the member sees its blocks: of those it takes alone, it is the only member. Returns
    where its block begins in a round, and of how many rows all members' are.
    """
    plan = net.plan
    member = net.member
    block_rows = plan.block_rows
    mine.plan = plan
    mine.workspace = net.workspace
    mine.parameters = net.parameters
    mine.examples = net.examples
    mine.member = member
    mine.fetched = net.fetched
    if not plan.own_blocks or member.count == 1 or n <= (member.count - 1) * block_rows:
        return 0, block_rows
    mine.workspace = net.workspace + member.index * plan.member_stride
    # Not when the workspace is made: memory that no thread comes to need stays untouched.
    ones = mine.workspace + plan.constants
    for j in range(0, line_lanes(ones), lanes(ones)):
        store(ones + j, splat(1, ones))
    mine.member = alone
    return member.index * block_rows, member.count * block_rows


@kernel
def gather_blocks(net: Network, blocks: int, total: float, value: float, is_first: bool, gradients: Reals) -> float:
    """After a round whose blocks members took alone: their gradients, which are partial sums, are added to those of all
    rounds before (unless ``is_first``), and ``value``, a member's own, to the total, which is returned; both block by
    block."""
    plan = net.plan
    stride = plan.member_stride
    values = net.workspace + plan.losses
    doubles_at(values + net.member.index * stride)[0] = value
    meet(net.member)
    for block in range(blocks):
        total += doubles_at(values + block * stride)[0]
    if is_set(gradients):
        partial = net.workspace + plan.partial
        begin, end = share_of(net.member, plan.arena_size, line_lanes(partial))
        for i in range(begin, end, lanes(partial)):
            gradient = load(partial + i)
            if not is_first:
                gradient = load(gradients + i) + gradient
            for block in range(1, blocks):
                gradient = gradient + load(partial + (block * stride + i))
            store(gradients + i, gradient)
    meet(net.member)
    return total


@kernel
def data_gradients(
    net: Network, first: int, n: int, divisor: float, dropout_step: int, dy: Reals, dx: Reals, gradients: Reals
) -> float:
    """The gradient, without the penalty, over n examples from number ``first``, and dL/dx in dx where wanted.

    Returns the loss; 0 where dy is set, which is dL/dy_hat of a loss that the caller knows.
    """
    plan = net.plan
    block_rows = plan.block_rows
    mine = network(net.workspace)
    alone = member_alone(index=0, count=1, arrived=0, meetings=0, watch=0)
    first_row, round_rows = walk_blocks(net, mine, alone, n)
    is_shared = round_rows == block_rows
    total = 0.0
    for begun in range(0, n, round_rows):
        row = begun + first_row
        rows = smaller(block_rows, n - row)
        value = 0.0
        if rows > 0:
            use = pick(is_shared and begun > 0, ADD_GRADIENT, STORE_GRADIENT)
            to = gradients if is_shared else mine.workspace + plan.partial
            sink = gradient_sink(use=use, gradients=to, parameters=net.parameters, update=0)
            network_forward(mine, first + row, rows, row, dropout_step)
            if is_set(dy):
                chain_outputs(mine, dy + row * last_layer(net).n_out, rows)
            else:
                value = block_loss(mine, first + row, rows, True, divisor)
            network_backward(mine, rows, dx + row * plan.layers[0].n_in if is_set(dx) else dx, sink)
        if is_shared:
            total += value
        else:
            blocks = parts_of(smaller(round_rows, n - begun), plan.block_rows)
            total = gather_blocks(net, blocks, total, value, begun == 0, gradients)
    return total / divisor


@kernel
def data_loss(net: Network, n: int) -> float:
    """The loss of all n examples, without the penalty."""
    plan = net.plan
    mine = network(net.workspace)
    alone = member_alone(index=0, count=1, arrived=0, meetings=0, watch=0)
    first_row, round_rows = walk_blocks(net, mine, alone, n)
    total = 0.0
    for begun in range(0, n, round_rows):
        first = begun + first_row
        rows = smaller(plan.block_rows, n - first)
        value = 0.0
        if rows > 0:
            network_forward(mine, first, rows, 0, INFERENCE)
            value = block_loss(mine, first, rows, False, as_double(n))
            meet(mine.member)
        if round_rows == plan.block_rows:
            total += value
        else:
            blocks = parts_of(smaller(round_rows, n - begun), plan.block_rows)
            total = gather_blocks(net, blocks, total, value, False, null_like(net.workspace))
    return total / as_double(n)


@kernel
def copy_rows(rows: int, n: int, source: Reals, leading: int, to: Reals) -> None:
    """n numbers of each row, one row behind the other. While there is room, whole vectors, which reach into the place
    of the next row."""
    width = whole_vectors(n, to) * lanes(to)
    while rows > 0:
        if rows * n >= width:
            for j in range(0, width, lanes(to)):
                store_loose(to + j, load(source + j))
        else:
            copy_reals(to, source, n)
        rows -= 1
        source = source + leading
        to = to + n


@kernel
def copy_outputs(net: Network, n: int, logits: int, first_layer: int, out: Reals, outs: Any) -> None:
    """y_hat, or the logits, of a member's rows of every block; layers from ``first_layer`` on are copied to outs, or
    the last one to ``out``."""
    plan = net.plan
    last = last_layer(net)
    mine = network(net.workspace)
    alone = member_alone(index=0, count=1, arrived=0, meetings=0, watch=0)
    first_row, round_rows = walk_blocks(net, mine, alone, n)
    for first in range(first_row, n, round_rows):
        rows = smaller(plan.block_rows, n - first)
        begin, end = share_of(mine.member, rows, SHARED_ROWS)
        network_forward(mine, first, rows, 0, INFERENCE)
        if not logits:
            z = output_of(mine, last) + begin * last.leading
            output_rows(last.activation, end - begin, last.n_out, z, last.leading)
        for number in range(first_layer, plan.n_layers):
            layer = plan.layers[number]
            to = out
            if is_set(outs):
                to = outs[number - first_layer]
            source = output_of(mine, layer) + begin * layer.leading
            copy_rows(end - begin, layer.n_out, source, layer.leading, to + (first + begin) * layer.n_out)
        meet(mine.member)  # shares of a shorter block lie elsewhere


@kernel
def train_step(net: Network, first: int, n: int, row: Any, u: Update, dropout_step: int, gradients: Reals) -> float:
    """One step over examples first .. first + n - 1. Returns the loss before the update; where that is not finite,
    nothing is updated.

    A batch of one block updates each weight as soon as its gradient is known; a larger one, or a clipped gradient,
    goes through the arena ``gradients``.
    """
    plan = net.plan
    rate = row[0]
    eps = row[1]
    divisor = row[2] if row[2] != 0 else as_double(n)
    scale = row[3]
    clip_norm = u.scalars[CLIP_NORM]
    charge = scale * penalty_of(plan)
    s = update_step(gradients)
    if n > plan.block_rows or clip_norm > 0:
        null = null_like(gradients)
        value = data_gradients(net, first, n, divisor, dropout_step, null, null, gradients) + charge
        if not is_finite(value):
            return value
        add_penalty_gradient(net, gradients, scale)
        meet(net.member)
        begin_update(s, u, rate, eps, net.parameters)
        apply_gradients(net, s, clip_norm, gradients)
    else:
        network_forward(net, first, n, 0, dropout_step)
        value = block_loss(net, first, n, True, divisor) / divisor + charge
        if not is_finite(value):
            return value
        begin_update(s, u, rate, eps, net.parameters)
        s.l1 = plan.l1 * scale
        s.l2 = plan.l2 * scale
        null = null_like(gradients)
        sink = gradient_sink(use=UPDATE_PARAMETERS, gradients=null, parameters=net.parameters, update=s)
        network_backward(net, n, null, sink)
    # The others read it again after the next step's loss, where all meet.
    if net.member.index == 0:
        end_update(u)
    return value
