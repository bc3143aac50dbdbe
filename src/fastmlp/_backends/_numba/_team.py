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
from fastmlp._backends._numba._watch import WATCH, begin_wait, begin_watch, end_wait, give_way, judge_teams

LOOKS = 2000  # these take 20 to 40 us
LOOKS_BETWEEN_CALLS = 4 * LOOKS  # Python takes 10 to 50 us from one call to the next
MORE_LOOKS = 20 * LOOKS  # of who is roused: longer than a short call takes
_YIELD = ir.IntType(32)(1)  # the hint of that name

# What a member does: nothing, look for work (or do it), look until it comes, or wake up to look for it.
ASLEEP, LOOKING, CLAIMED, ROUSED = range(4)
# What has become of a call: it is done, or the caller is to do it alone, or Pool.run is.
DONE, ALONE, PYTHON = range(3)

# Its pointers lead to words that all members share, zero at first.
MEMBER = Struct(
    "member",
    {
        "index": types.int64,
        "count": types.int64,
        "arrived": Pointer(types.int64),  # how many have
        "meetings": Pointer(types.int64),  # how many there have been
        "watch": Pointer(WATCH),
    },
)
Member = Any
# A member's desk; the caller's is the first. Words that several threads change lie elsewhere.
DESK = Struct(
    "desk",
    {
        "posted": Pointer(types.int64),  # how many parts so far
        "state": Pointer(types.int64),  # what the member does
        "working": Pointer(types.int64),  # members that are not done, the same word for all
        "seen": types.int64,  # of the posted; the member's own
        "function": types.int64,  # the part is function(job, arguments, member)
        "job": types.int64,
        "arguments": types.int64,
        "member": Pointer(MEMBER),
    },
)
Desk = Any
POOL = Struct(
    "pool",
    {
        "busy": Pointer(types.int64),  # not 0 while a call is served
        "desks": Pointer(DESK),
        "members": Pointer(MEMBER),  # of the team that there is
        "count": types.int64,  # and how many these are
        "watch": Pointer(WATCH),
        "wanted": types.int64,  # a team that would have been of use, had it not been asleep
    },
)
# What a call needs to know of it.
TEAM = Struct("team", {"pool": Pointer(POOL), "run": types.int64})
Team = Any
Pool = Any
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
def atomic_replace(place: Any, old: Any, new: Any) -> Any:
    """Puts another number into a word if the old one is there; returns whether it was."""

    def emit(builder: ir.IRBuilder, p: Any, expected: Any, value: Any) -> Any:
        return builder.extract_value(builder.cmpxchg(p, expected, value, "seq_cst"), 1)

    return types.boolean, emit


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


@inline
def look_again(member: Member, looks: int) -> None:
    """For a short while, and then lets others run: with another process on its core, a thread that only looked would
    keep away the one it waits for. The caller's waits are watched."""
    pause_briefly()
    if looks >= LOOKS:
        if looks == LOOKS and member.index == 0:
            begin_wait(member.watch)
        give_way(member.watch)


@inline
def end_looking(member: Member, looks: int) -> None:
    if looks >= LOOKS and member.index == 0:
        end_wait(member.watch)


@kernel
def await_meeting(member: Member, old: int) -> None:
    looks = 0
    while atomic_load(member.meetings) == old:
        looks += 1
        look_again(member, looks)
    end_looking(member, looks)


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


@inline
def give(desk: Desk, member: Member, function: int, job: int, arguments: int) -> None:
    """Puts a part on a desk whose member does not fall asleep now."""
    desk.function = function
    desk.job = job
    desk.arguments = arguments
    desk.member = member
    atomic_add(desk.posted, 1)


@kernel
def post(desks: Desk, members: Member, count: int, function: int, job: int, arguments: int) -> int:
    """Gives each member of a team its part of a call; returns which are to be woken, a bit for each."""
    atomic_store(desks.working, count)
    sleeping = 0
    for index in range(count):
        desk = desks[index]
        if atomic_exchange(desk.state, CLAIMED) != LOOKING:
            sleeping += 1 << index  # also who has been roused: an interrupt may have come before
        give(desk, members[index], function, job, arguments)
    return sleeping


@kernel
def take_part(desk: Desk) -> None:
    desk.seen += 1
    atomic_store(desk.state, LOOKING)
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
    end_looking(desk.member, looks)


@kernel
def serve(desk: Desk) -> None:
    """The parts of another member, until none comes for a while and none is about to."""
    looks = 0
    if atomic_replace(desk.state, ROUSED, LOOKING):
        looks = -MORE_LOOKS
    else:
        atomic_replace(desk.state, ASLEEP, LOOKING)  # woken for nothing
    while True:
        if atomic_load(desk.posted) != desk.seen:
            take_part(desk)
            looks = 0
        elif looks < LOOKS_BETWEEN_CALLS:
            looks += 1
            pause_briefly()
        elif atomic_replace(desk.state, LOOKING, ASLEEP):
            return
        else:
            looks = 0


@kernel
def enter(pool: Pool) -> int:
    """1 if no other call is served; none is then until ``leave``."""
    return 1 - atomic_exchange(pool.busy, 1)


@kernel
def leave(pool: Pool) -> None:
    atomic_store(pool.busy, 0)


@kernel
def are_looking(pool: Pool, count: int) -> bool:
    """Whether there is such a team, and nobody sleeps."""
    if pool.count != count:
        return False
    for index in range(1, count):
        if atomic_load(pool.desks[index].state) != LOOKING:
            return False
    return True


@kernel
def claim(pool: Pool) -> bool:
    """Keeps the members from falling asleep, if none of them does."""
    for index in range(1, pool.count):
        if not atomic_replace(pool.desks[index].state, LOOKING, CLAIMED):
            for before in range(1, index):
                atomic_store(pool.desks[before].state, LOOKING)
            return False
    return True


@kernel
def call_claimed(pool: Pool, function: int, job: int, arguments: int) -> None:
    """A call of members who have been claimed."""
    atomic_store(pool.desks.working, pool.count)
    for index in range(pool.count):
        give(pool.desks[index], pool.members[index], function, job, arguments)
    lead(pool.desks)
    judge_teams(pool.watch, pool.count)


@kernel
def call_in_pool(pool: Pool, count: int, is_long: bool, function: int, job: int, arguments: int) -> int:
    """What has become of a call, while the pool serves no other."""
    if begin_watch(pool.watch) == 0:
        return ALONE
    if not are_looking(pool, count):
        if is_long or pool.watch.are_kept:
            return PYTHON
        pool.wanted = count
        return ALONE
    if not claim(pool):
        return ALONE
    call_claimed(pool, function, job, arguments)
    return DONE


@kernel
def call_team(team: Team, count: int, is_long: bool, job: int, arguments: int) -> int:
    """As Pool.run, without Python: what has become of the call. Whoever would have to be woken for it sleeps on, unless
    it is long."""
    if count == 1 or atomic_exchange(team.pool.busy, 1) != 0:
        return ALONE
    outcome = call_in_pool(team.pool, count, is_long, team.run, job, arguments)
    atomic_store(team.pool.busy, 0)
    return outcome
