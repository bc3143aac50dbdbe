"""Exported C, compiled and loaded here: what the demo and the bench of it rest on."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPILERS = ("gcc", "clang", "cc")
FLAGS = ("-std=c99", "-O3", "-march=native")

# Loops in C, so that no call from Python is timed.
_LOOP = """
void repeat(long n, const void *x, void *y) { while (n-- > 0) %(name)s_forward(x, y); }
void repeat_call(long n, void (*call)(int64_t, int64_t), int64_t argument) { while (n-- > 0) call(argument, 0); }
"""


class CompileError(RuntimeError):
    """There is no compiler, or it failed; the message says so."""


def find_compiler() -> str:
    """The first of COMPILERS that is installed."""
    found = next(filter(shutil.which, COMPILERS), None)
    if found is None:
        raise CompileError(f"there is no C compiler here ({', '.join(COMPILERS)})")
    return found


class CompiledNet:
    """The function ``name_forward`` of an exported file."""

    def __init__(self, path: Path, name: str, n_outputs: int, dtype: np.dtype, compiler: str | None = None) -> None:
        self.compiler = compiler or find_compiler()
        library = path.with_suffix(f".{self.compiler}.so")
        source = path.with_suffix(f".{self.compiler}.c")
        source.write_text(f'#include "{path.name}"\n{_LOOP % {"name": name}}')
        run_compiler(self.compiler, *FLAGS, "-shared", "-fPIC", str(source), "-o", str(library), "-lm")
        self.library = ctypes.CDLL(str(library))
        self.output = np.zeros(n_outputs, dtype)
        self._forward = getattr(self.library, f"{name}_forward")

    def __call__(self, X: NDArray[Any]) -> NDArray[Any]:
        """The outputs of a batch, row by row."""
        rows = np.ascontiguousarray(X, dtype=self.output.dtype)
        outputs = np.empty((len(rows), len(self.output)), self.output.dtype)
        for x, y in zip(rows, outputs, strict=True):
            self._forward(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
        return outputs

    def repeat(self, n: int, x: NDArray[Any]) -> None:
        """Compute one example so many times, in a loop in C."""
        self.library.repeat(ctypes.c_long(n), ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(self.output.ctypes.data))

    def repeat_call(self, n: int, function: int, argument: int) -> None:
        """Call another C function (its address) so many times, in the same kind of loop."""
        self.library.repeat_call(ctypes.c_long(n), ctypes.c_void_p(function), ctypes.c_int64(argument))


def run_compiler(*command: str) -> None:
    """Run a compiler; what it says of errors becomes the message of a CompileError."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run: {error}") from error
    if result.returncode:
        raise CompileError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")


def self_test(path: Path, name: str, compiler: str) -> str:
    """Compile the file with its self-test and run it; what it printed, or CompileError where it fails."""
    program = path.with_suffix(".test")
    run_compiler(compiler, *FLAGS, f"-D{name.upper()}_SELF_TEST", str(path), "-o", str(program), "-lm")
    result = subprocess.run([str(program.resolve())], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CompileError(f"the self-test of {path} fails:\n{result.stdout.strip()}")
    return result.stdout.strip()
