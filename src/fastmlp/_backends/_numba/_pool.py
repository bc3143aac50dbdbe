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

_MEMBER = np.dtype([("index", "i8"), ("count", "i8"), ("arrived", "u8"), ("meetings", "u8"), ("give_way", "u8")])
_DESK = np.dtype(
    [
        ("posted", "u8"),
        ("is_awake", "u8"),
        ("working", "u8"),
        ("seen", "i8"),
        ("function", "u8"),
        ("job", "i8"),
        ("arguments", "u8"),
        ("member", "u8"),
    ]
)
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
        self._meeting_place = np.zeros(16, dtype=np.int64)  # the two words on different cache lines
        self._members = np.zeros(count, dtype=_MEMBER)
        self._members["index"] = np.arange(count)
        self._members["count"] = count
        self._members["arrived"] = address(self._meeting_place)
        self._members["meetings"] = address(self._meeting_place[8:])
        if count > 1:
            self._members["give_way"] = _give_way()
        first = address(self._members)
        self.addresses = [first + i * _MEMBER.itemsize for i in range(count)]


# A member that had a processor for less than five eighths of the time shares it with something else: callers then work
# alone for ALONE times as long as it went without, so that a twentieth is lost, and not half. Times are in seconds.
NEEDED_SHARE, ALONE, MOST_ALONE = 0.625, 20, 1.0
WATCHED = 0.02  # work of the threads after which they are judged: several of the pauses of an idle machine, of 4 ms


class Desks:
    """Where the members of teams find their parts."""

    def __init__(self) -> None:
        self._working = np.zeros(16, dtype=np.int64)
        self._words = np.zeros((MOST_THREADS, 32), dtype=np.int64)  # two for each, on cache lines of their own
        self._records = np.zeros(MOST_THREADS, dtype=_DESK)
        rows = address(self._words) + np.arange(MOST_THREADS) * self._words.strides[0]
        self._records["posted"], self._records["is_awake"] = rows, rows + self._words.itemsize
        self._records["working"] = address(self._working)
        self._words[0, 1] = 1  # the caller is
        self._first = address(self._records)

    def address(self, index: int) -> int:
        return self._first + index * _DESK.itemsize

    def is_done(self) -> bool:
        """Whether the caller's part is, and all others are."""
        return bool(self._working[0] == 0 and self._words[0, 0] == self._records[0]["seen"])


class Pool:
    """Threads that wait for work; they serve one call at a time."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self._busy = threading.Lock()
        self._desks = Desks()
        self._teams: dict[int, Members] = {}
        self._calls: list[SimpleQueue[None]] = []  # by which threads are woken
        self._clocks: list[Callable[[], float]] = [time.thread_time]  # seconds that each had a processor
        self._alone_until = self._worked = self._missed = 0.0

    def run(self, kernels: dict[str, Any], count: int, function: int, job: int, arguments: int) -> bool:
        """function(job, arguments, member), a C function by its address, for each member of a team of up to ``count``
        threads at the same time; ``kernels`` has those of _team.py.

        False, and nothing done, while the pool serves another call, and where threads cannot be made or their cores are
        busy.
        """
        if time.perf_counter() < self._alone_until or not self._busy.acquire(blocking=False):
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
            self._busy.release()
        return True

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
        return self._teams[count].addresses[0]

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
