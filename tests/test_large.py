"""How much memory calls take, and indices beyond 31 bits. large_worker.py has what must run in a fresh process."""

import functools
import sys
import tracemalloc

import numpy as np
import pytest
from support import assert_close, assert_same_bits, make_examples, make_net, run_python

import fastmlp
from fastmlp import SGD, Adam

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of the memory anew")


def measure(function, *arguments):
    # Once a block is freed, glibc takes others of its size from the heap, where freed ones may stay resident: a fit
    # from slices seemed to hold two of 17 MB. A threshold that is set is not raised.
    code = f"from large_worker import *; {function}(*{arguments!r})"
    return run_python(code, MALLOC_MMAP_THRESHOLD_="1000000")


@needs_linux
def test_a_net_of_200_million_parameters(compiled_backend, tmp_path):
    # To draw the weights, and to keep them, takes longer than all the rest; once is enough.
    initializer = "he_uniform" if compiled_backend == "c" else "zeros"
    assert "fit taken=" in measure("large_net", compiled_backend, initializer, str(tmp_path))


@needs_linux
def test_a_million_rows(compiled_backend):
    assert "uint8 fit taken=" in measure("many_rows", compiled_backend)


@needs_linux
def test_a_fit_of_60000_images(compiled_backend):
    assert "float64 taken=" in measure("images", compiled_backend)


@needs_linux
def test_a_fit_from_slices_holds_one_block(backend, tmp_path):
    assert "slices blocks taken=" in measure("slices", backend, str(tmp_path))


# Steps in the steady state. ------------------------------------------------------------------------------


def peak_of(function):
    """The most memory that Python and NumPy had at a time beyond what they had before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [lambda: SGD(lr=0.01), Adam, lambda: Adam(clip_norm=1.0)], ids=["sgd", "adam", "clip"])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sizes, n", [((2, 2, 1), 4), ((30, 50, 10), 64), ((300, 500, 10), 520)])
def test_a_step_allocates_nothing(compiled_backend, dtype, sizes, n, n_threads, make):
    """But Python's own numbers, the loss and the count of steps, and what two Python threads exchange."""
    net, _ = make_net(sizes, dtype=dtype, dropout=0.1, backend=compiled_backend, n_threads=n_threads)
    X, y = make_examples(net, n)
    optimizer = make()
    for _ in range(3):
        optimizer.step(net, X, y)

    def steps():
        for _ in range(5):
            optimizer.step(net, X, y)

    # The smallest arena of a large net has 20 kB, a workspace 100 kB.
    assert min(peak_of(steps) for _ in range(3)) < (1500 if n_threads == 1 else 6000)


def test_a_fit_allocates_as_much_for_many_steps_as_for_few(compiled_backend):
    """The order and the losses alone grow with the examples."""
    peaks = []
    for n in (640, 64000):
        net, _ = make_net((20, 30, 3), output_activation="softmax", backend=compiled_backend)
        X, y = make_examples(net, n)
        optimizer = Adam()
        net.fit(X[:64], y[:64], optimizer=optimizer, batch_size=64)
        peaks.append(peak_of(functools.partial(net.fit, X, y, optimizer=optimizer, batch_size=64)))
        peaks[-1] -= n * 8 + 2 * (n // 64 * 8)  # the order; losses, and their shares of the mean
    assert abs(peaks[1] - peaks[0]) < 20_000


def test_forward_allocates_its_result(compiled_backend):
    net, _ = make_net((30, 50, 10), backend=compiled_backend)
    X, _ = make_examples(net, 300)
    out = np.empty((300, 10), np.float32)
    net.forward(X)
    assert peak_of(lambda: net.forward(X)) < out.nbytes + 2000
    net.forward(X, out=out)
    assert peak_of(lambda: net.forward(X, out=out)) < 3000


# Beyond 31 bits. -----------------------------------------------------------------------------------------

FAR = 2**31 + 48  # elements from one to the next


@pytest.fixture
def sparse_file(tmp_path):
    """A file with room for far more than the memory, of which only the pages that are written take any."""

    def make(n_bytes):
        path = tmp_path / "sparse"
        with open(path, "wb") as file:
            file.truncate(n_bytes)
        return np.memmap(path, np.uint8, mode="r+", shape=(n_bytes,))

    return make


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_elements_further_apart_than_2_to_the_31(compiled_backend, dtype, axis, kind, sparse_file):
    """19 rows, or 5 columns, each more than 2^31 elements after the one before."""
    net, _ = make_net((5, 7, 3), output_activation="softmax", dtype=dtype, backend=compiled_backend)
    X, y = make_examples(net, 19)
    X = (10 * X).astype(kind)
    steps, counts = ((FAR, 1), 19) if axis == "rows" else ((1, FAR), 5)
    strides = tuple(step * X.itemsize for step in steps)
    memory = sparse_file((counts - 1) * FAR * X.itemsize + 4096)
    far = np.lib.stride_tricks.as_strided(memory[:4096].view(kind), X.shape, strides)
    far[...] = X
    far_y = np.lib.stride_tricks.as_strided(
        memory[2048:4096].view(np.int64), (19,), (FAR * X.itemsize if axis == "rows" else 8,)
    )
    far_y[...] = y
    assert_same_bits(net.forward(far), net.forward(X))
    assert net.loss(far, far_y) == net.loss(X, y)
    assert_same_bits(net.loss_and_gradients(far, far_y)[1].flat, net.loss_and_gradients(X, y)[1].flat)
    other = net.copy()
    for trained, inputs, targets in ((net, far, far_y), (other, X, y)):
        trained.fit(inputs, targets, epochs=2, batch_size=8, rng=np.random.default_rng(5))
        SGD(lr=0.1).step(trained, inputs, targets)
    assert_same_bits(net.parameters, other.parameters)


def test_more_parameters_than_2_to_the_31(compiled_backend):
    """Weights of zero take no memory until they are written: the layers behind them begin beyond 2^31 elements."""
    net = fastmlp.MLP([2**15 + 16, 2**16, 3, 2], initializer="zeros", backend=compiled_backend)
    assert net.n_parameters > 2**31
    random = np.random.default_rng(0)
    few = random.integers(0, 2**16, 50)
    net.biases[0][few] = random.random(50)
    net.weights[1][:, few] = random.normal(size=(3, 50))
    net.weights[2][...] = random.normal(size=(2, 3))
    net.biases[2][...] = random.normal(size=2)
    net.weights[0][few[0], -1] = 2.0
    x = np.zeros(2**15 + 16, np.float32)
    x[-1] = 0.5
    hidden = np.maximum(net.biases[0].astype(float) + net.weights[0][:, -1] * 0.5, 0.0)
    second = np.maximum(net.weights[1].astype(float) @ hidden, 0.0)
    assert_close(net.forward(x), net.weights[2].astype(float) @ second + net.biases[2], "float32", scale=4)


# Data in files. ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
def test_a_memmap_gives_the_bits_of_the_array(backend, kind, order, shuffle, tmp_path):
    net, _ = make_net((6, 12, 3), output_activation="softmax", backend=backend, rng=3)
    other = net.copy()
    X, y = make_examples(net, 90)
    X = np.abs(10 * X).astype(kind)
    mapped = np.memmap(tmp_path / "X", X.dtype, mode="w+", shape=X.shape, order=order)
    mapped[...] = X
    mapped.flush()
    mapped = np.memmap(tmp_path / "X", X.dtype, mode="r", shape=X.shape, order=order)
    mapped_y = np.memmap(tmp_path / "y", y.dtype, mode="w+", shape=y.shape)
    mapped_y[...] = y
    for trained, inputs, targets in ((net, mapped, mapped_y), (other, X, y)):
        trained.fit(
            inputs, targets, epochs=3, batch_size=8, shuffle=shuffle, block_rows=20, validation_data=(inputs, targets)
        )
    assert_same_bits(net.parameters, other.parameters)
    assert_same_bits(net.forward(mapped), net.forward(X))
    assert net.loss(mapped, mapped_y) == net.loss(X, y)
