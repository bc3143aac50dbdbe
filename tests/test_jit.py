"""MLP.jit: the bits of forward from compiled code, Jacobians, and that no call, cache or dead net leads to a crash."""

import ctypes
import gc
import pickle
import threading

import numpy as np
import oracle
import pytest
from support import (
    HIDDEN_ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    assert_close,
    assert_same_bits,
    make_net,
    require,
    run_python,
)

import fastmlp
from fastmlp import Adam

numba = pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def numba_backend():
    require("numba")


@numba.njit(nogil=True)
def one_by_one(f, X, out):
    for i in range(len(X)):
        f(X[i], out[i])


@numba.njit
def at_once(f, X, out):
    f.batch(X, out)


@numba.njit
def values_and_jacobians(f, X, out, J):
    for i in range(len(X)):
        f.value_and_jacobian(X[i], out[i], J[i])


def one_by_one_in_python(f, X):
    out = np.full((len(X), f.n_outputs), 7.0, f.dtype)
    for x, y in zip(X, out):
        f(x, y)
    return out


def examples(net, n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, net.layer_sizes[0])).astype(net.dtype)


# Depths 1 to 6, sizes around the widths of vectors and tiles, every activation.
NETS = [
    ((1, 1), "relu", "sigmoid"),
    ((3, 17), (), "softmax"),
    ((5, 8, 1), "tanh", "identity"),
    ((17, 64, 64, 6), "tanh", "identity"),
    ((4, 33, 9, 16), ("gelu", "silu"), "softmax"),
    ((2, 7, 150, 3), ("softplus", "elu"), "exp"),
    ((40, 31, 24, 12, 2), ("sigmoid", "leaky_relu", "relu"), "softplus"),
    ((300, 20, 5, 70), ("identity", "relu"), "tanh"),
    ((9, 1, 2, 3, 4, 5), "silu", "gelu"),
    ((8, 11, 12, 13, 14, 15, 257), "elu", "silu"),
    ((6, 5), (), "elu"),
    ((6, 5, 40), "relu", "softmax"),
    ((7, 3), (), "leaky_relu"),
    ((7, 3), (), "relu"),
]


def test_every_activation_is_there():
    assert {output for *_, output in NETS} == set(OUTPUT_ACTIVATIONS)
    assert {name for _, names, _ in NETS for name in ([names] if isinstance(names, str) else names)} == set(
        HIDDEN_ACTIVATIONS
    )


@pytest.mark.parametrize(("sizes", "activation", "output"), NETS, ids=lambda value: str(value).replace(" ", ""))
def test_bits_of_forward_and_jacobian(sizes, activation, output, dtype):
    settings = {"activation": activation, "output_activation": output, "dtype": dtype}
    net, expected = make_net(sizes, seed=len(sizes), **settings)
    f = net.jit()
    X = examples(net, 29)
    f.batch(np.full_like(X, np.nan), np.empty((29, sizes[-1]), dtype))  # leaves NaN all over the stack
    backends = [name for name in ("c", "numba") if name in fastmlp.available_backends()]
    outputs = one_by_one_in_python(f, X)
    for backend in backends:
        other, _ = make_net(sizes, seed=len(sizes), backend=backend, **settings)
        assert_same_bits(outputs, other.forward(X))
    for n in (0, 1, 11, 12, 13, 29):
        out = np.full((n, sizes[-1]), 7.0, dtype)
        f.batch(X[:n], out)
        assert_same_bits(out, outputs[:n])
    assert_close(outputs[:3], oracle.forward(expected, X[:3]), dtype)
    y, J = np.empty(sizes[-1], dtype), np.full((sizes[-1], sizes[0]), np.nan, dtype)
    f.value_and_jacobian(np.full(sizes[0], np.nan, dtype), y, J)  # leaves NaN all over the stack
    f.value_and_jacobian(X[0], y, J)
    assert_same_bits(y, outputs[0])
    shown = sorted({0, sizes[-1] // 2, sizes[-1] - 1})
    for i in shown:  # loops in Python are slow
        assert_close(J[i], oracle.backward(expected, X[:1], np.eye(sizes[-1])[i : i + 1])[2][0], dtype, scale=4)
    assert np.isfinite(J).all()


def test_special_numbers(dtype):
    net, _ = make_net((3, 9, 5, 4), activation=("relu", "tanh"), output_activation="softmax", dtype=dtype)
    X = np.array([[np.nan, 1, 2], [np.inf, 1, -1], [-np.inf, 0, 0], [1e-42, -0.0, 1e-300], [3e38, 3e38, 3e38]], dtype)
    other = fastmlp.MLP((3, 9, 5, 4), activation=("relu", "tanh"), output_activation="softmax", dtype=dtype)
    other.copy_parameters_from(net)
    actual, expected = one_by_one_in_python(net.jit(), X), other.forward(X)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    assert_same_bits(np.nan_to_num(actual), np.nan_to_num(expected))


def test_subnormals_count_again_after_a_call():
    net, _ = make_net((2, 3))
    one_by_one_in_python(net.jit(), examples(net, 1))
    assert np.float32(1e-40) * np.float32(0.5) > 0


# In Numba's functions


def test_in_compiled_loops(dtype):
    net, expected = make_net((4, 9, 3), activation="tanh", dtype=dtype)
    f, X = net.jit(), examples(net, 31)
    outputs = one_by_one_in_python(f, X)
    out = np.zeros_like(outputs)
    one_by_one(f, X, out)
    assert_same_bits(out, outputs)
    at_once(f, X, out := np.zeros_like(outputs))
    assert_same_bits(out, outputs)
    J, y = np.zeros((31, 3, 4), dtype), np.zeros_like(outputs)
    values_and_jacobians(f, X, y, J)
    assert_same_bits(y, outputs)
    for i in range(3):
        assert_close(J[:, i], oracle.backward(expected, X, np.tile(np.eye(3)[i], (31, 1)))[2], dtype)


def test_as_a_global_a_closure_and_in_parallel():
    net, _ = make_net((4, 9, 3))
    f, X = net.jit(), examples(net, 200)

    @numba.njit(parallel=True)
    def loop(X, out):
        for i in numba.prange(len(X)):
            f(X[i], out[i])
        return f.n_inputs, f.n_outputs

    @numba.njit(parallel=True)
    def loop_of(g, X, out):
        for i in numba.prange(len(X)):
            g(X[i], out[i])

    for call in (loop, lambda X, out: loop_of(f, X, out)):
        out = np.zeros((200, 3), np.float32)
        call(X, out)
        assert_same_bits(out, one_by_one_in_python(f, X))
    assert loop(X, out) == (4, 3)


def test_in_a_c_callback():
    net, _ = make_net((4, 9, 3))
    f, X = net.jit(), examples(net, 1)

    @numba.cfunc("void(CPointer(float32), CPointer(float32))")
    def callback(x, out):
        f(numba.carray(x, 4), numba.carray(out, 3))

    out = np.zeros((1, 3), np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    callback.ctypes(X.ctypes.data_as(pointer), out.ctypes.data_as(pointer))
    assert_same_bits(out, one_by_one_in_python(f, X))


def test_from_several_threads():
    net, _ = make_net((4, 9, 3))
    f, X = net.jit(), examples(net, 500)
    expected = one_by_one_in_python(f, X)
    outs = [np.zeros_like(expected) for _ in range(4)]

    def work(out, compiled):
        for _ in range(5):
            out[:] = 0
            if compiled:
                one_by_one(f, X, out)
            else:
                f.batch(X, out)

    threads = [threading.Thread(target=work, args=(out, number % 2)) for number, out in enumerate(outs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        assert_same_bits(out, expected)


# Which parameters


def test_parameters_are_those_of_the_call_or_live(backend):
    net = fastmlp.MLP([4, 9, 3], rng=0, backend=backend)
    X = examples(net, 20)
    fixed, live = net.jit(), net.jit(live=True)
    before = one_by_one_in_python(fixed, X)
    assert_same_bits(one_by_one_in_python(live, X), before)
    net.fit(X, np.ones((20, 3)), optimizer=Adam(), epochs=2)
    trained = one_by_one_in_python(net.jit(), X)
    assert not np.array_equal(trained, before)
    assert_same_bits(one_by_one_in_python(fixed, X), before)
    assert_same_bits(one_by_one_in_python(live, X), trained)
    one_by_one(live, X, out := np.zeros_like(trained))
    assert_same_bits(out, trained)
    net.weights[0][...] = 0.0
    assert_same_bits(one_by_one_in_python(live, X), one_by_one_in_python(net.jit(), X))
    assert repr(live) == "<compiled net 4-9-3, float32, live>"
    assert "fixed" in repr(fixed)


def test_a_function_outlives_its_net():
    net, _ = make_net((40, 90, 30))
    X = examples(net, 5)
    expected = one_by_one_in_python(net.jit(), X)
    f = net.jit(live=True)
    del net
    gc.collect()
    _ = [np.full(10_000, np.nan, np.float32) for _ in range(50)]
    assert_same_bits(one_by_one_in_python(f, X), expected)


def test_compiled_code_keeps_the_net_that_it_was_compiled_with():
    net, _ = make_net((40, 90, 30))
    X, names = examples(net, 5), {"f": net.jit()}
    expected = one_by_one_in_python(names["f"], X)
    exec("def loop(X, out):\n    for i in range(len(X)):\n        f(X[i], out[i])", names)
    loop = numba.njit(names["loop"])
    loop(X, np.empty_like(expected))
    names["f"] = None
    del net
    gc.collect()
    _ = [np.full(10_000, np.nan, np.float32) for _ in range(50)]
    loop(X, out := np.empty_like(expected))
    assert_same_bits(out, expected)


def test_pickles_and_copies_are_compiled_again():
    net, _ = make_net((4, 9, 3))
    X, f = examples(net, 5), net.jit(live=True)
    expected = one_by_one_in_python(f, X)
    other = pickle.loads(pickle.dumps(f))
    net.weights[0][...] = 0.0
    assert_same_bits(one_by_one_in_python(other, X), expected)
    assert not other.live


CACHED = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import warnings
import fastmlp
warnings.simplefilter("ignore")
padding = [np.zeros(1000) for _ in range({padding})]  # other addresses
import cached
net = fastmlp.MLP([4, 9, 3], rng=0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
out = np.zeros((6, 3), np.float32)
cached.loop_of(net.jit(), X, out)
print(out.tobytes() == net.forward(X).tobytes(), sum(cached.loop_of.stats.cache_hits.values()))
loop = cached.make(net.jit())
loop(X, out[:] * 0)
loop(X, out)
print(out.tobytes() == net.forward(X).tobytes(), sum(loop.stats.cache_hits.values()))
"""
CACHED_FUNCTIONS = """
import numba

@numba.njit(cache=True)
def loop_of(f, X, out):
    for i in range(len(X)):
        f(X[i], out[i])

def make(f):
    @numba.njit(cache=True)
    def loop(X, out):
        for i in range(len(X)):
            f(X[i], out[i])
    return loop
"""


def test_numbas_cache_holds_no_address(tmp_path):
    """What takes the net as an argument is kept on disk and found by the next process; what has it inside is not."""
    (tmp_path / "cached.py").write_text(CACHED_FUNCTIONS)
    printed = [
        run_python(CACHED.format(folder=str(tmp_path), padding=n), NUMBA_CACHE_DIR=str(tmp_path / "cache")).split()
        for n in (0, 500)
    ]
    assert printed == [["True", "0", "True", "0"], ["True", "1", "True", "0"]]


# Wrong calls


def test_wrong_shapes_raise_in_compiled_code():
    net, _ = make_net((4, 9, 3))
    f, X, out = net.jit(), examples(net, 6), np.zeros((6, 3), np.float32)
    for call, name in (
        (lambda: one_by_one(f, X[:, :3].copy(), out), r"x has the wrong shape.*\(4,\)"),
        (lambda: one_by_one(f, np.zeros((6, 5), np.float32), out), "x has the wrong shape"),
        (lambda: one_by_one(f, X, out[:, :2].copy()), r"out has the wrong shape.*\(3,\)"),
        (lambda: one_by_one(f, np.zeros((6, 8), np.float32)[:, ::2], out), "x has the wrong shape, or is not cont"),
        (lambda: one_by_one(f, X, np.zeros((6, 6), np.float32)[:, ::2]), "out has the wrong shape, or is not cont"),
        (lambda: at_once(f, X, out[:5]), "out has the wrong shape.*n as X has"),
        (lambda: at_once(f, X[:, :3].copy(), out), "X has the wrong shape"),
        (lambda: at_once(f, X[::2], out[:3]), "X has the wrong shape, or is not cont"),
        (lambda: values_and_jacobians(f, X, out, np.zeros((6, 4, 3), np.float32)), r"J has the wrong shape.*\(3, 4\)"),
        (lambda: values_and_jacobians(f, X, out, np.zeros((6, 3, 8), np.float32)[:, :, ::2]), "J has the wrong"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
    one_by_one(f, np.zeros((6, 8), np.float32)[:, 4:], out)  # rows of a wider array are contiguous


def test_wrong_types_are_errors_at_compile_time():
    net, _ = make_net((4, 9, 3))
    f, X, out = net.jit(), examples(net, 6), np.zeros((6, 3), np.float32)
    fixed = out.copy()
    fixed.flags.writeable = False
    for call, text in (
        (lambda: one_by_one(f, X.astype(np.float64), out), r"x is array\(float64.*takes a float32 array of 1 dim"),
        (lambda: one_by_one(f, X, out.astype(np.float64)), r"out is array\(float64.*takes a writable float32"),
        (lambda: one_by_one(f, X[None], out[None]), "x is array.*2d"),
        (lambda: one_by_one(f, X, fixed), "out is .*takes a writable"),
        (lambda: at_once(f, X[0], out), "X is array.*1d.*2 dimensions"),
        (lambda: values_and_jacobians(f, X, out, out), "J is array.*1d.*2 dimensions"),
    ):
        with pytest.raises(numba.TypingError, match=f"(?s){text}"):
            call()


def test_wrong_calls_from_python():
    net, _ = make_net((4, 9, 3))
    f, x, out, J = net.jit(), np.zeros(4, np.float32), np.zeros(3, np.float32), np.zeros((3, 4), np.float32)
    fixed = out.copy()
    fixed.flags.writeable = False
    X, batch = np.zeros((5, 4), np.float32), np.zeros((5, 3), np.float32)
    for call, error, text in (
        (lambda: f([1, 2, 3, 4], out), TypeError, r"x is a list; expected a float32 array of shape \(4,\)"),
        (lambda: f(x.astype(np.float64), out), TypeError, "x is of dtype float64; this function takes float32"),
        (lambda: f(x[:3], out), ValueError, r"x has shape \(3,\); expected \(4,\)"),
        (lambda: f(X, out), ValueError, r"x has shape \(5, 4\); expected \(4,\)"),
        (lambda: f(np.zeros(8, np.float32)[::2], out), ValueError, "x is not C-contiguous"),
        (lambda: f(x, out[:2]), ValueError, "out has shape"),
        (lambda: f(x, fixed), ValueError, "out cannot be written"),
        (lambda: f.batch(x, batch), ValueError, "X has shape"),
        (lambda: f.batch(3, batch), TypeError, "X is a int"),
        (lambda: f.batch(X, batch[:4]), ValueError, r"out has shape \(4, 3\); expected \(5, 3\)"),
        (lambda: f.batch(X[:, :3], batch), ValueError, "X has shape"),
        (lambda: f.value_and_jacobian(x, out, J.T), ValueError, r"J has shape \(4, 3\); expected \(3, 4\)"),
        (lambda: f.value_and_jacobian(x, out, J.astype(int)), TypeError, "J is of dtype"),
        (lambda: setattr(f, "live", True), AttributeError, "live of a compiled net"),
        (lambda: setattr(f, "n_inputs", 5), AttributeError, "n_inputs"),
        (lambda: net.jit(live=1), TypeError, "live is 1"),
        (lambda: fastmlp.MLP([2, 40_000, 1], initializer="zeros").jit(), ValueError, "40000 units is too wide"),
    ):
        with pytest.raises(error, match=text):
            call()
    assert not out.any()


def test_wide_layers(dtype):
    net, expected = make_net((3, 5000, 2), dtype=dtype, output_activation="softmax")
    X = examples(net, 14)
    f = net.jit()
    outputs = one_by_one_in_python(f, X)
    f.batch(X, out := np.zeros_like(outputs))
    assert_same_bits(out, outputs)
    assert_same_bits(outputs, net.forward(X))
    J = np.zeros((2, 3), dtype)
    f.value_and_jacobian(X[0], out[0], J)
    expected_row = net.backward(X[0], np.array([1.0, 0.0]), input_gradient=True).input
    assert_close(J[0], expected_row, dtype, scale=20)
    f.value_and_jacobian(X[0] * np.nan, out[0], J)
    f.value_and_jacobian(X[0], out[0], J)
    assert_close(J[0], expected_row, dtype, scale=20)


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_instruction_sets(level):
    code = """
import numpy as np
import fastmlp
net = fastmlp.MLP([5, 33, 9, 3], activation=["tanh", "gelu"], output_activation="softmax", rng=0, backend="numpy")
X = np.random.default_rng(0).normal(size=(14, 5)).astype(np.float32)
out = np.zeros((14, 3), np.float32)
net.jit().batch(X, out)
print(np.abs(out - net.forward(X)).max() < 1e-6)
"""
    assert run_python(code, FASTMLP_ISA=level).split() == ["True"]


def test_code_for_wider_vectors_compiles():
    """Whatever this processor is: tiles for 32 registers."""
    from fastmlp._backends._numba._specialized import machine_code
    from fastmlp._backends._numba._target import _AVX512, _X86, Target

    if not _X86:
        pytest.skip("AVX-512 is of x86")
    features = ",".join(f"+{name}" for name in (*_AVX512, "avx2", "fma"))
    net, _ = make_net((17, 64, 100, 40), activation=("tanh", "relu"), output_activation="softmax")
    assert len(machine_code(net._architecture, Target("avx512", 64, True, "skylake-avx512", features))) > 1000


def test_numba_is_not_imported_before():
    code = """
import sys
import fastmlp
net = fastmlp.MLP([2, 3, 1], rng=0, backend="numpy")
net.bind()()
assert "numba" not in sys.modules and not any(name.startswith("fastmlp._jit") for name in sys.modules)
net.jit()
print("numba" in sys.modules)
"""
    assert run_python(code).split() == ["True"]
