"""Builds the extension module fastmlp._fastmlp_c with cffi: the calls Python makes, and how the kernels are compiled.

setup.py runs it. ``python csrc/build_fastmlp.py`` prints the compiler flags, for checking the sources by hand, and
``python csrc/build_fastmlp.py emit FILE`` writes the C source of the module itself.
"""

import os
import sys
from pathlib import Path

from cffi import FFI

FOLDER = Path(__file__).parent

# The order of floating-point operations is part of the contract: no -ffast-math, no contraction. The instruction
# set is chosen at run time: no -march.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
# Python's own flags ask for debugging information: eleven times the size, and twice the time to compile.
FLAGS += ["-Wall", "-Wextra", "-g0"]


def declarations() -> str:
    """calls.h without the lines of the preprocessor, which cffi cannot read."""
    lines = (FOLDER / "calls.h").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def files(*patterns: str) -> list[str]:
    """The files of this folder that match, as paths from where setup.py stands."""
    return sorted(str(path) for pattern in patterns for path in FOLDER.glob(pattern))


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "fastmlp._fastmlp_c",
    '#include "calls.h"',
    sources=files("*.c", "isa/*.c"),
    depends=files("*.h", "isa/*.h", "build_fastmlp.py"),
    include_dirs=[str(FOLDER)],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],  # a library of its own before glibc 2.34
    # Without a compiler the install goes on, with the other backends.
    optional=os.environ.get("FASTMLP_REQUIRE_C") != "1",
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["emit"]:
        ffibuilder.emit_c_code(sys.argv[2])
    else:
        print(*FLAGS)
