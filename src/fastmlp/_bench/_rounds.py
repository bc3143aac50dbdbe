"""Timing in rounds: every way in turn, again and again, so that a disturbance of the machine strikes all alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from itertools import repeat
from statistics import median
from typing import TypeVar

from fastmlp._bench._contenders import Way

N_ROUNDS = 9

# Runs a way so many times and returns the seconds that took.
Timer = Callable[[int], float]
Key = TypeVar("Key", bound=Hashable)


def stopwatch(way: Way) -> Timer:
    """Times ``way`` in this process; where it is to run several times, after one run that does not count."""

    def seconds(n: int) -> float:
        if n > 1:
            way()
        started = time.perf_counter()
        for _ in repeat(None, n):
            way()
        return time.perf_counter() - started

    return seconds


def time_in_rounds(timers: Mapping[Key, Timer], seconds: float, n_rounds: int = N_ROUNDS) -> dict[Key, float]:
    """The median seconds of one run of each way.

    Parameters
    ----------
    timers : mapping to Timer
        By name, or whatever tells them apart.
    seconds : float
        About how long each way is timed in all; one that takes longer than a round's share runs once a round.
    n_rounds : int
        The order rotates from one to the next.
    """
    n_runs = {key: _runs_within(timer, seconds / n_rounds) for key, timer in timers.items()}
    taken: dict[Key, list[float]] = {key: [] for key in timers}
    keys = list(timers)
    for _ in range(n_rounds):
        for key in keys:
            taken[key].append(timers[key](n_runs[key]) / n_runs[key])
        keys.append(keys.pop(0))
    return {key: median(times) for key, times in taken.items()}


def _runs_within(timer: Timer, seconds: float) -> int:
    """How many runs fill ``seconds``: found by doubling, which also warms up what is to be timed."""
    n = 1
    timer(n)
    while (taken := timer(n)) < seconds / 4:
        n *= 2
    return max(1, round(n * seconds / taken))
