"""Python threads that work on one call together, and where their memory of it lies. As csrc/team.c; what runs without
Python is in _team.py."""

import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from fastmlp._backends._addresses import address
from fastmlp._backends._numba._places import Places

_MEMBER = np.dtype(
    [("index", "i8"), ("count", "i8"), ("arrived", "u8"), ("meetings", "u8"), ("late", "u8"), ("give_way", "u8")]
)
_DESK = np.dtype(
    [
        ("posted", "u8"),
        ("state", "u8"),
        ("working", "u8"),
        ("seen", "i8"),
        ("function", "u8"),
        ("job", "i8"),
        ("arguments", "u8"),
        ("member", "u8"),
    ]
)
_POOL = np.dtype(
    [("busy", "u8"), ("desks", "u8"), ("members", "u8"), ("count", "i8"), ("trust", "i8"), ("wanted", "i8")]
)
ASLEEP, LOOKING, _, ROUSED = range(4)  # as in _team.py
MOST_THREADS = 62  # `post` has a bit for each


@functools.cache
def _give_way() -> int:
    """The address of the system's function that lets another thread run."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Members:
    """A team's members as kernels see them, by their addresses."""

    def __init__(self, count: int) -> None:
        self._meeting_place = np.zeros(24, dtype=np.int64)  # the words on different cache lines
        self._members = np.zeros(count, dtype=_MEMBER)
        self._members["index"] = np.arange(count)
        self._members["count"] = count
        self._members["arrived"] = address(self._meeting_place)
        self._members["meetings"] = address(self._meeting_place[8:])
        self._members["late"] = address(self._meeting_place[16:])
        if count > 1:
            self._members["give_way"] = _give_way()
        first = address(self._members)
        self.addresses = [first + i * _MEMBER.itemsize for i in range(count)]

    def forgive(self) -> None:
        """Nobody has waited for long so far."""
        self._meeting_place[16] = 0


# A member that had a processor for less than five eighths of the time shares it with something else: callers then work
# alone for ALONE times as long as it went without, so that a twentieth is lost, and not half. Times are in seconds.
NEEDED_SHARE, ALONE, MOST_ALONE = 0.625, 20, 1.0
WATCHED = 0.02  # work of the threads after which they are judged: several of the pauses of an idle machine, of 4 ms
TRUST = 5  # waits of more than 20 us until calls are judged, which takes 12 us of each: single ones are the system's
CLOSE = 50e-6  # a short call so soon after another is followed by one that finds its members looking


class Desks:
    """Where the members of teams find their parts."""

    def __init__(self) -> None:
        self._working = np.zeros(16, dtype=np.int64)
        self._words = np.zeros((MOST_THREADS, 32), dtype=np.int64)  # two for each, on cache lines of their own
        self._records = np.zeros(MOST_THREADS, dtype=_DESK)
        rows = address(self._words) + np.arange(MOST_THREADS) * self._words.strides[0]
        self._records["posted"], self._records["state"] = rows, rows + self._words.itemsize
        self._records["working"] = address(self._working)
        self._words[0, 1] = LOOKING  # the caller does
        self._first = address(self._records)

    def address(self, index: int) -> int:
        return self._first + index * _DESK.itemsize

    def rouse(self, index: int) -> bool:
        """Whether a member is to be woken, to look for work that may come; nobody else may give it any meanwhile."""
        if self._words[index, 1] != ASLEEP:
            return False
        self._words[index, 1] = ROUSED
        return True

    def is_done(self) -> bool:
        """Whether the caller's part is, and all others are."""
        return bool(self._working[0] == 0 and self._words[0, 0] == self._records[0]["seen"])


class Pool:
    """Threads that wait for work; they serve one call at a time."""

    def __init__(self) -> None:
        self._busy = np.zeros(16, dtype=np.int64)
        self._record = np.zeros(1, dtype=_POOL)  # stays: calls have its address
        self._record["busy"] = address(self._busy)
        self.address = address(self._record)
        self.wanted = self._record["wanted"].data  # a team that would have been of use to the last calls, or 0
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self._busy[0] = 0
        self._desks = Desks()
        self._record["desks"] = self._desks.address(0)
        self._record["count"] = self._record["wanted"] = 0
        self._record["trust"] = TRUST
        self._teams: dict[int, Members] = {}
        self._calls: list[SimpleQueue[None]] = []  # by which threads are woken
        self._clocks: list[Callable[[], float]] = [time.thread_time]  # seconds that each had a processor
        self._alone_until = self._worked = self._missed = self._ended = 0.0

    def run(self, kernels: dict[str, Any], count: int, function: int, job: int, arguments: int) -> bool:
        """function(job, arguments, member), a C function by its address, for each member of a team of up to ``count``
        threads at the same time; ``kernels`` has those of _team.py.

        False, and nothing done, while the pool serves another call, and where threads cannot be made or their cores are
        busy.
        """
        if time.perf_counter() < self._alone_until or not kernels["enter"](self.address):
            return False
        try:
            count = self._hire(count, kernels["serve"])
            if count == 1:
                return False
            clocks = self._clocks[:count]
            begun, used = time.perf_counter(), [clock() for clock in clocks]
            self._lead(kernels, count, function, job, arguments)
            taken = time.perf_counter() - begun
            self._judge(taken, taken - min(clock() - before for clock, before in zip(clocks, used)))
        finally:
            kernels["leave"](self.address)
        return True

    def rouse(self, kernels: dict[str, Any], begun: float) -> None:
        """After a short call for which the members of a team slept: has them look for the next one, if it began soon
        after the last such call."""
        count, self.wanted[0] = self.wanted[0], 0
        last, self._ended = self._ended, time.perf_counter()
        if count == 0 or begun - last > CLOSE or begun < self._alone_until:  # 0: another Python thread has done it
            return
        if not kernels["enter"](self.address):
            return
        try:
            count = self._hire(count, kernels["serve"])
            self._members(count)
            self._wake(count, sum(self._desks.rouse(index) << index for index in range(1, count)))
        finally:
            kernels["leave"](self.address)

    def _lead(self, kernels: dict[str, Any], count: int, *part: int) -> None:
        """Whatever is raised meanwhile, none may still be at work when the call returns."""
        desks = self._desks.address(0)
        try:
            self._wake(count, kernels["post"](desks, self._members(count), count, *part))
            kernels["lead"](desks)
        except BaseException:
            self._wake(count, -1)  # perhaps for nothing
            while not self._desks.is_done():
                with suppress(BaseException):  # one is enough
                    kernels["lead"](desks)
            raise

    def _members(self, count: int) -> int:
        if count not in self._teams:
            self._teams[count] = Members(count)
        members = self._teams[count].addresses[0]
        self._record["members"], self._record["count"] = members, count
        return members

    def _wake(self, count: int, sleeping: int) -> None:
        """The members for which a bit is set."""
        if sleeping:
            self._places = Places(count)
            for index in range(1, count):
                if sleeping >> index & 1:
                    self._calls[index - 1].put(None)

    def _judge(self, worked: float, missed: float) -> None:
        """Takes note of a call, and after some of them decides whether teams are worth it."""
        self._worked += worked
        self._missed += missed
        if self._worked >= WATCHED:
            if self._missed > (1 - NEEDED_SHARE) * self._worked:
                self._alone_until = time.perf_counter() + min(ALONE * self._missed, MOST_ALONE)
            else:
                for team in self._teams.values():
                    team.forgive()
                self._record["trust"] = TRUST
            self._worked = self._missed = 0.0

    def _hire(self, count: int, serve: Callable[[int], None]) -> int:
        """Makes threads up to a team of ``count``; returns the team that there is."""
        count = min(count, MOST_THREADS)
        while len(self._calls) + 1 < count:
            index, calls = len(self._calls) + 1, SimpleQueue[None]()
            work = partial(self._serve, index, calls, partial(serve, self._desks.address(index)))
            thread = threading.Thread(target=work, name="fastmlp", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more
                break
            self._calls.append(calls)
            self._clocks.append(_clock_of(thread))
        return min(count, len(self._calls) + 1)

    def _serve(self, index: int, calls: "SimpleQueue[None]", serve: Callable[[], None]) -> None:
        while True:
            calls.get()
            self._places.take(index)
            serve()


def _clock_of(thread: threading.Thread) -> Callable[[], float]:
    """How long a thread had a processor; where the system does not tell, as if it always had one."""
    if hasattr(time, "pthread_getcpuclockid") and thread.ident is not None:
        return partial(time.clock_gettime, time.pthread_getcpuclockid(thread.ident))
    return time.perf_counter
