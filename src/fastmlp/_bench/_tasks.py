"""The tasks a contender is timed at: what one call of each does, and how many operations that takes."""

import numpy as np

from fastmlp._bench._contenders import Make, Way
from fastmlp._bench._workload import Workload

TASKS = {
    "step": "one training step, called from Python",
    "fit": "one step out of a whole epoch, shuffled",
    "forward": "the logits of a batch",
    "one": "the logits of a single example",
}

# Small, so that numbers stay ordinary over thousands of steps on the same examples.
LEARNING_RATE = 1e-3
# An epoch has so many steps at the most, so many at the least, and between them takes about so many operations.
MOST_STEPS, LEAST_STEPS, EPOCH_FLOP = 1024, 2, 5e8


def steps_per_call(task: str, workload: Workload) -> int:
    """How many steps a call of the task takes; what is not training counts as one."""
    if task != "fit":
        return 1
    return max(LEAST_STEPS, min(MOST_STEPS, int(EPOCH_FLOP / workload.step_flop)))


def flop_of(task: str, workload: Workload) -> int:
    """The operations of one step, of one batch or of one example."""
    if task == "one":
        return workload.forward_flop // workload.n
    return workload.forward_flop if task == "forward" else workload.step_flop


def way_of(make: Make, task: str, workload: Workload) -> Way:
    """What is timed: the task on a new contender."""
    contender = make(LEARNING_RATE)
    X, y = workload.examples(workload.n * steps_per_call(task, workload))
    if task == "step":
        return contender.step(X, y)
    if task == "fit":
        return contender.epoch(X, y, np.random.default_rng(0))
    return contender.logits(X if task == "forward" else X[0].copy())
