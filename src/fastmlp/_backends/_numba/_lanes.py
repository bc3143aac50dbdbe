"""Members of an ensemble in the lanes of vectors: where their numbers lie, how they get there and back. As in
csrc/lanes.h.

What C keeps on its stack lies in the last lines of the workspace, for which _plan.py leaves room.
"""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._gather import convert_row, example_row, is_own_type
from fastmlp._backends._numba._memory import (
    Pointer,
    Struct,
    constructor,
    copy_reals,
    doubles_at,
    integers_at,
    is_set,
    reals_at,
)
from fastmlp._backends._numba._structs import (
    DOUBLES,
    INTEGERS,
    Plan,
    Reals,
    plan_struct,
    trainee_struct,
)
from fastmlp._backends._numba._update import uses_first, uses_second
from fastmlp._backends._numba._vector import (
    lanes,
    line_lanes,
    load_loose,
    smaller,
    splat,
    store,
    transpose_block,
)

Lanes = Any
Trainee = Any


def lanes_struct(real: Any) -> Struct:
    reals = Pointer(real)
    return Struct(
        f"lanes_{real}",
        {
            "members": Pointer(trainee_struct(real)),
            "count": types.int64,
            "plan": Pointer(plan_struct(real)),  # of the first: sizes, activations and loss are alike
            "parameters": reals,
            "first": reals,
            "second": reals,
            "gradient": reals,  # of one layer
            "x": reals,  # (rows, n_0)
            "outputs": reals,  # (rows, n_l), layer after layer
            "factors": reals,
            "deltas": reals,  # (rows, widest layer): d loss / d output of one layer, or one row's logits
            "targets": reals,  # (n_L) of one row
            # one vector each
            "zeros": reals,
            "ones": reals,
            "values": reals,
            "labels": reals,
            "scales": reals,
            "constants": reals,  # of an update: a line for each of CONSTANTS
            # a vector for each element of a line, or for each lane
            "line": reals,
            "other_line": reals,
            "block": reals,
            "turned": reals,
            # one for each lane
            "is_running": INTEGERS,
            "rows": INTEGERS,
            "weights": DOUBLES,
            "divisors": DOUBLES,
            "charges": DOUBLES,
            "totals": DOUBLES,
            "sums": DOUBLES,
            "other_sums": DOUBLES,
            "has_penalty": types.int64,
            "has_shrink": types.int64,
        },
    )


lanes_unset = constructor(lanes_struct, like="parameters")


@inline
def larger(a: int, b: int) -> int:
    return a if a > b else b


# ---- members into lanes and back


@inline
def member_of(t: Lanes, lane: int) -> Trainee:
    """Beyond ``count`` the first one again: computed, never written back."""
    return t.members[lane if lane < t.count else 0]


@kernel
def begin_lanes(t: Lanes, members: Trainee, count: int, rows: int, workspace: Reals) -> None:
    """Where everything lies in a workspace for so many rows; _plan.py computes its size."""
    plan = members.plan
    width = lanes(workspace)
    line = line_lanes(workspace)
    parameters = 0
    largest = 0
    units = 0
    widest = 0
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        size = (layer.n_in + 1) * layer.n_out
        parameters += size
        units += layer.n_out
        largest = larger(largest, size)
        widest = larger(widest, larger(layer.n_in, layer.n_out))
    last = plan.layers[plan.n_layers - 1]
    t.members = members
    t.count = count
    t.plan = plan
    t.parameters = workspace
    t.first = t.parameters + parameters * width
    t.second = t.first + parameters * width
    t.gradient = t.second + parameters * width
    t.x = t.gradient + largest * width
    t.outputs = t.x + rows * plan.layers.n_in * width
    t.factors = t.outputs + rows * units * width
    t.deltas = t.factors + rows * units * width
    t.targets = t.deltas + rows * widest * width
    # Whole lines from here on.
    offset = (3 * parameters + largest + rows * (plan.layers.n_in + 2 * units + widest) + last.n_out) * width
    scratch = workspace + (offset + line - 1) // line * line
    t.zeros = scratch
    t.ones = scratch + line
    t.values = scratch + 2 * line
    t.labels = scratch + 3 * line
    t.scales = scratch + 4 * line
    t.constants = scratch + 5 * line
    t.line = scratch + 16 * line
    t.other_line = scratch + 32 * line
    t.block = scratch + 48 * line
    t.turned = scratch + 64 * line
    t.is_running = integers_at(scratch + 80 * line)
    t.rows = integers_at(scratch + 82 * line)
    t.weights = doubles_at(scratch + 84 * line)
    t.divisors = doubles_at(scratch + 86 * line)
    t.charges = doubles_at(scratch + 88 * line)
    t.totals = doubles_at(scratch + 90 * line)
    t.sums = doubles_at(scratch + 92 * line)
    t.other_sums = doubles_at(scratch + 94 * line)
    store(t.zeros, splat(0, workspace))
    store(t.ones, splat(1, workspace))
    store(t.labels, splat(0, workspace))
    t.has_penalty = 0
    for lane in range(width):
        own = member_of(t, lane).plan
        t.is_running[lane] = 1 if lane < count else 0
        t.charges[lane] = 0.0
        if own.l1 != 0 or own.l2 != 0:
            t.has_penalty = 1


@kernel
def copy_lane(plan: Plan, arena: Reals, packed: Reals, lane: int, is_back: bool) -> None:
    """One lane of an arena, from a member's or back to it."""
    at = packed + lane
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        for i in range(layer.n_in + 1):
            row = arena + (layer.parameters + i * layer.leading)
            for j in range(layer.n_out):
                if is_back:
                    row[j] = at[0]
                else:
                    at[0] = row[j]
                at = at + lanes(packed)


@kernel
def copy_member(t: Lanes, lane: int, is_back: bool) -> None:
    m = member_of(t, lane)
    copy_lane(t.plan, m.plan.parameters, t.parameters, lane, is_back)
    if not is_set(m.update):
        return
    code = m.update.code
    if uses_first(code):
        copy_lane(t.plan, m.update.first, t.first, lane, is_back)
    if uses_second(code):
        copy_lane(t.plan, m.update.second, t.second, lane, is_back)


@kernel
def gather_lanes(t: Lanes, first: int, rows: int) -> None:
    """The inputs of a block of rows that begins with each member's example ``first``."""
    n_in = t.plan.layers.n_in
    width = lanes(t.x)
    shared = t.members.examples
    is_direct = is_own_type(shared.x_type, shared.x_column, t.x)
    for i in range(rows):
        x = t.x + i * n_in * width
        for k in range(0, n_in, width):
            n = smaller(width, n_in - k)
            for lane in range(width):
                e = member_of(t, lane).examples
                source = e.x + (example_row(e, first + i) * e.x_row + k * e.x_column)
                if is_direct and n == width:
                    store(t.block + lane * width, load_loose(reals_at(source, x)))
                else:
                    convert_row(t.block + lane * width, source, e.x_column, e.x_type, n)
            if n == width:
                transpose_block(t.block, width, width, x + k * width, width)
            else:
                transpose_block(t.block, width, width, t.turned, width)
                copy_reals(x + k * width, t.turned, n * width)
