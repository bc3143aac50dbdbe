"""The kernels for vectors of 64 bytes give the bytes of those for 32, tried without AVX-512: vectors go in halves.

For C the template is compiled once more, with vectors_in_halves.h; for Numba LLVM cuts the vectors. Tiles, loops and
edges are those of AVX-512; its instructions are not. Where there is AVX-512 test_instruction_sets.py runs it. Compiling
takes a minute or two, so this is no part of the suite: ``pytest tests/long_vectors.py``.
"""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import fit_cases
import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net

from fastmlp import _backends
from fastmlp._backends import _c

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
SOURCE = """
#define REAL_BITS {bits}
#include "vectors_in_halves.h"
#define VECTOR_BYTES 64
#define KERNELS long_vectors_f{bits}
#include "kernels.h"
"""
# Hardly optimised: the bits are the same.
FLAGS = ["-std=gnu11", "-O1", "-ffp-contract=off", "-mavx2", "-mfma", "-fPIC", "-pthread", "-w"]
# Wide enough for every tile of 32 registers, and for layers that one example goes through row by row.
WIDE = (33, 400, 130, 48, 7)


@pytest.fixture(autouse=True)
def needs_avx2(both_compiled_backends):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no other vector length on this processor")
    if "baseline" in {_backends.instruction_set(name) for name in ("c", "numba")}:
        pytest.skip("no bits are promised without fused multiply-add")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Both dtypes' kernels in a library of their own."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not CSRC.is_dir():
        pytest.skip("needs a C compiler and the sources of the kernels")
    folder = tmp_path_factory.mktemp("long_vectors")
    sources = [CSRC / "team.c"]
    for bits in (32, 64):
        sources.append(folder / f"f{bits}.c")
        sources[-1].write_text(SOURCE.format(bits=bits))
    command = [compiler, *FLAGS, f"-I{CSRC}", f"-I{HERE}", "-shared", *map(str, sources), "-o", str(folder / "long.so")]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "long.so"))


@pytest.fixture(params=["c", "numba"])
def long_vectors(request, monkeypatch):
    """The name of the backend; calling it makes nets that are made from then on use vectors of 64 bytes."""
    if request.param == "c":
        library = request.getfixturevalue("library")
        tables = [ctypes.addressof(ctypes.c_char.in_dll(library, f"long_vectors_f{bits}")) for bits in (32, 64)]
        lib, ffi = _c._fastmlp_c.lib, _c._fastmlp_c.ffi
        functions = {name: getattr(lib, name) for name in dir(lib)}
        functions["fastmlp_find_kernels"] = lambda dtype, limit: tables[dtype]
        functions["fastmlp_isa"] = lambda table: ffi.new("char[]", b"avx512")
        types = SimpleNamespace(cast=ffi.cast, string=ffi.string, addressof=lambda _, name: ffi.addressof(lib, name))
        module = SimpleNamespace(lib=SimpleNamespace(**functions), ffi=types)
        return request.param, lambda: monkeypatch.setattr(_c, "_fastmlp_c", module)
    from fastmlp._backends._numba import _kernels, _target

    target = _target.find_target("avx2")._replace(isa="avx512", vector_bytes=64)
    return request.param, lambda: monkeypatch.setattr(_kernels, "find_target", lambda limit: target)


def test_bytes_of_fits(long_vectors, monkeypatch):
    backend, use_long_vectors = long_vectors
    monkeypatch.setenv("FASTMLP_ISA", "avx2")
    cases = [(case, fit_cases.BATCHES[i % 3]) for i, case in enumerate(fit_cases.sample()) if i % 2 == 0]
    expected = [fit_cases.fit(case, backend, 1, batch) for case, batch in cases]
    use_long_vectors()
    assert _backends.instruction_set(backend) == "avx512" or backend == "numba"
    for (case, batch), wanted in zip(cases, expected):
        assert fit_cases.fit(case, backend, 1, batch) == wanted, (case, batch)


@pytest.mark.parametrize("n", [1, 2, 5, 11, 40, 300])
def test_bytes_of_wide_layers(long_vectors, monkeypatch, dtype, n):
    backend, use_long_vectors = long_vectors
    monkeypatch.setenv("FASTMLP_ISA", "avx2")

    def results():
        net, _ = make_net(WIDE, activation="gelu", output_activation="softmax", dtype=dtype, backend=backend)
        X, y = make_examples(net, n)
        loss, gradients = net.loss_and_gradients(X, y)
        backward = net.backward(X, np.ones((n, WIDE[-1]), dtype), input_gradient=True)
        return [*net.activations_of(X), net.logits(X), np.float64(loss), gradients.flat, backward.flat, backward.input]

    expected = results()
    use_long_vectors()
    for actual, wanted in zip(results(), expected):
        assert_same_bits(actual, wanted)
