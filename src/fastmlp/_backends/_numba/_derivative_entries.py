"""What Python calls of _derivatives.py and _hessian.py: an object of its own, compiled when a derivative is first
wanted. As csrc/derivative_entries.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import Entry, kernel
from fastmlp._backends._numba._derivatives import example_gradients, input_tangents, jacobians
from fastmlp._backends._numba._entries import is_long, threads_for_rows
from fastmlp._backends._numba._hessian import gradient_tangents
from fastmlp._backends._numba._memory import Pointer, as_address
from fastmlp._backends._numba._network import network
from fastmlp._backends._numba._structs import derivative_arguments_struct
from fastmlp._backends._numba._subnormals import flush_subnormals, restore_mode
from fastmlp._backends._numba._team import ALONE, MEMBER, PYTHON, TEAM, Member, Team, call_team, member_alone

Arguments = Any

JACOBIAN, JVP, GRADIENTS_PER_EXAMPLE, HVP = range(4)
# Passes through the net that a call takes for a row, in units of a forward pass.
JVP_PASSES, EXAMPLE_GRADIENT_PASSES, HVP_PASSES = 2, 3, 8


@kernel
def run_derivatives(job: int, c: Arguments, member: Member) -> None:
    """A member's part of a call."""
    mode = flush_subnormals()
    net = network(
        plan=c.plan, workspace=c.workspace, parameters=c.plan.parameters, examples=c.examples, member=member,
        x=0, x_leading=0, fetched=0, is_dropped=0,
    )  # fmt: skip
    if job == JACOBIAN:
        jacobians(net, c.derivatives, c.n, c.out)
    elif job == JVP:
        input_tangents(net, c.derivatives, c.n, c.direction, c.y, c.out)
    elif job == GRADIENTS_PER_EXAMPLE:
        example_gradients(net, c.derivatives, c.n, c.out)
    elif job == HVP:
        gradient_tangents(net, c.derivatives, c.n, c.direction, c.out)
    restore_mode(mode)


@kernel
def passes_of(job: int, c: Arguments) -> int:
    if job == JVP:
        return JVP_PASSES
    if job == GRADIENTS_PER_EXAMPLE:
        return EXAMPLE_GRADIENT_PASSES
    if job == HVP:
        return HVP_PASSES
    return 1 + c.derivatives.directions


@kernel
def call_derivatives(team: Team, job: int, c: Arguments) -> int:
    """As ``call``."""
    passes = passes_of(job, c)
    threads = threads_for_rows(c.plan, c.n, passes)
    outcome = call_team(team, threads, threads > 1 and is_long(c.plan, c.n, passes), job, as_address(c))
    if outcome == PYTHON:
        return threads
    if outcome == ALONE:
        run_derivatives(job, c, member_alone(index=0, count=1, arrived=0, meetings=0, watch=0))
    return 1


def derivative_entries(real: Any) -> list[Entry]:
    """For one type of reals."""
    arguments = Pointer(derivative_arguments_struct(real))
    return [
        Entry("run_derivatives", run_derivatives, (types.int64, arguments, Pointer(MEMBER))),
        Entry("call_derivatives", call_derivatives, (Pointer(TEAM), types.int64, arguments)),
    ]
