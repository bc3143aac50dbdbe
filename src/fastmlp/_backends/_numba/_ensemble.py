"""Nets of one architecture side by side, a member of the ensemble in every lane of a vector. As csrc/ensemble.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._activation import (
    activate_rows,
    activate_rows_keeping_factor,
    chain_rows,
    chain_rows_by_factor,
)
from fastmlp._backends._numba._columns import (
    clear_line,
    columns_buffer,
    cross_entropy_of_classes,
    cross_entropy_of_rows,
    lane_line_sum,
    part_of_line,
)
from fastmlp._backends._numba._compiler import Entry, inline, kernel
from fastmlp._backends._numba._gather import convert_number, example_row
from fastmlp._backends._numba._lane_tile import lane_multiply, lane_product
from fastmlp._backends._numba._lanes import (
    Lanes,
    Trainee,
    begin_lanes,
    copy_member,
    gather_lanes,
    lanes_unset,
    member_of,
)
from fastmlp._backends._numba._loss import element_lanes_of, weight_of
from fastmlp._backends._numba._memory import (
    Pointer,
    as_double,
    as_real,
    int64_at,
    is_set,
)
from fastmlp._backends._numba._network import INFERENCE, is_finite
from fastmlp._backends._numba._philox import DRAWN_ROWS, counters_of_lanes, draw_scales, drawn, rows_of_lanes
from fastmlp._backends._numba._structs import (
    ADAM,
    CROSS_ENTROPY,
    MOMENTUM,
    MSE,
    NESTEROV,
    RMSPROP,
    SGD,
    Reals,
    Vector,
    trainee_struct,
)
from fastmlp._backends._numba._subnormals import flush_subnormals, restore_mode
from fastmlp._backends._numba._update import begin_update, end_update, update_step
from fastmlp._backends._numba._vector import (
    absolute,
    choose,
    lanes,
    line_lanes,
    load,
    multiply_add,
    smaller,
    splat,
    square_root,
    store,
)

RATE, EPSILON, BETA_1, BETA_2, ONE_MINUS_1, ONE_MINUS_2, SHRINK, L1, L2 = range(9)


# ---- forward


@kernel
def drop_lanes(t: Lanes, number: int, taken: int, rows: int, z: Reals, factor: Reals) -> None:
    """Each member's own units are dropped, as drop_rows does."""
    n = t.plan.layers[number - 1].n_out
    scales = columns_buffer(z)
    lane_counters, lane_rows = counters_of_lanes(drawn()), rows_of_lanes(drawn())
    for lane in range(t.count):
        m = member_of(t, lane)
        layer = m.plan.layers[number - 1]
        if layer.dropout_from > 0:
            step = m.schedule.dropout_step + taken
            for i in range(0, rows, DRAWN_ROWS):
                for first in range(0, n, drawn()):
                    draw_scales(m.plan.seed, step, number, layer, lane_counters, lane_rows, first, i, 1, scales)
                    for r in range(smaller(DRAWN_ROWS, rows - i)):
                        for j in range(smaller(drawn(), n - first)):
                            at = ((i + r) * n + first + j) * lanes(z) + lane
                            scale = scales[r * drawn() + j]
                            z[at] = z[at] * scale
                            factor[at] = factor[at] * scale


@kernel
def lanes_forward(t: Lanes, rows: int, taken: int) -> Reals:
    """All layers, to the logits, which it returns. Training: step ``taken`` of the run; inference: INFERENCE."""
    width = lanes(t.x)
    a = t.x
    parameters = t.parameters
    z = t.outputs
    factor = t.factors
    last = t.plan.n_layers - 1
    for number in range(t.plan.n_layers):
        layer = t.plan.layers[number]
        n_in = layer.n_in
        n_out = layer.n_out
        p = lane_product(
            a=a, a_row=n_in * width, a_step=width,
            b=parameters, b_step=n_out * width, b_column=width,
            start=parameters + n_in * n_out * width, start_column=width,
            c=z, c_row=n_out * width, depth=n_in,
        )  # fmt: skip
        lane_multiply(rows, n_out, p)
        if number < last:
            size = rows * n_out
            if taken != INFERENCE and layer.factor >= 0:
                activate_rows_keeping_factor(layer.activation, 1, size, z, factor, 0)
                drop_lanes(t, number + 1, taken, rows, z, factor)
            else:
                activate_rows(layer.activation, 1, size, z, 0)
            a = z
            parameters = parameters + (n_in + 1) * n_out * width
            z = z + size * width
            factor = factor + size * width
    return z


# ---- losses: as _loss.py, whose sums over the outputs of a row go through a line and a tree


@kernel
def lane_targets(t: Lanes, n: int) -> None:
    """Targets of one row of every member, as reals."""
    for lane in range(lanes(t.x)):
        e = member_of(t, lane).examples
        y = e.y + t.rows[lane] * e.y_row
        for j in range(n):
            t.targets[j * lanes(t.x) + lane] = convert_number(y + j * e.y_column, e.y_type, t.x)


@kernel
def row_of_losses(t: Lanes, z: Reals, n: int, has_classes: bool, with_gradient: bool) -> Vector:
    """The loss of one row of every member."""
    loss = t.plan.loss
    activation = t.plan.layers[t.plan.n_layers - 1].activation
    scale = load(t.scales)
    if loss != CROSS_ENTROPY:
        return element_lanes_of(loss, activation, z, t.targets, n, with_gradient, scale, t.line)
    if has_classes:
        return cross_entropy_of_classes(z, load(t.labels), n, with_gradient, scale, t.line)
    return cross_entropy_of_rows(z, t.targets, n, with_gradient, scale, t.deltas, t.line, t.other_line)


@kernel
def lanes_loss(t: Lanes, first: int, rows: int, z: Reals, with_gradient: bool) -> None:
    """Adds weight * loss of the rows of a block to every lane's total, from the logits z, which become dL/dz where a
    gradient is wanted."""
    n = t.plan.layers[t.plan.n_layers - 1].n_out
    loss = t.plan.loss
    outputs = as_double(n)
    numerator = 1.0 if loss == CROSS_ENTROPY else (2.0 / outputs if loss == MSE else 1.0 / outputs)
    has_classes = loss == CROSS_ENTROPY and t.members.examples.y_column == 0
    if loss == CROSS_ENTROPY:
        outputs = 1.0
    for lane in range(lanes(z)):
        t.other_sums[lane] = numerator / t.divisors[lane]
    for i in range(rows):
        for lane in range(lanes(z)):
            e = member_of(t, lane).examples
            row = example_row(e, first + i)
            weight = weight_of(e, row)
            t.rows[lane] = row
            t.weights[lane] = weight
            t.scales[lane] = weight * t.other_sums[lane]
            if has_classes:
                t.labels[lane] = as_real(int64_at(e.y + row * e.y_row), z)
        if not has_classes:
            lane_targets(t, n)
        store(t.values, row_of_losses(t, z + i * n * lanes(z), n, has_classes, with_gradient))
        for lane in range(lanes(z)):
            value = as_double(t.values[lane])
            if outputs != 1.0:
                value = value / outputs
            t.totals[lane] = t.totals[lane] + t.weights[lane] * value


@kernel
def lanes_penalty(t: Lanes) -> None:
    """Every member's penalty into its charge; as penalty_of."""
    for lane in range(lanes(t.x)):
        t.sums[lane] = 0.0
        t.other_sums[lane] = 0.0
    parameters = t.parameters
    for number in range(t.plan.n_layers):
        layer = t.plan.layers[number]
        for _ in range(layer.n_in):
            clear_line(t.line)
            clear_line(t.other_line)
            for j in range(layer.n_out):
                w = load(parameters)
                total = part_of_line(t.line, j)
                square = part_of_line(t.other_line, j)
                store(total, load(total) + absolute(w))
                store(square, multiply_add(w, w, load(square)))
                parameters = parameters + lanes(parameters)
            store(t.values, lane_line_sum(t.line, layer.n_out))
            for lane in range(lanes(t.x)):
                t.sums[lane] = t.sums[lane] + as_double(t.values[lane])
            store(t.values, lane_line_sum(t.other_line, layer.n_out))
            for lane in range(lanes(t.x)):
                t.other_sums[lane] = t.other_sums[lane] + as_double(t.values[lane])
        parameters = parameters + layer.n_out * lanes(parameters)
    for lane in range(lanes(t.x)):
        plan = member_of(t, lane).plan
        t.charges[lane] = 0.0
        if plan.l1 != 0:
            t.charges[lane] = t.charges[lane] + plan.l1 * t.sums[lane]
        if plan.l2 != 0:
            t.charges[lane] = t.charges[lane] + plan.l2 / 2 * t.other_sums[lane]


# ---- updates: as _update.py, with every member's own constants


@inline
def constant_of(t: Lanes, which: int) -> Reals:
    return t.constants + which * line_lanes(t.constants)


@inline
def row_of_table(t: Lanes, lane: int, taken: int) -> Any:
    s = member_of(t, lane).schedule
    return s.table + taken * s.table_row


@kernel
def begin_lane_update(t: Lanes, taken: int) -> None:
    """Every lane's constants of the step that follows."""
    s = update_step(t.parameters)
    t.has_shrink = 0
    for lane in range(lanes(t.x)):
        m = member_of(t, lane)
        row = row_of_table(t, lane, taken)
        begin_update(s, m.update, row[0], row[1], t.parameters)
        constant_of(t, RATE)[lane] = -s.rate
        constant_of(t, EPSILON)[lane] = s.eps
        constant_of(t, BETA_1)[lane] = s.beta1
        constant_of(t, BETA_2)[lane] = s.beta2
        constant_of(t, ONE_MINUS_1)[lane] = s.one_minus1
        constant_of(t, ONE_MINUS_2)[lane] = s.one_minus2
        constant_of(t, SHRINK)[lane] = s.shrink
        constant_of(t, L1)[lane] = m.plan.l1 * row[3]
        constant_of(t, L2)[lane] = m.plan.l2 * row[3]
        if s.shrink != 1:
            t.has_shrink = 1


@inline
def lane_update_loop(t: Lanes, code: int, is_weight: bool, n: int, gradient: Reals, begin: int) -> None:
    zero = splat(0, gradient)
    rate = load(constant_of(t, RATE))
    eps = load(constant_of(t, EPSILON))
    beta1 = load(constant_of(t, BETA_1))
    beta2 = load(constant_of(t, BETA_2))
    one_minus1 = load(constant_of(t, ONE_MINUS_1))
    one_minus2 = load(constant_of(t, ONE_MINUS_2))
    shrink = load(constant_of(t, SHRINK))
    l1 = load(constant_of(t, L1))
    l2 = load(constant_of(t, L2))
    is_charged = is_weight and t.has_penalty != 0
    is_shrunk = is_weight and t.has_shrink != 0
    for i in range(n):
        at = i * lanes(gradient)
        p = t.parameters + (begin + at)
        first = t.first + (begin + at)
        second = t.second + (begin + at)
        g = load(gradient + at)
        x = load(p)
        if is_charged:
            charged = multiply_add(l2, x, g)
            slope = choose(x > zero, l1, choose(x < zero, -l1, zero))
            g = choose((l1 != zero) | (l2 != zero), choose(l1 != zero, charged + slope, charged), g)
        if is_shrunk:
            x = choose(shrink != splat(1, x), x * shrink, x)
        if code == SGD:
            x = multiply_add(rate, g, x)
        elif code == MOMENTUM:
            velocity = multiply_add(beta1, load(first), g)
            store(first, velocity)
            x = multiply_add(rate, velocity, x)
        elif code == NESTEROV:
            velocity = multiply_add(beta1, load(first), g)
            store(first, velocity)
            x = multiply_add(rate, multiply_add(beta1, velocity, g), x)
        elif code == ADAM:
            m = multiply_add(one_minus1, g - load(first), load(first))
            v = multiply_add(beta2, load(second), one_minus2 * g * g)
            store(first, m)
            store(second, v)
            x = multiply_add(rate, m / (square_root(v) + eps), x)
        elif code == RMSPROP:
            v = multiply_add(beta2, load(second), one_minus2 * g * g)
            store(second, v)
            x = multiply_add(rate, g / (square_root(v) + eps), x)
        store(p, x)


@kernel
def lanes_update(t: Lanes, is_weight: bool, n: int, g: Reals, at: int) -> None:
    """Updates n parameters that begin at ``at`` of the packed arenas."""
    code = t.members.update.code
    if code == SGD:
        lane_update_loop(t, SGD, is_weight, n, g, at)
    elif code == MOMENTUM:
        lane_update_loop(t, MOMENTUM, is_weight, n, g, at)
    elif code == NESTEROV:
        lane_update_loop(t, NESTEROV, is_weight, n, g, at)
    elif code == ADAM:
        lane_update_loop(t, ADAM, is_weight, n, g, at)
    elif code == RMSPROP:
        lane_update_loop(t, RMSPROP, is_weight, n, g, at)


# ---- backward


@kernel
def lanes_backward(t: Lanes, rows: int, logits: Reals) -> None:
    """From dL/dz of the last layer, over its logits: every layer's gradient, and its update."""
    width = lanes(t.x)
    at = 0
    output = 0
    dz = logits
    for number in range(t.plan.n_layers):
        layer = t.plan.layers[number]
        at += (layer.n_in + 1) * layer.n_out * width
        output += rows * layer.n_out * width
    for number in range(t.plan.n_layers - 1, -1, -1):
        layer = t.plan.layers[number]
        n_in = layer.n_in
        n_out = layer.n_out
        weights = n_in * n_out
        at -= (weights + n_out) * width
        a = t.x
        if number > 0:
            output -= rows * (n_in + n_out) * width  # of the layer below
            a = t.outputs + output
            p = lane_product(
                a=dz, a_row=n_out * width, a_step=width,
                b=t.parameters + at, b_step=width, b_column=n_out * width,
                start=t.zeros, start_column=0, c=t.deltas, c_row=n_in * width, depth=n_out,
            )  # fmt: skip
            lane_multiply(rows, n_in, p)
        p = lane_product(
            a=a, a_row=width, a_step=n_in * width,
            b=dz, b_step=n_out * width, b_column=width,
            start=t.zeros, start_column=0, c=t.gradient, c_row=n_out * width, depth=rows,
        )  # fmt: skip
        lane_multiply(n_in, n_out, p)
        p = lane_product(
            a=t.ones, a_row=0, a_step=0,
            b=dz, b_step=n_out * width, b_column=width,
            start=t.zeros, start_column=0, c=t.gradient + weights * width, c_row=n_out * width, depth=rows,
        )  # fmt: skip
        lane_multiply(1, n_out, p)
        lanes_update(t, True, weights, t.gradient, at)
        lanes_update(t, False, n_out, t.gradient + weights * width, at + weights * width)
        if number > 0:
            below = t.plan.layers[number - 1]
            if below.factor >= 0:
                chain_rows_by_factor(1, rows * n_in, t.deltas, 0, t.factors + output, a, 0)
            else:
                chain_rows(below.activation, as_real(1, a), 1, rows * n_in, t.deltas, 0, a, 0)
            dz = a
            output += rows * n_in * width


# ---- the entry points


@kernel
def lanes_step(t: Lanes, taken: int, first: int, n: int) -> None:
    """One step of every lane that runs. A member whose loss is not finite ends here: it is written back as it was."""
    for lane in range(lanes(t.x)):
        row = row_of_table(t, lane, taken)
        t.divisors[lane] = row[2] if row[2] != 0 else as_double(n)
        t.totals[lane] = 0.0
    if t.has_penalty != 0:
        lanes_penalty(t)
    gather_lanes(t, first, n)
    z = lanes_forward(t, n, taken)
    lanes_loss(t, first, n, z, True)
    for lane in range(t.count):
        if t.is_running[lane] != 0:
            m = member_of(t, lane)
            row = row_of_table(t, lane, taken)
            value = t.totals[lane] / t.divisors[lane] + row[3] * t.charges[lane]
            m.losses[taken] = value
            if not is_finite(value):
                t.is_running[lane] = 0
                m.taken = taken
                copy_member(t, lane, True)
    begin_lane_update(t, taken)
    lanes_backward(t, n, z)
    for lane in range(t.count):
        if t.is_running[lane] != 0:
            end_update(member_of(t, lane).update)


@kernel
def is_any_running(t: Lanes) -> bool:
    for lane in range(t.count):
        if t.is_running[lane] != 0:
            return True
    return False


@kernel
def train_lanes(members: Trainee, count: int, workspace: Reals) -> None:
    s = members.schedule
    steps_per_epoch = (s.n_examples + s.batch_size - 1) // s.batch_size
    t = lanes_unset(workspace)
    begin_lanes(t, members, count, smaller(s.batch_size, s.n_examples), workspace)
    for lane in range(lanes(workspace)):
        copy_member(t, lane, False)
    taken = 0
    while taken < s.n_steps and is_any_running(t):
        step = s.first_step + taken
        first = step % steps_per_epoch * s.batch_size
        n = smaller(s.batch_size, s.n_examples - first)
        if is_set(members.examples.order):
            first = step // steps_per_epoch * s.n_examples + first
        lanes_step(t, taken, first, n)
        taken += 1
    for lane in range(count):
        if t.is_running[lane] != 0:
            m = members[lane]
            m.taken = taken
            copy_member(t, lane, True)


@kernel
def train_members(members: Trainee, count: int, workspace: Reals) -> None:
    mode = flush_subnormals()
    for i in range(0, count, lanes(workspace)):
        train_lanes(members[i], smaller(count - i, lanes(workspace)), workspace)
    restore_mode(mode)


@kernel
def loss_lanes(members: Trainee, count: int, n: int, workspace: Reals) -> None:
    """The loss of all n examples, penalty included, of some members: losses[0] of each."""
    block_rows = smaller(n, members.plan.block_rows)
    t = lanes_unset(workspace)
    begin_lanes(t, members, count, block_rows, workspace)
    for lane in range(lanes(workspace)):
        copy_member(t, lane, False)
        t.divisors[lane] = as_double(n)
        t.sums[lane] = 0.0
    for first in range(0, n, block_rows):
        rows = smaller(block_rows, n - first)
        for lane in range(lanes(workspace)):
            t.totals[lane] = 0.0
        gather_lanes(t, first, rows)
        lanes_loss(t, first, rows, lanes_forward(t, rows, INFERENCE), False)
        for lane in range(lanes(workspace)):
            t.sums[lane] = t.sums[lane] + t.totals[lane]
    for lane in range(lanes(workspace)):
        t.totals[lane] = t.sums[lane] / t.divisors[lane]
    if t.has_penalty != 0:
        lanes_penalty(t)
    for lane in range(count):
        m = members[lane]
        m.losses[0] = t.totals[lane] + t.charges[lane]


@kernel
def member_losses(members: Trainee, count: int, n: int, workspace: Reals) -> None:
    mode = flush_subnormals()
    for i in range(0, count, lanes(workspace)):
        loss_lanes(members[i], smaller(count - i, lanes(workspace)), n, workspace)
    restore_mode(mode)


def entries(real: Any) -> list[Entry]:
    """What Python calls, for one type of reals."""
    members, reals, integer = Pointer(trainee_struct(real)), Pointer(real), types.int64
    return [
        Entry("train_members", train_members, (members, integer, reals)),
        Entry("member_losses", member_losses, (members, integer, integer, reals)),
    ]
