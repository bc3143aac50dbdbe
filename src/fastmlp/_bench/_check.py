"""Whether a contender computes what it should: a float64 computation by hand says what that is."""

import numpy as np

from fastmlp._bench._contenders import Contender, Make
from fastmlp._bench._handwritten import HandwrittenNet
from fastmlp._bench._workload import Array, Workload

# Large enough that three steps move the parameters by far more than they are rounded.
LEARNING_RATE = 0.1
N_STEPS = 3

# dtype: of the logits, relative to the largest; of the change of each array of parameters, relative to its norm.
# Where rounding takes z across 0, relu's derivative is another: once in a batch of "wide" that is 3e-3 of the change.
TOLERANCES = {"float32": (1e-4, 1e-2), "float64": (1e-11, 1e-9)}


class WrongResult(AssertionError):
    """A contender computes something else."""


def check(make: Make, task: str, workload: Workload) -> None:
    """Try what ``task`` will time on a contender that ``make`` sets up for a learning rate; raise WrongResult."""
    contender, expected = make(LEARNING_RATE), HandwrittenNet(workload, LEARNING_RATE, "float64")
    if task in ("forward", "one"):
        X, _ = workload.examples()
        _check_logits(contender, X if task == "forward" else X[0].copy(), expected, workload)
        return
    if task == "step":
        X, y = workload.examples()
        step = contender.step(X, y)
        for _ in range(N_STEPS):
            step()
            expected.step(X.astype("float64"), y)
    else:
        X, y = workload.examples(N_STEPS * workload.n)
        contender.epoch(X, y, np.random.default_rng(7))()
        expected.epoch(X.astype("float64"), y, workload.n, np.random.default_rng(7))
    _check_change(contender, expected, workload)


def _check_logits(contender: Contender, X: Array, expected: HandwrittenNet, workload: Workload) -> None:
    z = expected.logits(X.astype("float64"))
    error = np.abs(np.asarray(contender.logits(X)()).reshape(z.shape) - z).max() / np.abs(z).max()
    tolerance, _ = TOLERANCES[workload.dtype]
    if not error < tolerance:
        raise WrongResult(
            f"the logits of {workload.name} are off by {error:.1e} of the largest; {tolerance:g} is let pass"
        )


def _check_change(contender: Contender, expected: HandwrittenNet, workload: Workload) -> None:
    """Every array of parameters must have moved as it does in float64, but for the rounding of the parameters."""
    _, tolerance = TOLERANCES[workload.dtype]
    eps = np.finfo(workload.dtype).eps
    layers = zip(contender.parameters(), expected.parameters, workload.parameters(), strict=True)
    for number, layer in enumerate(layers, start=1):
        for name, actual, target, start in zip("Wb", *layer):
            change = np.linalg.norm(target - start)
            error = np.linalg.norm(np.asarray(actual) - target)
            if not error <= tolerance * change + 4 * eps * np.linalg.norm(start):
                raise WrongResult(f"{name}_{number} of {workload.name} is off by {error / change:.1e} of its change")
