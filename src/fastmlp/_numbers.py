"""Checks of single numbers and flags among arguments; _checks.py has those of arrays."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_real(
    name: str, value: Any, *, at_least: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """``value`` as a finite float within its bounds; TypeError or ValueError that names it otherwise."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected a number")
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("at least", at_least), ("above", above), ("below", below))
        if bound is not None
    ]
    if (
        not math.isfinite(number)
        or (at_least is not None and number < at_least)
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    ):
        raise ValueError(f"{name} is {number:g}; expected a finite number {' and '.join(bounds)}".rstrip())
    return number


def check_whole(name: str, value: Any, *, at_least: int) -> int:
    """``value`` as an int that is not below its bound; TypeError or ValueError that names it otherwise."""
    # An abstract class takes ten times as long to ask as a type.
    if type(value) is not int and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}; expected a whole number")
    if value < at_least:
        raise ValueError(f"{name} is {value}; expected at least {at_least}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a bool; TypeError that names it otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; expected True or False")
    return bool(value)
