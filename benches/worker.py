"""A contender in a process of its own, so that no library's waiting threads slow another, and each has its environment.

The parent sends ("prepare", task, workload) or ("time", n) and gets back ("done", value) or ("failed", message).
"""

import os
import pickle
import subprocess
import sys
import time
from typing import Any

from fastmlp._bench._environment import with_threads
from fastmlp._bench._workload import Workload

# Threads that wait for more work spin for a while, and would slow the next library.
ASLEEP_AFTER = 0.05


class Failed(Exception):
    """A library could not do what was asked of it, or did it wrong."""


class Worker:
    """The parent's side; also a Timer of what was prepared last."""

    def __init__(self, name: str, n_threads: int) -> None:
        environment = with_threads(n_threads)
        if n_threads == 1:
            environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        self.name, self.n_threads = name, n_threads
        self.process = subprocess.Popen(
            [sys.executable, __file__, name, str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # an interruption of the benches ends the workers through their pipes
        )

    def ask(self, *request: object) -> Any:
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            outcome, value = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            raise Failed(f"{self.name}: its process ended with exit status {self.process.wait()}") from None
        if outcome == "failed":
            raise Failed(f"{self.name}: {value}")
        return value

    def prepare(self, task: str, workload: Workload) -> None:
        """Check the task and set up what `__call__` times; raises Failed."""
        self.ask("prepare", task, workload)

    def __call__(self, n: int) -> float:
        """Seconds that ``n`` runs take."""
        seconds = self.ask("time", n)
        if self.n_threads > 1:
            time.sleep(ASLEEP_AFTER)
        return seconds

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def serve(name: str, n_threads: int) -> None:
    """The worker's side, until the parent closes the pipe."""
    from peers import maker

    from fastmlp._bench._check import check
    from fastmlp._bench._rounds import stopwatch
    from fastmlp._bench._tasks import way_of

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between

    timer = None

    def prepare(task: str, workload: Workload) -> None:
        nonlocal timer
        make = maker(name, workload, n_threads)
        check(make, task, workload)
        timer = stopwatch(way_of(make, task, workload))

    while True:
        try:
            what, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = "done", prepare(*arguments) if what == "prepare" else timer(*arguments)
        except Exception as error:  # of any library
            answer = "failed", f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
