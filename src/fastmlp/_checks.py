"""Checks of what users pass in: the description of a net, and arrays. _numbers.py has those of single numbers.

An array that a kernel can read as it is (float32, float64 or int64, native, aligned, any strides) passes
untouched; other real numbers are converted.
"""

import os
import reprlib
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

from fastmlp._activations import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS
from fastmlp._architecture import Architecture
from fastmlp._initializers import INITIALIZERS, Initializer
from fastmlp._losses import LOSS_CODES, OUTPUT_OF_LOSS, TARGET_RANGES, default_loss, losses_of
from fastmlp._numbers import check_real, check_whole

INT64 = np.dtype(np.int64)
KERNEL_DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64), INT64})
NET_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# Rows are padded to up to 16 times their length; beyond, sizes in bytes would overflow 63 bits.
MOST_PARAMETERS = 2**55


# --- the description of a net ---


def check_architecture(
    layer_sizes: Sequence[int],
    *,
    activation: str | Sequence[str],
    output_activation: str,
    loss: str | None,
    l1: float,
    l2: float,
    dropout: float | Sequence[float],
    dtype: Any,
) -> Architecture:
    """The arguments of `MLP` as an Architecture."""
    sizes = check_layer_sizes(layer_sizes)
    n_hidden = len(sizes) - 2
    output = check_name("output_activation", output_activation, OUTPUT_ACTIVATIONS)
    return Architecture(
        layer_sizes=sizes,
        activations=check_activations(activation, n_hidden),
        output_activation=output,
        loss=check_loss(loss, output),
        l1=check_real("l1", l1, at_least=0.0),
        l2=check_real("l2", l2, at_least=0.0),
        dropout=check_dropout(dropout, n_hidden),
        dtype=check_dtype(dtype),
    )


def check_layer_sizes(layer_sizes: Any) -> tuple[int, ...]:
    """At least two whole numbers of at least 1."""
    if isinstance(layer_sizes, (str, bytes)) or not isinstance(layer_sizes, Iterable):
        raise TypeError(f"layer_sizes is {layer_sizes!r}; expected a sequence such as [64, 100, 10]")
    sizes = tuple(check_whole(f"layer_sizes[{i}]", size, at_least=1) for i, size in enumerate(layer_sizes))
    if len(sizes) < 2:
        raise ValueError(f"layer_sizes is {list(sizes)}; expected at least the numbers of inputs and of outputs")
    if sum(n_out * (n_in + 1) for n_in, n_out in zip(sizes, sizes[1:])) > MOST_PARAMETERS:
        raise ValueError(f"layer_sizes has {reprlib.repr(list(sizes))}; so many parameters no memory can hold")
    return sizes


def check_path(name: str, value: Any) -> str:
    """A path as text."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} is {value!r}; expected a path")
    if "\0" in path:
        raise ValueError(f"{name} is {path!r}; a path has no null character")
    return path


def check_name(name: str, value: Any, choices: Sequence[str]) -> str:
    """One out of ``choices``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
    return value


def check_activations(activation: Any, n_hidden: int) -> tuple[str, ...]:
    """One name for all hidden layers, or one per hidden layer."""
    if isinstance(activation, str):
        return (check_name("activation", activation, HIDDEN_ACTIVATIONS),) * n_hidden
    if not isinstance(activation, Iterable):
        raise TypeError(f"activation is {activation!r}; expected a name, or one per hidden layer")
    names = list(activation)
    if len(names) != n_hidden:
        raise ValueError(f"activation has {len(names)} names; expected {n_hidden}, one per hidden layer")
    return tuple(check_name(f"activation[{i}]", name, HIDDEN_ACTIVATIONS) for i, name in enumerate(names))


def check_loss(loss: Any, output_activation: str) -> str:
    """A loss that goes with the output; by default the one that belongs to it."""
    if loss is None:
        return default_loss(output_activation)
    check_name("loss", loss, tuple(LOSS_CODES))
    if loss not in losses_of(output_activation):
        own = OUTPUT_OF_LOSS.get(loss)
        hint = f"; {loss} needs output_activation {own!r}" if own else ""
        raise ValueError(
            f"loss is {loss!r}, which does not go with output_activation {output_activation!r}; that takes "
            f"{', '.join(losses_of(output_activation))}{hint}"
        )
    return str(loss)


def check_dropout(dropout: Any, n_hidden: int) -> tuple[float, ...]:
    """One rate in [0, 1) for all hidden layers, or one per hidden layer."""
    if isinstance(dropout, Real):
        return (check_real("dropout", dropout, at_least=0.0, below=1.0),) * n_hidden
    if isinstance(dropout, (str, bytes)) or not isinstance(dropout, Iterable):
        raise TypeError(f"dropout is {dropout!r}; expected a rate, or one per hidden layer")
    rates = list(dropout)
    if len(rates) != n_hidden:
        raise ValueError(f"dropout has {len(rates)} rates; expected {n_hidden}, one per hidden layer")
    return tuple(check_real(f"dropout[{i}]", rate, at_least=0.0, below=1.0) for i, rate in enumerate(rates))


def check_dtype(dtype: Any) -> np.dtype:
    """float32 or float64."""
    try:
        result: np.dtype = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype is {dtype!r}; expected float32 or float64") from error
    if dtype is None or result not in NET_DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected float32 or float64")
    return result


def check_initializer(initializer: Any) -> str | Initializer:
    """A name, or a callable."""
    if callable(initializer):
        own: Initializer = initializer
        return own
    return check_name("initializer", initializer, INITIALIZERS)


def spawn_streams(rng: Any) -> "list[np.random.Generator]":
    """The streams of a network, spawned from what users pass as ``rng``: initialization, shuffling, dropout."""
    try:
        return np.random.default_rng(rng).spawn(3)
    except (TypeError, ValueError) as error:
        expected = "None, an int of at least 0 or a numpy.random.Generator that can spawn"
        raise type(error)(f"rng is {rng!r}; expected {expected} ({error})") from error


# --- arrays ---


def check_numbers(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """An array of real numbers that kernels can read; what they cannot read is converted to ``dtype``."""
    array = value if type(value) is np.ndarray else as_array(name, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    if array.dtype not in KERNEL_DTYPES:
        array = array.astype(dtype)
    return array if array.flags.aligned else array.copy()


def as_array(name: str, value: Any) -> np.ndarray:
    """What is no array, or one of another library's, as an array."""
    if is_masked(value):
        raise TypeError(f"{name} is a masked array; fill or drop what is masked first")
    if is_sparse(value):
        value = value.toarray()
    elif is_sliced(value):
        value = value[:]  # of no use to a kernel but as a whole
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from error


def is_masked(value: Any) -> bool:
    """Whether it is a masked array. What is no subclass is not asked, for np.ma takes longer to import than fastmlp."""
    return isinstance(value, np.ndarray) and type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray)


def check_inputs(X: Any, n_features: int, dtype: np.dtype = NET_DTYPES[1]) -> tuple[np.ndarray, bool]:
    """X as a batch (n, n_features), and whether it was a single example (n_features,).

    ``dtype`` is what numbers that kernels cannot read are converted to: the net's. A sparse X becomes dense.
    """
    array = check_numbers("X", X, dtype)
    check_input_shape(array.shape, n_features)
    return (array, False) if array.ndim == 2 else (array[None], True)


def check_input_shape(shape: tuple[int, ...], n_features: int) -> None:
    """Raise ValueError unless X's shape is (n, n_features) or (n_features,)."""
    if len(shape) == 1 and n_features == 1 and shape != (1,):
        raise ValueError(
            f"X has shape {shape}; this network takes 1 feature, so a batch has shape (n, 1): pass X[:, None]"
        )
    if len(shape) not in (1, 2):
        hint = "; X.reshape(len(X), -1) makes one row of each example" if len(shape) > 2 else ""
        raise ValueError(
            f"X has {len(shape)} dimensions; expected shape (n, {n_features}), or ({n_features},) for one example{hint}"
        )
    if shape[-1] != n_features:
        raise ValueError(f"X has {shape[-1]} features; this network takes {n_features}")


def check_targets(y: Any, n: int, architecture: Architecture, *, single: bool = False) -> np.ndarray:
    """Targets as kernels read them: class indices (n,) in int64, or real numbers (n, n_L).

    With ``single``, those of one example without the first axis are taken too.
    """
    array = check_numbers("y", y, architecture.dtype)
    n_outputs = architecture.layer_sizes[-1]
    if single and array.shape in ((), (n_outputs,)) and (architecture.takes_classes or array.size == n_outputs):
        array = array[None]
    if architecture.takes_classes and array.ndim == 1:
        check_length("y", array, n)
        return check_classes(array, n_outputs)
    if array.ndim == 1 and n_outputs == 1:
        array = array.reshape(-1, 1)
    expected = f"(n, {n_outputs})"
    if architecture.takes_classes:
        expected = f"(n,) with classes or {expected} with probabilities"
    elif n_outputs == 1:
        expected = f"(n,) or {expected}"
    if array.ndim != 2 or array.shape[1] != n_outputs:
        raise ValueError(f"y has shape {array.shape}; expected shape {expected}")
    check_length("y", array, n)
    check_target_range(array, architecture.loss)
    return array


def check_some(n: int) -> None:
    """Raise ValueError unless there are examples."""
    if n == 0:
        raise ValueError("X has no examples")


def check_length(name: str, array: Any, n: int) -> None:
    """Raise ValueError unless ``array`` has an entry for each of the n examples."""
    if array.shape[0] != n:
        raise ValueError(f"{name} has {array.shape[0]} rows; X has {n}")


def check_classes(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Class indices (n,) in int64, all in range."""
    classes = y
    if y.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # NaN is no class; the next line says so
            classes = y.astype(np.int64)
        if not np.array_equal(classes, y):
            raise ValueError("y has classes that are no whole numbers; probabilities have shape (n, n_classes)")
    # As unsigned numbers the negative ones are large: one pass finds both kinds of stray.
    if classes.size and np.maximum.reduce(classes.view(np.uint64)) >= n_classes:
        stray = classes.min() if classes.min() < 0 else classes.max()
        raise ValueError(f"y has class {stray}; this network has classes 0 to {n_classes - 1}")
    return classes


def check_target_range(y: np.ndarray, loss: str) -> None:
    """Raise ValueError where a real target makes no sense for the loss. NaN is let through, to the loss."""
    if loss not in TARGET_RANGES or not y.size:
        return
    low, high = TARGET_RANGES[loss]
    # As unsigned numbers the negative ones are large: one pass does for whole numbers, which nearly all are right.
    if y.dtype.kind == "i" and np.maximum.reduce(y.view(np.uint64), axis=None) <= min(high, 2**63 - 1):
        return
    if y.min() < low or y.max() > high:
        stray = y.min() if y.min() < low else y.max()
        expected = "numbers from 0 to 1" if high == 1.0 else "no negative numbers"
        raise ValueError(f"y has {stray:g} in it; the loss {loss} takes {expected}")


def check_sample_weight(sample_weight: Any, n: int) -> np.ndarray | None:
    """Finite weights (n,) of any sign, contiguous float64."""
    if sample_weight is None:
        return None
    array = check_numbers("sample_weight", sample_weight, NET_DTYPES[1])
    if array.shape != (n,):
        raise ValueError(f"sample_weight has shape {array.shape}; expected ({n},), one for each example")
    weight = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(weight).all():
        raise ValueError("sample_weight has NaN or infinity in it; expected finite numbers")
    return weight


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, *others: np.ndarray) -> None:
    """Raise an error unless kernels can write results into ``out``, apart from ``others``."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; expected an array of shape {shape}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}; this network computes in {dtype}")
    if not out.flags.carray:
        raise ValueError("out must be writeable, aligned and C-contiguous")
    if any(np.may_share_memory(out, other) for other in others):
        raise ValueError("out shares memory with X or with the network's parameters")


def check_parameter_array(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Real numbers of exactly this shape."""
    array = check_numbers(name, value, NET_DTYPES[1])
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    return array


def check_scaling(name: str, value: Any, n_features: int) -> np.ndarray:
    """A finite number or one per feature, as (n_features,) in float64."""
    array = check_numbers(name, value, NET_DTYPES[1]).astype(np.float64)
    if array.shape not in ((), (n_features,)):
        raise ValueError(f"{name} has shape {array.shape}; expected a number or shape ({n_features},)")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinity in it; expected finite numbers")
    return np.broadcast_to(array, (n_features,))


# --- what is no array: anything that has the methods of SciPy's sparse arrays, or gives its rows in slices ---


def is_sparse(X: Any) -> TypeGuard[Any]:
    """Whether X is a sparse array or matrix."""
    return hasattr(X, "tocsr") and hasattr(X, "toarray")


def is_sliced(values: Any) -> TypeGuard[Any]:
    """Whether ``values`` is read slice by slice, as a data set of h5py or zarr is: no array in memory, but with a shape
    of one or two dimensions, a dtype of NumPy's, and rows for an index that is a slice.

    Arrays of other libraries lie in memory and say so by ``__dlpack__``; those of pandas take indices of other kinds.
    """
    if isinstance(values, (np.ndarray, np.generic, list, tuple)):
        return False
    if not all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    if is_sparse(values) or any(hasattr(values, name) for name in ("__array_interface__", "__dlpack__", "iloc")):
        return False
    return isinstance(values.dtype, np.dtype) and isinstance(values.shape, tuple) and len(values.shape) in (1, 2)
