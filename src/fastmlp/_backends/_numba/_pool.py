"""Python threads that work on one call together, and where their memory of it lies."""

import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import numpy as np

from fastmlp._backends._addresses import address
from fastmlp._backends._numba._places import Places

_MEMBER = np.dtype([("index", "i8"), ("count", "i8"), ("arrived", "u8"), ("meetings", "u8"), ("give_way", "u8")])


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


class Pool:
    """Threads that wait for work; they serve one call at a time."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child has none of its parent's threads."""
        self._busy = threading.Lock()
        self._jobs: list[SimpleQueue[Callable[[], None]]] = []
        self._finished: SimpleQueue[None] = SimpleQueue()
        self._alone_until = self._worked = self._missed = 0.0

    def run(self, count: int, work: Callable[[int], None], prepare: Callable[[int], None]) -> None:
        """``prepare(n)``, then ``work(0)`` to ``work(n - 1)`` at the same time, n being ``count`` or, while the pool
        serves another call, where threads cannot be made or their cores are busy, fewer."""
        if time.perf_counter() < self._alone_until or not self._busy.acquire(blocking=False):
            prepare(1)
            work(0)
            return
        try:
            count = self._hire(count)
            prepare(count)
            places, begun = Places(count), time.perf_counter()
            missed: list[float] = []  # seconds that each member was without a processor

            def member(index: int) -> None:
                if index > 0:
                    places.take(index)
                used = time.thread_time()
                work(index)
                missed.append(time.perf_counter() - begun - (time.thread_time() - used))

            for index in range(1, count):
                self._jobs[index - 1].put(partial(member, index))
            try:
                member(0)
            finally:
                self._await(count - 1)
            self._judge(begun, max(missed))
        finally:
            self._busy.release()

    def _judge(self, begun: float, missed: float) -> None:
        """Takes note of a call, and after some of them decides whether teams are worth it."""
        now = time.perf_counter()
        self._worked += now - begun
        self._missed += missed
        if self._worked >= WATCHED:
            if self._missed > (1 - NEEDED_SHARE) * self._worked:
                self._alone_until = now + min(ALONE * self._missed, MOST_ALONE)
            self._worked = self._missed = 0.0

    def _hire(self, count: int) -> int:
        """Makes threads up to a team of ``count``; returns the team that there is."""
        while len(self._jobs) + 1 < count:
            jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
            thread = threading.Thread(target=_serve, args=(jobs, self._finished), name="fastmlp", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more
                break
            self._jobs.append(jobs)
        return min(count, len(self._jobs) + 1)

    def _await(self, count: int) -> None:
        """Whatever is raised meanwhile, none may still be at work when the call returns."""
        interrupt: BaseException | None = None
        while count:
            try:
                self._finished.get()
                count -= 1
            except BaseException as raised:
                interrupt = raised
        if interrupt is not None:
            raise interrupt


def _serve(jobs: "SimpleQueue[Callable[[], None]]", finished: "SimpleQueue[None]") -> None:
    while True:
        job = jobs.get()
        try:
            job()
        finally:
            finished.put(None)
