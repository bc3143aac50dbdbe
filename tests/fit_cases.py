"""Short fits in every combination of settings, whose bits must not depend on backend, threads or vector length.

``fit_cases.py [I/K]`` runs all of them, or a part, on both compiled backends with 1, 2, 3 and 8 threads and compares
bytes; test_same_bits.py runs `sample`, in which each two settings meet.
"""

import itertools
import sys
from typing import NamedTuple

import numpy as np
from support import DTYPES, HIDDEN_ACTIVATIONS, OUTPUTS_AND_LOSSES, make_examples, make_net

from fastmlp import SGD, Adam, AdamW, RMSprop
from fastmlp._backends import _plan

OPTIMIZERS = {
    "sgd": lambda: SGD(lr=0.005),
    "momentum": lambda: SGD(lr=0.005, momentum=0.9),
    "nesterov": lambda: SGD(lr=0.005, momentum=0.9, nesterov=True),
    "adam": lambda: Adam(lr=0.01),
    "adamw": lambda: AdamW(lr=0.01, weight_decay=0.1),
    "rmsprop": lambda: RMSprop(lr=0.01),
    "clipped sgd": lambda: SGD(lr=0.005, clip_norm=0.1),
    "clipped nesterov": lambda: SGD(lr=0.005, momentum=0.9, nesterov=True, clip_norm=0.1),
    "clipped adam": lambda: Adam(lr=0.01, clip_norm=0.1),
}
REGULARIZERS = {
    "none": {},
    "l1": {"l1": 1e-3},
    "l2": {"l2": 1e-2},
    "dropout": {"dropout": 0.3},
    "all": {"l1": 1e-3, "l2": 1e-2, "dropout": (0.1, 0.5)},
}
# Examples and batch size: updates tile by tile with a smaller batch at the end, and gradients summed over two blocks.
BATCHES = ((120, 50), (70, 33), (600, None))
# Widths that no vector, panel or tile divides.
SIZES = (5, 37, 18, 3)
THREADS = (1, 2, 3, 8)


class Case(NamedTuple):
    """The settings of a fit, by name."""

    output: str
    loss: str
    activation: str
    optimizer: str
    regularizer: str
    dtype: str


def all_cases():
    """Every combination."""
    for (output, loss), *names in itertools.product(
        OUTPUTS_AND_LOSSES, HIDDEN_ACTIVATIONS, OPTIMIZERS, REGULARIZERS, DTYPES
    ):
        yield Case(output, loss, *names)


def sample():
    """As many as there are pairs of output with loss and activation; the other settings go round, each in its time."""
    optimizers, regularizers = list(OPTIMIZERS), list(REGULARIZERS)
    for i, (output, loss) in enumerate(OUTPUTS_AND_LOSSES):
        for j, activation in enumerate(HIDDEN_ACTIVATIONS):
            optimizer, regularizer = optimizers[(i + j) % 9], regularizers[(i + 2 * j) % 5]
            yield Case(output, loss, activation, optimizer, regularizer, DTYPES[(j + i // 2) % 2])


def fit(case, backend, n_threads, batch):
    """The bytes of everything that a fit gives."""
    n, batch_size = batch
    net, _ = make_net(
        SIZES,
        scale=0.5,
        activation=case.activation,
        output_activation=case.output,
        loss=case.loss,
        dtype=case.dtype,
        backend=backend,
        n_threads=n_threads,
        **REGULARIZERS[case.regularizer],
    )
    X, y = make_examples(net, n, classes=batch_size is not None)
    history = net.fit(X, y, optimizer=OPTIMIZERS[case.optimizer](), epochs=2, batch_size=batch_size)
    assert np.isfinite(net.parameters).all(), f"{case} has diverged, which would hide differences"
    return net.parameters.tobytes() + np.array(history.loss).tobytes() + np.float64(net.loss(X, y)).tobytes()


def differences(case, runs, batch):
    """Which of some (backend, number of threads) do not give the bytes of the first."""
    expected = fit(case, *runs[0], batch)
    return [run for run in runs[1:] if fit(case, *run, batch) != expected]


def main(part="1/1"):
    _plan.THREAD_PRODUCTS = 1
    i, k = map(int, part.split("/"))
    runs = [(backend, n) for backend in ("c", "numba") for n in THREADS]
    tried = failed = 0
    for number, case in enumerate(all_cases()):
        if number % k == i - 1:
            # Eight runs of a case would repeat each other: one with every number of threads, by turns on the backends.
            turn = number // k
            some = [("c", 1), runs[1 + turn % 3], runs[4], runs[5 + turn // 3 % 3]]
            different = differences(case, some, BATCHES[turn // 9 % 3])
            tried += len(some)
            failed += len(different)
            for run in different:
                print(f"{case} differs on {run}", flush=True)
    print(f"{tried} fits of part {part}, {failed} with other bits")


if __name__ == "__main__":
    main(*sys.argv[1:])
