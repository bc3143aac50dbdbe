"""The registry of backends: which exist, which are usable here and why not, and which one a net gets.

A backend is a module of this package with ``NAME``, ``reason_missing()``, ``isa()`` and an engine class.
Nothing else imports one, and none is imported before it is wanted.
"""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from fastmlp import _guards
from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Engine, EnsembleEngine
from fastmlp._layout import Layout

# Best first: name -> (module of this package, classes of its engines: of one net, and of an ensemble).
_BACKENDS = {
    "c": ("_c", "CEngine", "CEnsemble"),
    "numba": ("_numba", "NumbaEngine", "NumbaEnsemble"),
    "numpy": ("_numpy", "NumpyEngine", "NumpyEnsemble"),
}
BACKEND_NAMES = tuple(_BACKENDS)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"fastmlp._backends.{_BACKENDS[name][0]}")


@cache
def _reason_missing(name: str) -> str | None:
    if name == "numba" and importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    spec = importlib.util.find_spec(f"fastmlp._backends.{_BACKENDS[name][0]}")
    if spec is None or spec.origin is None:  # nothing, or a folder without code
        return f"this installation has no module fastmlp._backends.{_BACKENDS[name][0]}"
    try:
        reason: str | None = _module(name).reason_missing()
    except (ImportError, AttributeError) as error:
        reason = str(error)
    return reason


def why_missing() -> dict[str, str]:
    """The backends that cannot be used here, each with the reason."""
    return {name: reason for name in BACKEND_NAMES if (reason := _reason_missing(name)) is not None}


def available_backends() -> tuple[str, ...]:
    """The backends that can be used here, best first.

    Returns
    -------
    tuple of str
        Out of ``"c"``, ``"numba"`` and ``"numpy"``. `show_config` tells why one is missing.
    """
    return tuple(name for name in BACKEND_NAMES if _reason_missing(name) is None)


@cache
def _warn_of_numpy() -> None:
    warnings.warn(
        "neither the c nor the numba backend can be used here, so fastmlp runs on the slower numpy backend; "
        "fastmlp.show_config() tells why",
        RuntimeWarning,
        stacklevel=5,
    )


def resolve(name: str | None) -> str:
    """The backend to use: ``name``, else the environment's FASTMLP_BACKEND, else the best available.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    RuntimeError
        If the backend asked for cannot be used here; it is never replaced by another.
    """
    source = "backend"
    if name is None and (name := os.environ.get("FASTMLP_BACKEND") or None) is not None:
        source = "FASTMLP_BACKEND"
    if name is None:
        best = next(candidate for candidate in BACKEND_NAMES if _reason_missing(candidate) is None)
        if best == "numpy":
            _warn_of_numpy()
        return best
    if name not in BACKEND_NAMES:
        raise ValueError(f"{source} is {name!r}; the backends are {', '.join(map(repr, BACKEND_NAMES))}")
    if (reason := _reason_missing(name)) is not None:
        raise RuntimeError(f"{source} is {name!r}, which cannot be used here: {reason}")
    return name


def instruction_set(name: str) -> str:
    """The instruction set an available backend computes with."""
    return str(_module(name).isa())


def make_engine(
    name: str, architecture: Architecture, layout: Layout, parameters: np.ndarray, seed: int, n_threads: int
) -> Engine:
    """A new engine of an available backend, at work on the arena ``parameters``."""
    engine: Engine = getattr(_module(name), _BACKENDS[name][1])(architecture, layout, parameters, seed, n_threads)
    if _guards.active:
        _guards.check_after_each_call(engine)
    return engine


def make_ensemble_engine(
    name: str, architectures: Sequence[Architecture], layout: Layout, parameters: np.ndarray, seeds: np.ndarray
) -> EnsembleEngine:
    """A new engine for nets alike in their layers, each with its row of ``parameters`` (K, size) and its seed."""
    engine: EnsembleEngine = getattr(_module(name), _BACKENDS[name][2])(architectures, layout, parameters, seeds)
    return engine


def specialized_code(architecture: Architecture) -> Any:
    """Machine code for one architecture, which the Numba backend makes; see _numba/_specialized.py.

    Raises
    ------
    RuntimeError
        If that backend cannot be used here.
    """
    if (reason := _reason_missing("numba")) is not None:
        raise RuntimeError(f"jit() needs the numba backend, which cannot be used here: {reason}")
    from fastmlp._backends._numba._specialized import code_for

    return code_for(architecture)
