"""Checks of the arguments of fit."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp._backends._engine import Examples
from fastmlp._block_order import blocks_of
from fastmlp._checks import (
    KERNEL_DTYPES,
    check_input_shape,
    check_inputs,
    check_numbers,
    check_sample_weight,
    check_targets,
    is_masked,
    is_sliced,
    is_sparse,
)
from fastmlp._early_stopping import EarlyStopping
from fastmlp._history import RECORDABLE, History
from fastmlp._numbers import check_flag, check_whole
from fastmlp._row_blocks import comes_in_blocks
from fastmlp._sliced_data import SlicedData
from fastmlp._training_data import TrainingData

if TYPE_CHECKING:
    from fastmlp._checkpoint import Checkpoint
    from fastmlp._mlp import MLP

Callback = Callable[["MLP", History], Any]


class Reading(NamedTuple):
    """In which order examples are read."""

    shuffles: bool = False
    in_blocks: bool = False
    block_rows: Any = None


def check_shuffle(shuffle: Any) -> tuple[bool, bool]:
    """Whether to shuffle, and whether block by block."""
    if isinstance(shuffle, str):
        if shuffle != "blocks":
            raise ValueError(f"shuffle is {shuffle!r}; expected True, False or 'blocks'")
        return True, True
    return check_flag("shuffle", shuffle), False


def check_training_data(
    net: "MLP", X: Any, y: Any, sample_weight: Any, batch_size: Any, reading: Reading
) -> TrainingData:
    """The examples to train on. What an engine cannot read of X stays as it is, to be converted in pieces."""
    architecture = net._architecture
    in_slices = reading.in_blocks or not reading.shuffles
    sliced = [is_sliced(part) for part in (X, y, sample_weight)] if in_slices else [False]
    rows = X if sliced[0] else check_rows(X, architecture.layer_sizes[0], architecture.dtype)
    if sliced[0]:
        check_sliced(X, architecture.layer_sizes[0])
    n = int(rows.shape[0])
    if n == 0:
        raise ValueError("X has no examples")
    size = n if batch_size is None else check_whole("batch_size", batch_size, at_least=1)
    block_rows = None if reading.block_rows is None else check_whole("block_rows", reading.block_rows, at_least=1)
    if any(sliced):
        return SlicedData(Examples(rows, y, sample_weight), size, blocks_of(rows, block_rows), architecture)
    examples = Examples(rows, check_targets(y, n, architecture), check_sample_weight(sample_weight, n))
    converted = type(rows) is not np.ndarray or rows.dtype not in KERNEL_DTYPES or not rows.flags.aligned
    blocks = blocks_of(rows, block_rows) if reading.in_blocks else None
    return TrainingData(examples, size, converted, architecture.dtype, blocks)


def check_rows(X: Any, n_features: int, dtype: np.dtype) -> Any:
    """X of shape (n, n_features): an array, or a sparse matrix in a form that rows can be picked from."""
    if type(X) is np.ndarray and X.ndim == 2 and X.shape[1] == n_features and X.dtype in KERNEL_DTYPES:
        return X
    if is_sparse(X):
        rows = X.tocsr()
    elif isinstance(X, np.ndarray) and not is_masked(X):
        rows = np.asarray(X)
    else:
        rows = check_numbers("X", X, dtype)
    # No rows of X have its kind and its number of features, and nothing is converted.
    _, single = check_inputs(rows[:0] if rows.ndim > 1 else rows, n_features, dtype)
    if single:
        raise ValueError(f"X has shape {rows.shape}, that of one example; fit takes (n, {n_features}): pass X[None]")
    return rows


def check_sliced(X: Any, n_features: int) -> None:
    """Raise an error unless X, which gives its rows in slices, has n_features of real numbers."""
    check_input_shape(tuple(X.shape), n_features)
    if len(X.shape) != 2:
        raise ValueError(f"X has shape {tuple(X.shape)}, that of one example; fit takes (n, {n_features})")
    if np.dtype(X.dtype).kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; expected real numbers")


def check_validation_data(net: "MLP", validation_data: Any) -> Callable[[], float] | None:
    """What computes the loss on the validation data, as ``net.loss`` does."""
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise TypeError("validation_data must be a tuple (X, y) or (X, y, sample_weight)")
    X, y, sample_weight = (*validation_data, None)[:3]
    with naming("validation_data"):
        if comes_in_blocks(X):
            check_training_data(net, X, y, sample_weight, None, Reading())
            return lambda: net.loss(X, y, sample_weight)
        examples = net._checked_examples(X, y, sample_weight)
        return lambda: net._engine.loss(examples)


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Put the name of an argument before what is wrong with a part of it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}: {error}") from None


def check_early_stopping(early_stopping: Any, has_validation: bool) -> EarlyStopping | None:
    """An int is a patience; what it watches must be there."""
    if early_stopping is None:
        return None
    rule = early_stopping
    if not isinstance(rule, EarlyStopping):
        rule = EarlyStopping(check_whole("early_stopping", rule, at_least=1))
    if rule.monitor == "val_loss" and not has_validation:
        raise ValueError(
            "early_stopping watches val_loss, but there is no validation_data; "
            "give it, or EarlyStopping(patience, monitor='loss')"
        )
    return rule


def check_callbacks(callbacks: Any) -> "tuple[tuple[Callback, ...], tuple[Checkpoint, ...]]":
    """The functions and the checkpoints among one callback, or any number of them in a row."""
    if callbacks == ():
        return (), ()
    from fastmlp._checkpoint import Checkpoint  # imported when there are callbacks: it takes longer than this module

    single = callable(callbacks) or isinstance(callbacks, Checkpoint)
    if not single and not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {callbacks!r}; expected functions of (net, history), or a Checkpoint")
    given = (callbacks,) if single else tuple(callbacks)
    for position, callback in enumerate(given):
        if not callable(callback) and not isinstance(callback, Checkpoint):
            raise TypeError(f"callbacks[{position}] is {callback!r}; expected a function of (net, history)")
    checkpoints = tuple(callback for callback in given if isinstance(callback, Checkpoint))
    return tuple(callback for callback in given if not isinstance(callback, Checkpoint)), checkpoints


def new_history(record: Any) -> History:
    """An empty one that keeps what ``record`` names: one or several out of RECORDABLE."""
    names = record
    if type(record) is not tuple:
        names = (record,) if isinstance(record, str) or not isinstance(record, Iterable) else tuple(record)
    for name in names:
        if name not in RECORDABLE:
            raise ValueError(f"record names {name!r}; expected any of {', '.join(map(repr, RECORDABLE))}")
    return History(_step_loss=[] if "steps" in names else None, _parameters=[] if "parameters" in names else None)


def check_rng(rng: Any) -> np.random.Generator:
    """A Generator as it is, or a new one from an int."""
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(check_whole("rng", rng, at_least=0))
