"""The extension module of csrc/python/bound_call.c."""

from collections.abc import Callable
from typing import Any

def bind(
    kernel: int, argument: int, is_long: bool, x: Any, y: Any, otherwise: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[[], None]]: ...
