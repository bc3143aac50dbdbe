"""Checks of the arguments of MLPEnsemble: what may differ from member to member."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Examples
from fastmlp._checks import NET_DTYPES, check_inputs, check_numbers, check_sample_weight, check_targets
from fastmlp._numbers import check_real
from fastmlp._optimizers import Optimizer


def check_seeds(rng: Any, n_members: int) -> list[Any]:
    """What each member gets as ``rng``: one of a sequence, or a stream spawned from a single source."""
    if isinstance(rng, (Sequence, np.ndarray)) and not isinstance(rng, (str, bytes)):
        if len(rng) != n_members:
            raise ValueError(f"rng has {len(rng)} seeds; expected {n_members}, one for each member")
        return list(rng)
    try:
        return list(np.random.default_rng(rng).spawn(n_members))
    except (TypeError, ValueError) as error:
        expected = "None, an int of at least 0, a numpy.random.Generator that can spawn, or one of them for each"
        raise type(error)(f"rng is {rng!r}; expected {expected} ({error})") from error


def check_per_member(name: str, value: Any, n_members: int) -> list[float]:
    """A number of at least 0 for each member, from one for all or one each."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return [check_real(name, value, at_least=0.0)] * n_members
    values = list(value)
    if len(values) != n_members:
        raise ValueError(f"{name} has {len(values)} numbers; expected one, or {n_members}, one for each member")
    return [check_real(f"{name}[{i}]", each, at_least=0.0) for i, each in enumerate(values)]


def check_member_dropout(dropout: Any, n_members: int) -> list[Any]:
    """What each member gets as ``dropout``: a row of a table (K, hidden layers) or (K, 1), or the same for all."""
    if np.ndim(dropout) != 2:
        return [dropout] * n_members
    if len(dropout) != n_members:
        raise ValueError(f"dropout has {len(dropout)} rows; expected {n_members}, one for each member")
    return [row[0] if len(row) == 1 else row for row in np.asarray(dropout).tolist()]


def member_architectures(
    first: Architecture, l1: list[float], l2: list[float], dropout: list[tuple[float, ...]]
) -> tuple[Architecture, ...]:
    """The architecture of each member; ``first`` tells what is alike."""
    return tuple(replace(first, l1=one, l2=two, dropout=rates) for one, two, rates in zip(l1, l2, dropout, strict=True))


def check_ensemble_examples(X: Any, y: Any, sample_weight: Any, architecture: Architecture, n_members: int) -> Examples:
    """At least one example, the weights being (n,) or (K, n). What kernels cannot read is converted as a whole."""
    rows, single = check_inputs(X, architecture.layer_sizes[0], architecture.dtype)
    n = len(rows)
    if single:
        shape, n_in = rows.shape[1:], rows.shape[1]
        raise ValueError(f"X has shape {shape}, that of one example; expected (n, {n_in}): pass X[None]")
    if n == 0:
        raise ValueError("X has no examples")
    return Examples(rows, check_targets(y, n, architecture), check_member_weight(sample_weight, n, n_members))


def check_member_weight(sample_weight: Any, n: int, n_members: int) -> np.ndarray | None:
    """Finite weights, (n,) for all members or (K, n), contiguous float64."""
    if sample_weight is None or np.ndim(sample_weight) != 2:
        return check_sample_weight(sample_weight, n)
    array = check_numbers("sample_weight", sample_weight, NET_DTYPES[1])
    if array.shape != (n_members, n):
        raise ValueError(
            f"sample_weight has shape {array.shape}; expected ({n},), or ({n_members}, {n}) with a row for each member"
        )
    weight = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(weight).all():
        raise ValueError("sample_weight has NaN or infinity in it; expected finite numbers")
    return weight


def check_optimizers(optimizer: Any, n_members: int) -> Optimizer | list[Optimizer]:
    """One Optimizer, or one for each member, all of the same rule and no two the same object."""
    expected = f"one such as fastmlp.Adam(), or a sequence of {n_members}, one for each member"
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, (str, bytes)) or not isinstance(optimizer, Iterable):
        raise TypeError(f"optimizer is {optimizer!r}; expected {expected}")
    optimizers = list(optimizer)
    if len(optimizers) != n_members:
        raise ValueError(f"optimizer has {len(optimizers)} of them; expected {expected}")
    for i, each in enumerate(optimizers):
        if not isinstance(each, Optimizer):
            raise TypeError(f"optimizer[{i}] is {each!r}; expected one such as fastmlp.Adam()")
        if each._rule != optimizers[0]._rule:
            raise ValueError(f"optimizer[{i}] is {each!r}, optimizer[0] {optimizers[0]!r}; expected one rule for all")
    if len({id(each) for each in optimizers}) != n_members:
        raise ValueError("optimizer has the same object twice; each member needs one of its own, which keeps its state")
    return optimizers
