"""Whether teams are worth their threads, by what their callers wait. As csrc/team.c; times are in nanoseconds."""

import sys
from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import Struct

WATCHED = 5_000_000  # work of teams after which they are judged
MOST_ALONE = 1_000_000_000
LONGER = 4

WATCH = Struct(
    "watch",
    {
        "time": types.int64,  # two numbers where the system puts the time
        "rest": types.int64,
        "unit": types.int64,  # nanoseconds in one of the first; the second counts them
        "clock": types.int64,  # the address of the system's function that tells the time
        "which": types.int64,  # of its clocks
        "give_way": types.int64,  # and of the one that lets another thread run
        "begun": types.int64,  # when the call did
        "since": types.int64,  # when the caller's wait did
        "worked": types.int64,  # of calls with a team since they were judged
        "waited": types.int64,  # in them, by their callers
        "alone": types.int64,  # for how long teams were given up
        "alone_until": types.int64,  # and when they are tried again
        "are_kept": types.int64,  # whatever they cost
    },
)
Watch = Any


@primitive
def tell_time(clock: Any, which: Any, watch: Any) -> Any:
    """Has the system put the time where a watch begins."""

    def emit(builder: ir.IRBuilder, function: Any, number: Any, place: Any) -> None:
        given = [place] if sys.platform == "win32" else [builder.trunc(number, ir.IntType(32)), place]
        kind = ir.FunctionType(ir.IntType(32), [value.type for value in given])
        builder.call(builder.inttoptr(function, kind.as_pointer()), given)

    return types.void, emit


@primitive
def call_address(address: Any) -> Any:
    """Calls a C function without arguments."""

    def emit(builder: ir.IRBuilder, value: Any) -> None:
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(value, function.as_pointer()), [])

    return types.void, emit


@kernel
def nanoseconds(watch: Watch) -> int:
    tell_time(watch.clock, watch.which, watch)
    return watch.time * watch.unit + watch.rest


@kernel
def begin_watch(watch: Watch) -> int:
    """1 if teams may be used."""
    watch.begun = nanoseconds(watch)
    return 1 if watch.begun >= watch.alone_until else 0


@inline
def give_way(watch: Watch) -> None:
    call_address(watch.give_way)


@kernel
def begin_wait(watch: Watch) -> None:
    watch.since = nanoseconds(watch)


@kernel
def end_wait(watch: Watch) -> None:
    watch.waited += nanoseconds(watch) - watch.since


@kernel
def judge_teams(watch: Watch, count: int) -> None:
    """Takes note of a call with a team, and decides whether they are worth it as soon as that can be told."""
    now = nanoseconds(watch)
    watch.worked += now - watch.begun
    watched = watch.worked if watch.worked > WATCHED else WATCHED
    # a fifth for what no wait shows: members on one core, and caches that each other's results come from
    is_vain = 5 * watched > 4 * count * (watched - watch.waited)
    if watch.are_kept or (not is_vain and watch.worked < WATCHED):
        return
    if is_vain:
        watch.alone *= LONGER
        if watch.alone < watch.waited:
            watch.alone = watch.waited
        if watch.alone > MOST_ALONE:
            watch.alone = MOST_ALONE
        watch.alone_until = now + watch.alone
    else:
        watch.alone //= LONGER
    watch.worked = 0
    watch.waited = 0
