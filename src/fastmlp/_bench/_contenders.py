"""Contenders: libraries set up for a workload. Here are the two that need nothing more than fastmlp does."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

import fastmlp
from fastmlp._bench._handwritten import HandwrittenNet
from fastmlp._bench._workload import Array, Workload

Way = Callable[[], Any]


class Contender(Protocol):
    """A library with the workload's parameters, plain SGD and its own copies of the data.

    What is timed comes as a function without arguments, so that no conversion of the data is timed.
    """

    def logits(self, X: Array) -> Way:
        """A function that computes, and returns, the logits of X (n, n_0), or of one example (n_0,)."""

    def step(self, X: Array, y: Array) -> Way:
        """A function that takes one step, loss included."""

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        """A function that takes a step on every batch, in the order of ``rng.permutation(n)``."""

    def parameters(self) -> list[tuple[Array, Array]]:
        """W_l (n_l, n_{l-1}) and b_l (n_l,) of every layer as they are now."""


# Sets up a contender for a learning rate.
Make = Callable[[float], Contender]


class FastMLP:
    """fastmlp itself, with one of its backends."""

    def __init__(self, workload: Workload, learning_rate: float, n_threads: int | None, backend: str) -> None:
        self.net = workload.net(backend, n_threads)
        self.optimizer = fastmlp.SGD(lr=learning_rate)
        self.batch_size = workload.n

    def logits(self, X: Array) -> Way:
        return partial(self.net.logits, X)

    def step(self, X: Array, y: Array) -> Way:
        return partial(self.optimizer.step, self.net, X, y)

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        return partial(self.net.fit, X, y, optimizer=self.optimizer, batch_size=self.batch_size, rng=rng)

    def parameters(self) -> list[tuple[Array, Array]]:
        return list(zip(self.net.weights, self.net.biases))


class HandwrittenNumPy:
    """What one would write without a library; BLAS takes its number of threads from the environment."""

    def __init__(self, workload: Workload, learning_rate: float) -> None:
        self.net = HandwrittenNet(workload, learning_rate)
        self.batch_size = workload.n

    def logits(self, X: Array) -> Way:
        return partial(self.net.logits, X)

    def step(self, X: Array, y: Array) -> Way:
        return partial(self.net.step, X, y)

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        return partial(self.net.epoch, X, y, self.batch_size, rng)

    def parameters(self) -> list[tuple[Array, Array]]:
        return self.net.parameters
