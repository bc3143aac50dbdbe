"""The one thing pyproject.toml cannot say: build the C kernels. All metadata is there."""

import atexit
import os
import sysconfig
import tempfile

from setuptools import setup

on_msvc = sysconfig.get_platform().startswith("win")  # its compiler lacks the vector extensions of gcc and clang
if on_msvc and os.environ.get("FASTMLP_REQUIRE_C") == "1":
    raise SystemExit("FASTMLP_REQUIRE_C=1, but MSVC cannot compile the C kernels")

# A new folder for every build: kernels left over from an earlier one would hide that a build has failed.
build_folder = tempfile.TemporaryDirectory(prefix="fastmlp-build-")
atexit.register(build_folder.cleanup)

setup(
    cffi_modules=[] if on_msvc else ["csrc/build_fastmlp.py:ffibuilder"],
    options={"build": {"build_base": build_folder.name}},
)
