"""The extension module of csrc/python/bound_call.c."""

from collections.abc import Callable
from typing import Any

import numpy as np

def address(array: np.ndarray | None, /) -> int: ...
def bind_forward(
    kernel: int,
    call: int,
    logits: bool,
    is_long: bool,
    memory: Any,
    x: Any,
    y: Any,
    otherwise: Callable[..., Any] | None,
    /,
) -> tuple[Callable[..., Any], Callable[[], None]]: ...
def bind_step(
    kernel: int,
    call: int,
    is_long: bool,
    memory: Any,
    inputs: int,
    x: Any,
    y: Any,
    highest: int | None,
    update: Any,
    table: Any,
    /,
) -> Callable[[Any, Any, Any, Any, int, Any], float | None]: ...
