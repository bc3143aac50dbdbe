"""The entry points that Python calls: what each member of a call does with its arguments. As csrc/network.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import Entry, inline, kernel
from fastmlp._backends._numba._dense import parts_of
from fastmlp._backends._numba._elementary import NAN
from fastmlp._backends._numba._gather import LEAST_FETCHED, MOST_FETCHED, fetched_rows
from fastmlp._backends._numba._memory import (
    Pointer,
    as_address,
    as_double,
    as_integer,
    constructor,
    is_set,
    null_like,
    pick,
)
from fastmlp._backends._numba._network import (
    NO_DROPOUT,
    SHARED_ROWS,
    Network,
    add_penalty_gradient,
    apply_gradients,
    copy_outputs,
    data_gradients,
    data_loss,
    is_finite,
    network,
    penalty_of,
    share_of,
    train_step,
)
from fastmlp._backends._numba._orders import GENERATOR, draw_orders, shuffle_orders
from fastmlp._backends._numba._structs import (
    EXAMPLES,
    Examples,
    Plan,
    Reals,
    arguments_struct,
    call_struct,
    plan_struct,
)
from fastmlp._backends._numba._subnormals import flush_subnormals, restore_mode
from fastmlp._backends._numba._team import (
    ALONE,
    DESK,
    MEMBER,
    POOL,
    PYTHON,
    TEAM,
    Member,
    Team,
    call_team,
    enter,
    lead,
    leave,
    member_alone,
    post,
    serve,
)
from fastmlp._backends._numba._update import begin_update, end_update, update_step
from fastmlp._backends._numba._vector import smaller
from fastmlp._backends._numba._watch import WATCH, begin_watch, judge_teams
from fastmlp._update import CLIP_NORM, EPS, LR

Arguments = Any
Call = Any

FORWARD, LAYER_OUTPUTS, LOSS, GRADIENTS, BACKWARD, APPLY, TRAIN = range(7)


@kernel
def loss_member(net: Network, c: Arguments) -> None:
    value = data_loss(net, c.n) + penalty_of(c.plan)
    if net.member.index == 0:
        c.value = value


@kernel
def gradients_member(net: Network, c: Arguments) -> None:
    null = null_like(c.gradients)
    value = data_gradients(net, 0, c.n, as_double(c.n), c.option, null, null, c.gradients) + penalty_of(c.plan)
    add_penalty_gradient(net, c.gradients, 1.0)
    if net.member.index == 0:
        c.value = value


@kernel
def backward_member(net: Network, c: Arguments) -> None:
    data_gradients(net, 0, c.n, 1.0, NO_DROPOUT, c.dy, c.dx, c.gradients)


@kernel
def apply_member(net: Network, c: Arguments) -> None:
    u = c.update
    s = update_step(c.gradients)
    begin_update(s, u, u.scalars[LR], u.scalars[EPS], net.parameters)
    apply_gradients(net, s, u.scalars[CLIP_NORM], c.gradients)
    if net.member.index == 0:
        end_update(u)


@kernel
def train_member(net: Network, c: Arguments) -> None:
    s = c.schedule
    e = net.examples
    row_bytes = c.plan.layers[0].n_in * e.x_column
    is_fetched = LEAST_FETCHED <= row_bytes * s.batch_size <= MOST_FETCHED
    steps_per_epoch = (s.n_examples + s.batch_size - 1) // s.batch_size
    epoch_rows = s.n_examples if is_set(e.order) else 0
    epoch = s.first_step // steps_per_epoch * epoch_rows
    first = s.first_step % steps_per_epoch * s.batch_size
    fetched = fetched_rows(examples=e, next=0, to=0, place=0, row_bytes=row_bytes)
    taken = 0
    while taken < s.n_steps:
        n = smaller(s.batch_size, s.n_examples - first)
        next_epoch, next_first = epoch, first + n
        if next_first == s.n_examples:
            next_epoch, next_first = epoch + epoch_rows, 0
        net.fetched = null_like(net.fetched)
        if is_fetched and taken + 1 < s.n_steps:
            begin, end = share_of(net.member, smaller(s.batch_size, s.n_examples - next_first), SHARED_ROWS)
            fetched.next = next_epoch + next_first + begin
            fetched.to = next_epoch + next_first + end
            fetched.place = 0
            net.fetched = fetched
        row = s.table + taken * s.table_row
        value = train_step(net, epoch + first, n, row, c.update, s.dropout_step + taken, c.gradients)
        if net.member.index == 0:
            c.losses[taken] = value
        if not is_finite(value):
            break
        taken += 1
        epoch, first = next_epoch, next_first
    if net.member.index == 0:
        c.taken = taken


@kernel
def run(job: int, c: Arguments, member: Member) -> None:
    """A member's part of a call."""
    mode = flush_subnormals()
    net = network(
        plan=c.plan, workspace=c.workspace, parameters=c.plan.parameters, examples=c.examples, member=member,
        x=0, x_leading=0, fetched=0, is_dropped=0,
    )  # fmt: skip
    if job == FORWARD:
        copy_outputs(net, c.n, c.option, c.plan.n_layers - 1, c.out, c.outs)
    elif job == LAYER_OUTPUTS:
        copy_outputs(net, c.n, 0, 0, c.out, c.outs)
    elif job == LOSS:
        loss_member(net, c)
    elif job == GRADIENTS:
        gradients_member(net, c)
    elif job == BACKWARD:
        backward_member(net, c)
    elif job == APPLY:
        apply_member(net, c)
    elif job == TRAIN:
        train_member(net, c)
    restore_mode(mode)


@kernel
def penalty(plan: Plan) -> float:
    mode = flush_subnormals()
    value = penalty_of(plan)
    restore_mode(mode)
    return value


@kernel
def worth_of(plan: Plan, rows: int, passes: int) -> float:
    """How many threads a call of so many rows is worth: one for every so many multiplications."""
    products = 0.0
    for number in range(plan.n_layers):
        layer = plan.layers[number]
        products += as_double(layer.n_in) * as_double(layer.n_out)
    return products * as_double(rows) * as_double(passes) / as_double(plan.thread_products)


@kernel
def threads_for(plan: Plan, rows: int, passes: int) -> int:
    worth = worth_of(plan, rows, passes)
    if worth < 2:
        return 1
    if worth < plan.n_threads:
        return as_integer(worth)
    return plan.n_threads


# To read the weights of a large net takes as long as to multiply three (1.3 million) to seven rows (13 million).
LEAST_ROWS = 4


@inline
def counted_rows(n: int) -> int:
    return LEAST_ROWS if 0 < n < LEAST_ROWS else n


@kernel
def threads_for_rows(plan: Plan, n: int, passes: int) -> int:
    """The same of a call over n rows, whose blocks are shared or taken whole: walk_blocks."""
    if plan.n_threads == 1:
        return 1
    rows = counted_rows(n)
    sharing = threads_for(plan, smaller(rows, plan.block_rows), passes)
    if not plan.own_blocks:
        return sharing
    taking = smaller(threads_for(plan, rows, passes), parts_of(rows, plan.block_rows))
    return pick(sharing > taking, sharing, taking)


# A call worth so many threads, 0.2 ms, is long enough for threads to be woken: call_team.
LONG = 8


@kernel
def is_long(plan: Plan, n: int, passes: int) -> bool:
    return worth_of(plan, counted_rows(n), passes) >= LONG


arguments = constructor(arguments_struct, like="workspace")


@inline
def call_alone(job: int, c: Arguments) -> int:
    run(job, c, member_alone(index=0, count=1, arrived=0, meetings=0, watch=0))
    return 1


@kernel
def call_shared(team: Team, job: int, c: Arguments) -> int:
    """A job of a net that may use several threads."""
    is_training = job == TRAIN
    passes = pick(is_training or job == GRADIENTS or job == BACKWARD, 3, 1)
    n = smaller(c.schedule.batch_size, c.schedule.n_examples) if is_training else c.n
    threads = threads_for_rows(c.plan, n, passes)
    rows = n * c.schedule.n_steps if is_training else n
    outcome = call_team(team, threads, threads > 1 and is_long(c.plan, rows, passes), job, as_address(c))
    if outcome == PYTHON:
        return threads
    return call_alone(job, c) if outcome == ALONE else 1


@inline
def call(team: Team, job: int, c: Arguments) -> int:
    """A job by a team or by the caller; returns 1, or for how many threads Python has to do it."""
    return call_alone(job, c) if c.plan.n_threads == 1 else call_shared(team, job, c)


@kernel
def forward(team: Team, plan: Plan, workspace: Reals, e: Examples, n: int, out: Reals, logits: int) -> int:
    """The forward pass; returns what ``call`` does."""
    c = arguments(
        plan=plan, workspace=workspace, examples=e, n=n, out=out, option=logits,
        dy=0, dx=0, outs=0, schedule=0, update=0, gradients=0, losses=0, value=0.0, taken=0,
    )  # fmt: skip
    return call(team, FORWARD, c)


@kernel
def forward_call(kept: Call, logits: int) -> int:
    """The forward pass that a call record describes, as ``forward``."""
    return forward(kept.kernels, kept.plan, kept.workspace, kept.examples, kept.n, kept.out, logits)


@kernel
def predict_call(kept: Call) -> int:
    """forward_call with logits 0."""
    return forward(kept.kernels, kept.plan, kept.workspace, kept.examples, kept.n, kept.out, 0)


@kernel
def step_call(kept: Call, dropout_step: int) -> float:
    """The training step that a call record describes; ``n`` becomes what ``call`` returns, and the loss is NaN where
    nothing has been done."""
    kept.schedule.dropout_step = dropout_step
    c = arguments(
        plan=kept.plan, workspace=kept.workspace, examples=kept.examples, n=0, out=0, option=0,
        dy=0, dx=0, outs=0, schedule=kept.schedule, update=kept.update, gradients=kept.gradients, losses=kept.losses,
        value=0.0, taken=0,
    )  # fmt: skip
    kept.n = call(kept.kernels, TRAIN, c)
    return NAN if kept.n > 1 else kept.losses[0]


def entries(real: Any) -> list[Entry]:
    """What Python calls, for one type of reals."""
    integer, plan, kept = types.int64, Pointer(plan_struct(real)), Pointer(call_struct(real))
    reals, examples, desks, pool = Pointer(real), Pointer(EXAMPLES), Pointer(DESK), Pointer(POOL)
    return [
        Entry("run", run, (integer, Pointer(arguments_struct(real)), Pointer(MEMBER))),
        Entry("penalty", penalty, (plan,)),
        Entry("threads_for_rows", threads_for_rows, (plan, integer, integer)),
        Entry("call", call, (Pointer(TEAM), integer, Pointer(arguments_struct(real)))),
        Entry("forward", forward, (Pointer(TEAM), plan, reals, examples, integer, reals, integer)),
        Entry("forward_call", forward_call, (kept, integer)),
        Entry("predict_call", predict_call, (kept,)),
        Entry("step_call", step_call, (kept, integer)),
        Entry("post", post, (desks, Pointer(MEMBER), integer, integer, integer, integer)),
        Entry("lead", lead, (desks,)),
        Entry("serve", serve, (desks,)),
        Entry("enter", enter, (pool,)),
        Entry("leave", leave, (pool,)),
        Entry("begin_watch", begin_watch, (Pointer(WATCH),)),
        Entry("judge_teams", judge_teams, (Pointer(WATCH), integer)),
        Entry("shuffle_orders", shuffle_orders, (integer, integer, integer, integer, Pointer(integer))),
        Entry("draw_orders", draw_orders, (Pointer(GENERATOR), integer, integer, Pointer(integer))),
    ]
