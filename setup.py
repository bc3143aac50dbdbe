"""What pyproject.toml cannot say: build the C kernels, and compile Numba's. All metadata is there."""

import atexit
import os
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy
from setuptools import Command, Distribution, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

on_msvc = sysconfig.get_platform().startswith("win")  # its compiler lacks the vector extensions of gcc and clang
if on_msvc and os.environ.get("FASTMLP_REQUIRE_C") == "1":
    raise SystemExit("FASTMLP_REQUIRE_C=1, but MSVC cannot compile the C kernels")

# A new folder for every build: kernels left over from an earlier one would hide that a build has failed.
build_folder = tempfile.TemporaryDirectory(prefix="fastmlp-build-")
atexit.register(build_folder.cleanup)


class ParallelBuild(build_ext):
    """Compiles as many files at once as there are processors; setuptools does so with whole extensions only."""

    def build_extensions(self):
        compile_some = self.compiler.compile

        def compile_all(sources, **settings):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(partial(compile_some, **settings), ([source] for source in sources))
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_all
        super().build_extensions()


class BuildNumba(Command):
    """Compiles Numba's kernels for a wheel. An editable install, or one without, compiles them at their first use."""

    user_options = []

    def initialize_options(self):
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        if self.editable_mode or find_spec("numba") is None:
            return
        package = Path(self.build_lib).resolve()
        command = [sys.executable, "-m", "fastmlp._backends._numba._ship", package / "fastmlp/_backends/_numba/objects"]
        path = os.pathsep.join(map(str, [package, *sys.path]))  # by which a frontend isolates the build
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        if subprocess.run(command, env=environment).returncode != 0:
            self.warn("Numba's kernels could not be compiled: they will be at their first use")

    def get_source_files(self):
        return []

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


class PlatformDistribution(Distribution):
    """What is built depends on the platform, also where that is machine code of Numba's alone."""

    def has_ext_modules(self):
        return True


def bound_call():
    """Kernels' calls as functions of Python's; optional as the C kernels are, and for all versions from 3.11."""
    limited = not sysconfig.get_config_var("Py_GIL_DISABLED")  # free-threaded Pythons have no limited interface yet
    return Extension(
        "fastmlp._bound_call",
        ["csrc/python/bound_call.c"],
        include_dirs=[numpy.get_include()],
        define_macros=[("Py_LIMITED_API", "0x030b0000")] if limited else [],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-g0"],
        py_limited_api=limited,
        optional=os.environ.get("FASTMLP_REQUIRE_C") != "1",
    )


build.sub_commands = [*build.sub_commands, ("build_numba", None)]
setup(
    distclass=PlatformDistribution,
    ext_modules=[] if on_msvc else [bound_call()],
    cmdclass={"build_ext": ParallelBuild, "build_numba": BuildNumba},
    cffi_modules=[] if on_msvc else ["csrc/build_fastmlp.py:ffibuilder"],
    options={"build": {"build_base": build_folder.name}},
)
