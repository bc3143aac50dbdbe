"""Python threads that work on one call together, and where their memory of it lies. As csrc/team.c; what runs without
Python is in _team.py."""

import ctypes
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

_MEMBER = np.dtype([("index", "i8"), ("count", "i8"), ("arrived", "u8"), ("meetings", "u8"), ("watch", "u8")])
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
    [("busy", "u8"), ("desks", "u8"), ("members", "u8"), ("count", "i8"), ("watch", "u8"), ("wanted", "i8")]
)
_WATCH = np.dtype(
    [
        (name, "i8")
        for name in (
            "time", "rest", "unit", "clock", "which", "give_way",
            "begun", "since", "worked", "waited", "alone", "alone_until", "are_kept",
        )
    ]
)  # fmt: skip
ASLEEP, LOOKING, _, ROUSED = range(4)  # as in _team.py
MOST_THREADS = 62  # `post` has a bit for each
CLOSE = 50e-6  # seconds; a short call so soon after another is followed by one that finds its members looking


def _new_watch() -> np.ndarray:
    """A record for _watch.py, with what it needs of the system."""
    watch = np.zeros(1, dtype=_WATCH)
    if sys.platform == "win32":
        system, frequency = ctypes.windll.kernel32, ctypes.c_int64()
        system.QueryPerformanceFrequency(ctypes.byref(frequency))
        watch["unit"] = 10**9 // frequency.value
        clock, way = system.QueryPerformanceCounter, system.SwitchToThread
    else:
        system = ctypes.CDLL(None)
        watch["unit"], watch["which"] = 10**9, time.CLOCK_MONOTONIC
        clock, way = system.clock_gettime, system.sched_yield
    watch["clock"], watch["give_way"] = (ctypes.cast(function, ctypes.c_void_p).value for function in (clock, way))
    return watch


class Members:
    """A team's members as kernels see them, by their addresses."""

    def __init__(self, count: int, watch: int = 0) -> None:
        self._meeting_place = np.zeros(16, dtype=np.int64)  # the words on different cache lines
        self._members = np.zeros(count, dtype=_MEMBER)
        self._members["index"] = np.arange(count)
        self._members["count"] = count
        self._members["arrived"] = address(self._meeting_place)
        self._members["meetings"] = address(self._meeting_place[8:])
        self._members["watch"] = watch
        first = address(self._members)
        self.addresses = [first + i * _MEMBER.itemsize for i in range(count)]


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
        self._watch = _new_watch()
        self._record["watch"] = address(self._watch)
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
        for name in ("worked", "waited", "alone", "alone_until"):
            self._watch[name] = 0
        self._teams: dict[int, Members] = {}
        self._calls: list[SimpleQueue[None]] = []  # by which threads are woken
        self._ended = 0.0  # when the last short call did

    def keep_teams(self, always: bool) -> None:
        """For tests: whether threads take part whether it pays or not."""
        self._watch["are_kept"] = always

    def run(self, kernels: dict[str, Any], count: int, function: int, job: int, arguments: int) -> bool:
        """function(job, arguments, member), a C function by its address, for each member of a team of up to ``count``
        threads at the same time; ``kernels`` has those of _team.py.

        False, and nothing done, while the pool serves another call, and where threads cannot be made or their cores are
        busy.
        """
        if not kernels["enter"](self.address):
            return False
        try:
            count = self._hire(count, kernels["serve"])
            watch = self._record["watch"].item()
            if count == 1 or not kernels["begin_watch"](watch):
                return False
            self._lead(kernels, count, function, job, arguments)
            kernels["judge_teams"](watch, count)
        finally:
            kernels["leave"](self.address)
        return True

    def rouse(self, kernels: dict[str, Any], begun: float) -> None:
        """After a short call for which the members of a team slept: has them look for the next one, if it began soon
        after the last such call."""
        count, self.wanted[0] = self.wanted[0], 0
        last, self._ended = self._ended, time.perf_counter()
        if count == 0 or begun - last > CLOSE:  # 0: another Python thread has done it
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
            self._teams[count] = Members(count, self._record["watch"].item())
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
        return min(count, len(self._calls) + 1)

    def _serve(self, index: int, calls: "SimpleQueue[None]", serve: Callable[[], None]) -> None:
        while True:
            calls.get()
            self._places.take(index)
            serve()
