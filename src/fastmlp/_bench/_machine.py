"""What the figures were measured on, in a line."""

import platform
from contextlib import suppress
from pathlib import Path

import numpy as np

from fastmlp import _backends
from fastmlp._version import __version__


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """Version, instruction set of each backend, processor, and the versions underneath."""
    instruction_sets = ", ".join(f"{name} {_backends.instruction_set(name)}" for name in _backends.available_backends())
    return (
        f"fastmlp {__version__} ({instruction_sets}) on {processor()}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )
