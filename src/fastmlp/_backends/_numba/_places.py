"""Which processors a team's threads run on. As csrc/team.c: they must not share one, but the system wakes threads where
another runs, and leaves them there."""

import ctypes
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Any


@cache
def _current_processor() -> Any:
    """The system's function that tells the calling thread's processor; None where there is none."""
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None


class Places:
    """The processors of a team's members, the calling thread being member 0."""

    def __init__(self, count: int) -> None:
        self._caller = threading.get_native_id()
        current = _current_processor()
        self._processors = [-1] * count if current is None else [current(), *[-1] * (count - 1)]

    def take(self, index: int) -> None:
        """The calling thread, one of the pool's, is a member: it leaves a processor that another runs on."""
        if sys.platform != "linux" or (current := _current_processor()) is None:
            return
        here = current()
        self._processors[index] = -1
        if here in self._processors:
            with suppress(OSError):
                others = os.sched_getaffinity(self._caller).difference(self._processors)
                if others:
                    os.sched_setaffinity(0, others)
                    here = current()
        self._processors[index] = here
