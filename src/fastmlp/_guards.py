"""Guard lines around arenas and between the buffers of a workspace, to find kernels that write where they must not.

Off unless FASTMLP_DEBUG=1 is set when the package is imported. They are looked at after every call of an engine, which
takes far longer then. Under gcc's address sanitizer they are poisoned as well: that finds reads, too.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

# Bytes on each side of an arena: as far as a kernel that is wrong by a few rows of a small layer reaches.
GUARD_BYTES = 512
# NaN in both dtypes: a guard that is read shows in the results.
_PATTERN = np.uint8(0xFF)

active = os.environ.get("FASTMLP_DEBUG", "") not in ("", "0")

# Of each guarded arena its memory, held weakly, and where in it the guards lie, in bytes.
_guarded: dict[int, tuple[weakref.ref[np.ndarray], list[slice]]] = {}
_lock = threading.RLock()  # an arena may be freed, and leave the list, while another one is entered


def guard(memory: np.ndarray, places: list[slice]) -> None:
    """Fill ``places`` of ``memory``, the bytes that own an arena, and watch them for as long as it lives."""
    key = id(memory)
    poison = _poisoner()
    for place in places:
        memory[place] = _PATTERN
        poison(memory.ctypes.data + place.start, place.stop - place.start)
    with _lock:
        known = _guarded[key][1] if key in _guarded else []
        _guarded[key] = (weakref.ref(memory, lambda _: _forget(key)), known + places)


def _forget(key: int) -> None:
    with _lock:
        _guarded.pop(key, None)


def _poisoner() -> Callable[[int, int], object]:
    """What makes the address sanitizer report every use of some bytes by the kernels; without it, nothing."""
    try:
        poison = ctypes.CDLL(None).__asan_poison_memory_region
    except (AttributeError, TypeError):
        return lambda address, n: None
    poison.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return lambda address, n: poison(address, n)


def check(call: str) -> None:
    """Look at every guard, and mend it, so that no later call is blamed.

    Raises
    ------
    RuntimeError
        If one was overwritten.
    """
    with _lock:
        everything = list(_guarded.values())
    damage = []
    for reference, places in everything:
        memory = reference()
        if memory is None:
            continue
        for place in places:
            if memory[place].min() != _PATTERN:  # which is the largest of bytes
                written = np.flatnonzero(memory[place] != _PATTERN)
                memory[place] = _PATTERN
                damage.append(
                    f"{written.size} of the bytes {place.start} to {place.stop} of an arena of {memory.size} bytes, "
                    f"the first of them byte {place.start + written[0]}"
                )
    if damage:
        raise RuntimeError(f"{call} overwrote guards: {'; '.join(damage)}")


def check_after_each_call(engine: object) -> None:
    """From now on the engine looks at every guard after each of its calls."""
    for name in dir(type(engine)):
        if not name.startswith("_"):
            setattr(engine, name, _checked(name, getattr(engine, name)))


def _checked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*arguments: Any, **more: Any) -> Any:
        result = call(*arguments, **more)
        check(name)
        return result

    return checked
