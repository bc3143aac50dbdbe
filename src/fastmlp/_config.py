"""show_config: what this installation computes with, and why a backend is missing."""

import os
import platform
from collections.abc import Callable

from fastmlp import _backends
from fastmlp._threads import threads_for
from fastmlp._version import __version__

_VARIABLES = ("FASTMLP_BACKEND", "FASTMLP_ISA", "FASTMLP_NUM_THREADS", "OMP_NUM_THREADS")


def _version_of(package: str) -> str:
    # Imported here because it takes longer than fastmlp's own modules together.
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _or_error(ask: Callable[..., object], argument: str | None = None) -> str:
    """An answer, or why there is none: a wrong environment variable should be shown, not raised."""
    try:
        return str(ask(argument))
    except (ValueError, RuntimeError) as error:
        return f"none: {error}"


def _status(name: str, reasons: dict[str, str]) -> str:
    if name in reasons:
        return f"missing: {reasons[name]}"
    return f"available ({_or_error(_backends.instruction_set, name)})"


def config() -> dict[str, str]:
    """What `show_config` prints, line by line."""
    reasons = _backends.why_missing()
    lines = {"fastmlp": __version__, "backend": _or_error(_backends.resolve)}
    lines |= {f"  {name}": _status(name, reasons) for name in _backends.BACKEND_NAMES}
    lines["threads"] = _or_error(threads_for)
    lines |= {f"  {name}": value for name in _VARIABLES if (value := os.environ.get(name))}
    lines["python"] = f"{platform.python_version()} ({platform.system()} {platform.machine()})"
    return lines | {package: _version_of(package) for package in ("numpy", "numba", "cffi")}


def show_config() -> None:
    """Print what fastmlp computes with here.

    One line each: version, the backend a new network gets, every backend with its instruction set or the
    reason why it is missing, threads, environment variables that are set, and the versions underneath.
    """
    lines = config()
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")
