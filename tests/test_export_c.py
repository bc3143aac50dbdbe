"""The exported C under every compiler here: bits of the C backend, near the oracle, a self-test that can fail."""

import ctypes
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import oracle
import pytest
from support import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS, assert_close, assert_same_bits, make_net, oracle_of, require

import fastmlp
from fastmlp import _backends
from fastmlp._export.c_source import c_source, literals, most_ulp

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
OPTIONS = [
    *(" ".join([*STRICT, level, "-march=native"]) for level in ("-O0", "-O2", "-O3")),
    *(" ".join([*STRICT, level]) for level in ("-O0", "-O3")),
    # Not the standard's mode, where gcc fuses products and sums by itself: none is left that this would change.
    "-O2 -march=native -ffp-contract=fast",
]
WITH_FMA = _backends.instruction_set("c") in ("avx2", "avx512") if "c" in fastmlp.available_backends() else False
# Without it, in units in the last place of an example's largest output.
ULP_PER_LAYER = 4


def compilers():
    found = [name for name in ("gcc", "clang") if shutil.which(name)]
    if not found and (os.environ.get("CI") or os.environ.get("FASTMLP_REQUIRE_C")):
        pytest.fail("there is neither gcc nor clang")
    return found or pytest.skip("there is neither gcc nor clang")


@functools.cache
def nets():
    """Every activation in both dtypes, and random nets of every depth, each with the settings that made it."""
    made = []
    for dtype in ("float32", "float64"):
        for output in OUTPUT_ACTIVATIONS:
            made.append(((5, 7), {"output_activation": output, "dtype": dtype}))
        half = len(HIDDEN_ACTIVATIONS) // 2
        for activation in (HIDDEN_ACTIVATIONS[:half], HIDDEN_ACTIVATIONS[half:]):
            sizes = (5, *(19 - 3 * i for i in range(len(activation))), 2)
            made.append((sizes, {"activation": activation, "dtype": dtype}))
    random = np.random.default_rng(11)
    for depth in (1, 2, 3, 4, 5, 6):
        sizes = tuple(int(size) for size in random.choice([1, 2, 3, 8, 9, 16, 17, 31, 33, 70], depth + 1))
        activation = [str(name) for name in random.choice(HIDDEN_ACTIVATIONS, depth - 1)]
        output, dtype = str(random.choice(OUTPUT_ACTIVATIONS)), ("float32", "float64")[depth % 2]
        made.append((sizes, {"activation": activation, "output_activation": output, "dtype": dtype}))
    return [
        (make_net(sizes, seed=seed, backend="c", loss=None, **settings)[0], settings)
        for seed, (sizes, settings) in enumerate(made)
    ]


def examples(net):
    """Of ordinary size, large, zeros, and with what is no finite number."""
    X = np.random.default_rng(5).normal(size=(24, net.layer_sizes[0]))
    X[8:16] *= 30.0
    X[16] = 0.0
    X[17, 0], X[18, -1], X[19, 0] = np.nan, np.inf, -np.inf
    X[20], X[21] = 3e38, -3e38
    return X.astype(net.dtype)


def build(folder, compiler, flags, source):
    """Compile C text into a library, and load it."""
    path = folder / "nets.c"
    path.write_text(source)
    library = folder / f"nets-{len(list(folder.iterdir()))}.so"
    command = [compiler, *flags, "-shared", "-fPIC", str(path), "-o", str(library), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:4000]
    return ctypes.CDLL(str(library))


def run(library, name, net, X):
    """The function of one net on every row."""
    function = getattr(library, f"{name}_forward")
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]
    outputs = np.empty((len(X), net.layer_sizes[-1]), net.dtype)
    for x, y in zip(np.ascontiguousarray(X), outputs):
        function(x.ctypes.data, y.ctypes.data)
    return outputs


def without_subnormals(values):
    return np.where(np.abs(values) < np.finfo(values.dtype).tiny, 0, values).astype(values.dtype)


def assert_agree(net, actual, X, has_fma, what):
    """Bits where both have fused multiply-add; of zeros and NaN, which one does not matter."""
    expected = without_subnormals(net.forward(X))
    actual = without_subnormals(actual)
    if has_fma and WITH_FMA:
        actual, expected = actual + 0.0, expected + 0.0
        actual[np.isnan(actual)] = expected[np.isnan(expected)] = np.nan
        assert_same_bits(actual, expected)
        return
    ordinary, no_overflow = slice(0, 8), slice(0, 20)
    np.testing.assert_array_equal(np.isnan(actual[no_overflow]), np.isnan(expected[no_overflow]), err_msg=what)
    unit = np.finfo(net.dtype).eps * np.abs(expected[ordinary]).max(axis=1, keepdims=True)
    errors = np.abs(actual[ordinary] - expected[ordinary]) / np.maximum(unit, np.finfo(net.dtype).tiny)
    assert errors.max() <= ULP_PER_LAYER * net.n_layers, f"{what}: {errors.max():.1f} ULP"


@pytest.fixture(scope="module")
def source():
    """All nets in one file, which shows that their names do not clash."""
    require("c")
    return "\n".join("".join(c_source(net, f"net{i}")) for i, (net, _) in enumerate(nets()))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_every_net_under_every_compiler(compiler, options, source, tmp_path):
    if compiler not in compilers():
        pytest.skip(f"{compiler} is missing")
    check_all(tmp_path, compiler, options.split(), source)


def check_all(folder, compiler, flags, source):
    library = build(folder, compiler, flags, source + "\nint has_fma(void) { return NET0_HAS_FMA; }\n")
    has_fma = bool(library.has_fma())
    assert has_fma or "-march=native" not in flags or not WITH_FMA
    for i, (net, settings) in enumerate(nets()):
        X = examples(net)
        actual = run(library, f"net{i}", net, X)
        assert_agree(net, actual, X, has_fma, f"{net} under {compiler} {' '.join(flags)}")
        expected = oracle.fast_forward(oracle_of(net, **settings), X[:8])
        assert_close(actual[:8], expected, net.dtype, repr(net), scale=4.0)


def test_outputs_may_overwrite_inputs(tmp_path):
    net, _ = make_net((6, 9, 6), activation="tanh")
    library = build(tmp_path, compilers()[0], ["-O2", "-march=native"], "".join(c_source(net, "mlp")))
    X = examples(net)[:8]
    expected, actual = run(library, "mlp", net, X), X.copy()
    for row in actual:
        library.mlp_forward(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(row.ctypes.data))
    assert_same_bits(actual, expected)


def test_parameters_that_are_not_finite(tmp_path):
    net, _ = make_net((2, 4, 3), activation="identity", backend="numpy")
    net.weights[0][0, 0], net.weights[0][1, 1], net.biases[1][2] = np.inf, -np.inf, np.nan
    library = build(tmp_path, compilers()[0], [*STRICT, "-O2"], "".join(c_source(net, "mlp")))
    actual = run(library, "mlp", net, np.ones((1, 2), np.float32))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(actual), np.isnan(net.forward(np.ones((1, 2)))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_literals_have_the_bits_of_the_numbers(dtype):
    info = np.finfo(dtype)
    numbers = np.array([0.1, -1.0, 3.0, info.max, info.tiny, -info.tiny, 0.0, 1 + info.eps, 2.0**-40], dtype)
    numbers = np.concatenate([numbers, np.random.default_rng(0).normal(size=200).astype(dtype)])
    texts = list(literals(numbers))
    assert all(text == "0" or text.endswith("f") == (dtype == "float32") for text in texts)
    assert_same_bits(np.array([float.fromhex(text.removesuffix("f")) for text in texts], dtype), numbers)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, info.tiny / 2, -info.tiny / 2], dtype)
    suffix = "f" if dtype == "float32" else ""
    assert list(literals(special)) == ["NAN", "INFINITY", "-INFINITY", f"-0.0{suffix}", "0", f"-0.0{suffix}"]


# The self-test. ------------------------------------------------------------------------------------------


def self_test(folder, text, flags):
    (folder / "model.c").write_text(text)
    program = folder / "model"
    subprocess.run([compilers()[0], *flags, "-DPOLICY_SELF_TEST", folder / "model.c", "-o", program, "-lm"], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout


@pytest.mark.parametrize("machine", [["-march=native"], []])
def test_self_test_passes_and_fails(machine, dtype, tmp_path):
    net, _ = make_net((17, 20, 6), activation="gelu", output_activation="softmax", dtype=dtype)
    net.export_c(tmp_path / "model.c", "policy")
    text = (tmp_path / "model.c").read_text()
    status, printed = self_test(tmp_path, text, [*STRICT, "-O2", *machine])
    assert status == 0, printed
    assert "policy: 8 examples, 0 outputs wrong" in printed
    weight = re.search(r"policy_layer1\[\d+\] = \{\s+(\S+),", text)
    changed = text.replace(weight.group(1), "0x1.8p+1", 1)
    status, printed = self_test(tmp_path, changed, [*STRICT, "-O2", *machine])
    assert status == 1
    assert re.search(r"example \d, output \d: .*; expected ", printed)


def test_self_test_sees_the_last_bit(dtype, tmp_path):
    require("c")
    if not WITH_FMA:
        pytest.skip("no bits are promised without fused multiply-add")
    net, _ = make_net((3, 2), dtype=dtype)
    bias = float(net.biases[0][0])
    text = "".join(c_source(net, "policy"))
    (old,) = literals(net.biases[0][:1])
    (new,) = literals(np.nextafter(net.biases[0][:1], np.inf, dtype=dtype))
    assert old != new and text.count(old) >= 1, bias
    status, printed = self_test(tmp_path, text.replace(old, new, 1), ["-O1", "-march=native"])
    assert status == 1, printed


def test_fast_math_is_refused(tmp_path):
    net, _ = make_net((3, 2))
    net.export_c(tmp_path / "model.c")
    for compiler in compilers():
        command = [compiler, "-O2", "-ffast-math", "-c", tmp_path / "model.c", "-o", os.devnull]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert "compile without -ffast-math" in result.stderr


def test_tolerance_without_fused_multiply_add():
    outputs = np.array([[1.0, np.e**3, np.inf, 0.0]])
    assert most_ulp((8, 64, 3), "identity", outputs) == 8
    assert most_ulp((256, 64, 3), "softmax", outputs) == 16
    assert most_ulp((8, 3), "exp", outputs) == 16


# The file. -----------------------------------------------------------------------------------------------


def test_same_net_same_file(tmp_path):
    net, _ = make_net((4, 5, 3), output_activation="softmax", backend="numpy")
    text = "".join(c_source(net, "mlp"))
    for path in (tmp_path / "a.c", str(tmp_path / "b.c")):
        net.export_c(path)
        assert Path(path).read_text() == text
    assert text == "".join(c_source(net.copy(), "mlp"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.c", "b.c"]


def test_comment_tells_what_it_is():
    net, _ = make_net((4, 5, 3), activation="elu", output_activation="softmax", dtype="float64")
    comment = "".join(c_source(net, "iris")).split("*/")[0]
    for part in ("iris: ", "43 parameters in float64", "layer 1: 4 -> 5, elu", "layer 2: 5 -> 3, softmax"):
        assert part in comment
    assert "-O3 -march=native -c iris.c" in comment and "-DIRIS_SELF_TEST iris.c" in comment


def test_only_what_is_needed_and_nothing_allocated():
    text = "".join(c_source(make_net((4, 5, 3))[0], "mlp"))
    assert "malloc" not in text and "exponential" not in text and "static " in text
    assert re.findall(r"^(?!static|MLP_INLINE)\w+ \w+\(", text, re.MULTILINE) == [
        "void mlp_forward(",
        "void mlp_forward(",
        "int main(",
    ]


def test_an_older_file_outlives_a_failure(tmp_path, monkeypatch):
    net, _ = make_net((4, 5, 3))
    path = tmp_path / "model.c"
    net.export_c(path)
    before = path.read_bytes()

    def fail(*_):
        raise RuntimeError("no references today")

    monkeypatch.setattr("fastmlp._export.c_source.reference_outputs", fail)
    with pytest.raises(RuntimeError, match="no references today"):
        net.export_c(path, "other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
