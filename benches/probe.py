"""probe.c, compiled for a dtype: the machine's FMA peak and its bandwidth, as ways to be timed beside the nets."""

import os
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from fastmlp._bench._contenders import Way

SOURCE = Path(__file__).with_name("probe.c")
TYPES = {"float32": "float", "float64": "double"}
DECLARATIONS = """
    long flop_per_round(void);
    T multiply_add(long rounds, T factor, T term);
    long bytes_read_at_once(void);
    T read_through(const void *start, long n_bytes, long times);
"""
# A run of 0.1 ms or more: long against a call, short against what disturbs.
FLOP, BYTES = 1e7, 1e7


class NoCompiler(RuntimeError):
    """The probe needs a C compiler: CC of the environment, or cc."""


@cache
def compiled(dtype: str) -> tuple[Any, Any]:
    """cffi's handle of the compiled probe, and the FFI object to make pointers with."""
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"probe_{dtype}.so"
        flags = ["-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", f"-DT={TYPES[dtype]}"]
        try:
            subprocess.run([compiler, *flags, "-o", library, SOURCE], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise NoCompiler(f"{compiler} cannot compile {SOURCE.name}: {reason}") from error
        ffi = cffi.FFI()
        ffi.cdef(DECLARATIONS.replace("T ", f"{TYPES[dtype]} "))
        return ffi.dlopen(str(library)), ffi


def multiply_add(dtype: str) -> tuple[Way, int]:
    """A way that does nothing but multiply and add, on one core, and its operations."""
    library, _ = compiled(dtype)
    rounds = round(FLOP / library.flop_per_round())
    return partial(library.multiply_add, rounds, 0.999, 1e-4), rounds * library.flop_per_round()


def reading(dtype: str, n_bytes: int) -> tuple[Way, int]:
    """A way that reads so many bytes, or a few less, again and again, and how many it reads in all."""
    library, ffi = compiled(dtype)
    at_once = library.bytes_read_at_once()
    n_bytes -= n_bytes % at_once
    memory = np.ones(n_bytes + at_once, np.uint8)
    aligned = memory[-memory.ctypes.data % at_once :]
    times = max(1, round(BYTES / n_bytes))
    return partial(library.read_through, ffi.from_buffer(aligned), n_bytes, times), times * n_bytes
