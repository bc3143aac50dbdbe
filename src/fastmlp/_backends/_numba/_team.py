"""Where threads that work on one call together meet. The threads themselves are Python's: _pool.py.

As csrc/team.h: a call's members share its rows and its layers' units, and meet after each part.
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import kernel, primitive
from fastmlp._backends._numba._memory import Pointer, Struct, constructor

LOOKS = 2000  # these take 20 to 40 us

# Two words in memory, each the caller's to zero: how many have arrived, and how many meetings have been.
MEMBER = Struct(
    "member",
    {
        "index": types.int64,
        "count": types.int64,
        "arrived": Pointer(types.int64),
        "meetings": Pointer(types.int64),
        "give_way": types.int64,  # the address of the system's function that lets another thread run
    },
)
Member = Any
member_alone = constructor(lambda real: MEMBER, like="index")


@primitive
def atomic_add(place: Any, x: Any) -> Any:
    """Adds to a word; returns what it was."""
    return types.int64, lambda builder, p, value: builder.atomic_rmw("add", p, value, "seq_cst")


@primitive
def atomic_load(place: Any) -> Any:
    return types.int64, lambda builder, p: builder.load_atomic(p, "seq_cst", 8)


@primitive
def atomic_store(place: Any, x: Any) -> Any:
    return types.void, lambda builder, p, value: builder.store_atomic(value, p, "seq_cst", 8)


@primitive
def call_address(address: Any) -> Any:
    """Calls a C function without arguments."""

    def emit(builder: ir.IRBuilder, value: Any) -> None:
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(value, function.as_pointer()), [])

    return types.void, emit


@kernel
def await_meeting(member: Member, old: int) -> None:
    """Looks for a short while, and then lets others run: with another process on its core, a thread that only looked
    would keep away the one it waits for."""
    looks = 0
    while atomic_load(member.meetings) == old:
        looks += 1
        if looks > LOOKS:
            call_address(member.give_way)


@kernel
def meet(member: Member) -> None:
    """Waits until every member has come here; what they wrote before is seen by all."""
    if member.count == 1:
        return
    meeting = atomic_load(member.meetings)
    if atomic_add(member.arrived, 1) + 1 == member.count:
        atomic_store(member.arrived, 0)
        atomic_store(member.meetings, meeting + 1)
    else:
        await_meeting(member, meeting)
