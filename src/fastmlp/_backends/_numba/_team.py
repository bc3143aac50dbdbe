"""Where threads that work on one call together find their work and meet. The threads themselves are Python's: _pool.py.

As csrc/team.h: a call's members share its rows and its layers' units, and meet after each part. A member that has done
its part looks for the next one for a short while before it goes back to Python, which would take 50 us to wake it.
"""

from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel, primitive
from fastmlp._backends._numba._memory import Pointer, Struct, constructor
from fastmlp._backends._numba._subnormals import processor

LOOKS = 2000  # these take 20 to 40 us
LOOKS_BETWEEN_CALLS = 4 * LOOKS  # Python takes 10 to 50 us from one call to the next
_YIELD = ir.IntType(32)(1)  # the hint of that name

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
# A member's desk; the caller's is the first. Words that several threads change lie elsewhere.
DESK = Struct(
    "desk",
    {
        "posted": Pointer(types.int64),  # how many parts so far
        "is_awake": Pointer(types.int64),  # whether the member looks there
        "working": Pointer(types.int64),  # members that are not done, the same word for all
        "seen": types.int64,  # of the posted; the member's own
        "function": types.int64,  # the part is function(job, arguments, member)
        "job": types.int64,
        "arguments": types.int64,
        "member": Pointer(MEMBER),
    },
)
Desk = Any
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
def atomic_exchange(place: Any, x: Any) -> Any:
    """Puts another number into a word; returns what it was."""
    return types.int64, lambda builder, p, value: builder.atomic_rmw("xchg", p, value, "seq_cst")


@primitive
def pause_briefly() -> Any:
    def emit(builder: ir.IRBuilder) -> None:
        if processor() == "x86":
            signature = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), signature), [])
        elif processor() == "aarch64":
            signature = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), signature), [_YIELD])

    return types.void, emit


@primitive
def call_part(function: Any, job: Any, arguments: Any, member: Any) -> Any:
    """function(job, arguments, member)"""

    def emit(builder: ir.IRBuilder, address: Any, *values: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return types.void, emit


@primitive
def call_address(address: Any) -> Any:
    """Calls a C function without arguments."""

    def emit(builder: ir.IRBuilder, value: Any) -> None:
        function = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(value, function.as_pointer()), [])

    return types.void, emit


@inline
def look_again(member: Member, looks: int) -> None:
    """For a short while, and then lets others run: with another process on its core, a thread that only looked would
    keep away the one it waits for."""
    pause_briefly()
    if looks > LOOKS:
        call_address(member.give_way)


@kernel
def await_meeting(member: Member, old: int) -> None:
    looks = 0
    while atomic_load(member.meetings) == old:
        looks += 1
        look_again(member, looks)


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


@kernel
def post(desks: Desk, members: Member, count: int, function: int, job: int, arguments: int) -> int:
    """Gives each member of a team its part of a call; returns which are to be woken, a bit for each."""
    atomic_store(desks.working, count)
    sleeping = 0
    for index in range(count):
        desk = desks[index]
        desk.function = function
        desk.job = job
        desk.arguments = arguments
        desk.member = members[index]
        atomic_add(desk.posted, 1)
        if atomic_exchange(desk.is_awake, 1) == 0:
            sleeping += 1 << index
    return sleeping


@kernel
def take_part(desk: Desk) -> None:
    desk.seen += 1
    call_part(desk.function, desk.job, desk.arguments, desk.member)
    atomic_add(desk.working, -1)


@kernel
def lead(desk: Desk) -> None:
    """The caller's part, unless it has been done, and until all of them are."""
    if atomic_load(desk.posted) != desk.seen:
        take_part(desk)
    looks = 0
    while atomic_load(desk.working) != 0:
        looks += 1
        look_again(desk.member, looks)


@kernel
def serve(desk: Desk) -> None:
    """The parts of another member, until none comes for a while.

    Who sets ``is_awake`` first sees to it that a part which comes just then is done: this thread goes on, or the caller
    wakes it.
    """
    looks = 0
    while True:
        if atomic_load(desk.posted) != desk.seen:
            take_part(desk)
            looks = 0
        elif looks < LOOKS_BETWEEN_CALLS:
            looks += 1
            pause_briefly()
        else:
            atomic_store(desk.is_awake, 0)
            if atomic_load(desk.posted) == desk.seen or atomic_exchange(desk.is_awake, 1) != 0:
                return
