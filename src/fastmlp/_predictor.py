"""A network bound to buffers of its own: the least that a call from Python can take."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Self

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import BoundForward, Engine
from fastmlp._checks import check_numbers
from fastmlp._numbers import check_whole

# Beyond, sizes in bytes would overflow.
MOST_ELEMENTS = 2**55


class _Run(partial[object]):
    """The call of a kernel, and what the kernel has the addresses of."""

    memory: object


class Predictor(partial[np.ndarray]):
    """A network with places for ``n`` examples and their outputs: what `MLP.bind` returns.

    ``p()`` computes the outputs of what was written into ``p.x`` and returns ``p.y``, the same array each time.
    ``p(x)`` copies x into ``p.x``, and returns the outputs as a new array. Both use the network's parameters as they
    are at the call, and go on doing so when the network itself is gone.

    ``run = p.run; run()`` computes ``p.y`` and returns nothing: the least there is, without a frame of Python's.

    For one thread at a time: calls side by side crash nothing, but mix up each other's numbers. Bind one for each.

    Attributes
    ----------
    x : ndarray of shape (n_0,), or (n, n_0) for n > 1
        Of the network's dtype, zeros at first; ``p.x[:] = ...`` writes it.
    y : ndarray of shape (n_L,), or (n, n_L)
        The outputs of the last call.
    run : callable without arguments
        What ``p()`` calls.

    Raises
    ------
    TypeError, ValueError
        If x is not real numbers of the shape of ``p.x``; nothing is computed then.
    """

    # A partial takes the function below without looking for a method __call__.

    _x: np.ndarray
    _y: np.ndarray
    _run: "_Run"
    _description: str

    def __new__(cls, bound: BoundForward, description: str) -> Self:
        is_single = len(bound.X) == 1
        x, y = (bound.X[0], bound.out[0]) if is_single else (bound.X, bound.out)
        run = _Run(bound.run, bound.argument)
        run.memory = bound.memory
        function = _function(run, x, y)
        if bound.as_builtin is not None:
            function, builtin_run = bound.as_builtin(x, y, function)
            run = _Run(builtin_run)
            run.memory = bound.memory
        predictor = super().__new__(cls, function)
        predictor._x, predictor._y, predictor._run, predictor._description = x, y, run, description
        return predictor

    @property
    def x(self) -> np.ndarray:
        return self._x

    @property
    def y(self) -> np.ndarray:
        return self._y

    @property
    def run(self) -> Callable[[], object]:
        return self._run

    def __repr__(self) -> str:
        examples = f"{len(self._x)} examples" if self._x.ndim == 2 else "1 example"
        return f"<predictor for {examples} of {self._description}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a predictor cannot be copied or pickled; copy the network, and bind it again")


def _function(run: _Run, place: np.ndarray, y: np.ndarray) -> Callable[..., np.ndarray]:
    call, (argument,) = run.func, run.args  # called directly
    copy, shape, dtype = y.copy, place.shape, place.dtype
    # To assign to a memoryview checks dtype and shape on the way: 180 ns, where to ask for them and assign takes 400.
    memory: Any = place.data if place.ndim == 1 else None
    everything, ndarray = slice(None), np.ndarray

    def assign(x: Any) -> None:
        array = check_numbers("x", x, dtype)
        if array.shape != shape:
            raise ValueError(f"x has shape {array.shape}; this predictor takes {shape}")
        place[...] = array

    def predict(x: Any = None) -> np.ndarray:
        if x is None:
            call(argument)
            return y
        if memory is not None and type(x) is ndarray:
            try:
                memory[everything] = x
            except (ValueError, NotImplementedError):  # of another dtype or shape
                assign(x)
        else:
            assign(x)
        call(argument)
        return copy()

    predict.memory = run.memory  # type: ignore[attr-defined]
    return predict


def bind(engine: Engine, n: int, architecture: Architecture) -> Predictor:
    """The predictor of a network, given its engine."""
    n = check_whole("n", n, at_least=1)
    if n * max(architecture.layer_sizes) > MOST_ELEMENTS:
        raise ValueError(f"n is {n}; so many examples no memory can hold")
    return Predictor(engine.bind(n), "-".join(map(str, architecture.layer_sizes)))
