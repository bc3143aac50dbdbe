"""One case at one task: every library that can do it, checked and then timed in turns, each in its own process."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from peers import OURS, can_do
from worker import Worker

from fastmlp._bench._rounds import N_ROUNDS, Timer, time_in_rounds
from fastmlp._bench._tasks import flop_of, steps_per_call
from fastmlp._bench._workload import Workload

SECONDS = 0.25
# Calls of more operations are not timed in as many rounds: ten libraries take a second for each round.
LARGE_FLOP, FEWER_ROUNDS = 1e9, 5


@contextmanager
def team(names: Sequence[str], n_threads: int) -> Iterator[list[Worker]]:
    """A worker for each contender, and for peers one with a single thread, too."""
    with ExitStack() as stack:
        workers = []
        for name in names:
            for n in {n_threads} if name.startswith(OURS) else sorted({1, n_threads}):
                workers.append(Worker(name, n))
                stack.callback(workers[-1].close)
        yield workers


def prepare(workers: Sequence[Worker], task: str, workload: Workload) -> list[Worker]:
    """Those that can do the task, ready for it; raises Failed where one computes something wrong."""
    able = [worker for worker in workers if can_do(worker.name, task, workload.dtype)]
    for worker in able:
        worker.prepare(task, workload)
    return able


def race(ready: Sequence[Worker], task: str, workload: Workload, **others: Timer) -> dict[str, float]:
    """Median seconds of one step, batch or example, and of one run of the other timers.

    A peer is given with the better of its numbers of threads.
    """
    timers: dict[object, Timer] = {(worker.name, worker.n_threads): worker for worker in ready}
    n_steps = steps_per_call(task, workload)
    n_rounds = FEWER_ROUNDS if n_steps * flop_of(task, workload) > LARGE_FLOP else N_ROUNDS
    medians = time_in_rounds(timers | others, SECONDS, n_rounds)
    seconds = {name: medians[name] for name in others}
    for worker in ready:
        taken = medians[worker.name, worker.n_threads] / n_steps
        seconds[worker.name] = min(taken, seconds.get(worker.name, taken))
    return seconds


def best_peer(seconds: dict[str, float]) -> str:
    """The fastest that is not fastmlp."""
    return min((name for name in seconds if not name.startswith(OURS)), key=seconds.__getitem__)
