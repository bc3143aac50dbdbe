"""MLP.bind: the outputs of forward through buffers that stay, whatever becomes of the network."""

import copy
import gc
import pickle
import threading

import numpy as np
import oracle
import pytest
from support import assert_close, assert_same_bits, make_net

import fastmlp
from fastmlp import Adam


@pytest.fixture
def net(backend, dtype):
    return make_net((8, 13, 5, 3), activation=("tanh", "relu"), backend=backend, dtype=dtype)[0]


def examples(net, n):
    return np.random.default_rng(5).normal(size=(n, net.layer_sizes[0])).astype(net.dtype)


@pytest.mark.parametrize("sizes", [(1, 1), (8, 64, 64, 4), (5, 300, 17), (9, 300, 300, 2)])
@pytest.mark.parametrize("output", ["identity", "softmax"])
def test_outputs_are_right(sizes, output, backend, dtype):
    net, expected = make_net(sizes, output_activation=output, backend=backend, dtype=dtype)
    X = examples(net, 3)
    p = net.bind()
    assert p.x.shape == sizes[:1] and p.y.shape == sizes[-1:] and p.x.dtype == p.y.dtype == net.dtype
    for x, y in zip(X, oracle.fast_forward(expected, X)):
        p.x[:] = x
        assert p() is p.y
        assert_close(p.y, y, dtype)
        p.y[:] = 0
        assert p.run() is None
        assert_close(p.y, y, dtype)
        assert_same_bits(p(x), net.forward(x))
        assert_same_bits(p.y, net.forward(x))


@pytest.mark.parametrize("n", [2, 7, 600])
def test_several_examples(net, n):
    X = examples(net, n)
    p = net.bind(n)
    assert p.x.shape == (n, 8) and p.y.shape == (n, 3)
    p.x[:] = X
    assert_same_bits(p(), net.forward(X))
    assert_same_bits(p(X[::-1]), net.forward(X[::-1]))


def test_results_of_calls_with_x_are_new_arrays(net):
    X = examples(net, 2)
    p = net.bind()
    first = p(X[0])
    kept = first.copy()
    second = p(X[1])
    assert first is not second and not np.shares_memory(first, p.y)
    assert_same_bits(first, kept)


def test_other_numbers_are_converted(net):
    p = net.bind()
    x = np.arange(8)
    expected = net.forward(x)
    wide = np.zeros((8, 3))
    wide[:, 1] = x
    for given in (list(range(8)), x, x.astype(np.float64), x.astype(np.float32), x.astype(">f8"), wide[:, 1], range(8)):
        assert_same_bits(p(given), expected)


def test_numbers_at_odd_addresses(net):
    p = net.bind()
    x = examples(net, 1)[0]
    for dtype in (np.float32, np.float64):
        place = np.zeros(8 * np.dtype(dtype).itemsize + 1, np.uint8)[1:].view(dtype)
        place[:] = x
        assert not place.flags.aligned
        assert_same_bits(p(place), net.forward(place.copy()))
        assert_same_bits(net.forward(place), net.forward(place.copy()))


def test_special_numbers(net):
    p = net.bind()
    for value in (np.nan, np.inf, -np.inf, 1e-310, -0.0):
        x = np.full(8, value).astype(net.dtype)
        np.testing.assert_array_equal(p(x), net.forward(x))


def test_it_follows_the_network(net):
    x = examples(net, 1)[0]
    p, before = net.bind(), net.forward(x)
    net.fit(examples(net, 20), np.ones((20, 3)), optimizer=Adam(), epochs=2)
    assert not np.array_equal(net.forward(x), before)
    assert_same_bits(p(x), net.forward(x))
    net.set_weights([np.zeros_like(w) for w in net.weights], [np.full_like(b, 0.5) for b in net.biases])
    np.testing.assert_array_equal(p(), np.full(3, 0.5))
    fastmlp.set_num_threads(1)
    try:
        net.biases[-1][...] = 2.0
        np.testing.assert_array_equal(p(), np.full(3, 2.0))
    finally:
        fastmlp.set_num_threads(None)


def test_it_outlives_the_network(net):
    x = examples(net, 1)[0]
    expected = net.forward(x)
    p = net.bind()
    x_place, y_place = p.x, p.y
    del net
    gc.collect()
    _ = [np.full(1000, np.nan) for _ in range(50)]
    assert_same_bits(p(x), expected)
    run = p.run
    del p
    gc.collect()
    _ = [np.full(1000, np.nan) for _ in range(50)]
    y_place[:] = 0
    run()
    assert_same_bits(y_place, expected)
    del run
    gc.collect()
    x_place[:], y_place[:] = 1.0, 2.0  # the arrays own their memory


def test_wrong_inputs(net):
    p = net.bind()
    p(np.ones(8))
    x, y = p.x.copy(), p.y.copy()
    for given, error, text in (
        (np.ones(7), ValueError, r"x has shape \(7,\); this predictor takes \(8,\)"),
        (np.ones((1, 8)), ValueError, r"x has shape \(1, 8\)"),
        (np.ones(1), ValueError, "x has shape"),
        (np.array(1.0), ValueError, "x has shape"),
        (3.0, ValueError, "x has shape"),
        ("8 numbers", TypeError, "x has dtype"),
        (np.ones(8, complex), TypeError, "x has dtype complex128; expected real numbers"),
        ([[1, 2], [3]], ValueError, "x is no array"),
        (np.ma.masked_array(np.ones(8), mask=True), TypeError, "x is a masked array"),
    ):
        with pytest.raises(error, match=text):
            p(given)
    with pytest.raises(ValueError, match=r"x has shape \(8,\); this predictor takes \(2, 8\)"):
        net.bind(2)(np.ones(8))
    assert_same_bits(p.x, x)
    assert_same_bits(p.y, y)


def test_wrong_calls(net):
    for n, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="n is"):
            net.bind(n)
    with pytest.raises(ValueError, match="no memory can hold"):
        net.bind(2**60)
    p = net.bind()
    for name in ("x", "y", "run"):
        with pytest.raises(AttributeError):
            setattr(p, name, np.zeros(8))  # p.x[:] was meant
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="bind it again"):
            action(p)
    assert repr(p) == "<predictor for 1 example of 8-13-5-3>"
    assert repr(net.bind(3)) == "<predictor for 3 examples of 8-13-5-3>"


def test_one_predictor_in_two_threads_crashes_nothing(net):
    """What it returns may then be mixed up."""
    X, p = examples(net, 4), net.bind()

    def work(x):
        for _ in range(2000):
            p(x)
            p()

    run_in_threads(work, X)
    assert_same_bits(p(X[0]), net.forward(X[0]))


def test_a_predictor_for_each_thread(net):
    X = examples(net, 4)
    expected = [net.forward(x) for x in X]
    wrong = []

    def work(number):
        p = net.bind()
        for _ in range(500):
            if p(X[number]).tobytes() != expected[number].tobytes():
                wrong.append(number)

    run_in_threads(work, range(4))
    assert not wrong


def run_in_threads(work, arguments):
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
