"""forward, logits and step on arrays like those before: a shorter way, through builtins, or in Python without them."""

import gc
import threading

import numpy as np
import oracle
import pytest
from support import assert_close, assert_same_bits, make_examples, make_net
from test_threads import run_in_threads

import fastmlp
from fastmlp import _guards
from fastmlp._backends import _compiled
from fastmlp._backends._kept_calls import MOST_SHAPES, OFTEN

SIZES = (5, 7, 3)


@pytest.fixture(params=["builtins", "python"])
def way(request, monkeypatch):
    """Each way in turn; nets made meanwhile take it."""
    if request.param == "python":
        monkeypatch.setattr(_compiled, "_bound_call", None)
    else:
        assert _compiled._bound_call is not None or "c" not in fastmlp.available_backends()
    return request.param


def misplaced(array):
    """The same numbers, each at an odd address."""
    place = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    place[...] = array
    assert not place.flags.aligned
    return place


def variants(X):
    """Arrays, and what can be made one, with the numbers of X."""
    twice = np.repeat(X, 2, axis=-1)
    return [
        X,
        X.astype("float32"),
        X.astype("float64"),
        twice[..., ::2],
        misplaced(X),
        X.astype(X.dtype.newbyteorder()),
        np.asfortranarray(X),
        np.broadcast_to(X, X.shape),  # not to be written to
        X.view(np.recarray),
        X.tolist(),
        X.astype("float16"),
    ]


def whole_numbers(shape, dtype):
    """Which every dtype holds."""
    return np.random.default_rng(3).integers(-4, 5, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 5), (64, 5), (300, 5)])
@pytest.mark.parametrize("call", ["forward", "logits", "__call__"])
def test_outputs_of_repeated_calls(way, backend, dtype, call, shape):
    net, expected = make_net(SIZES, backend=backend, dtype=dtype, output_activation="softmax")
    right = oracle.logits if call == "logits" else oracle.forward
    results, expectations = [], []
    for seed in range(4):
        X = np.random.default_rng(seed).normal(size=shape).astype(dtype)
        results.append(getattr(net, call)(X))
        expectations.append(right(expected, np.atleast_2d(X)).reshape(*shape[:-1], 3))
    for actual, expectation in zip(results, expectations):  # the later calls have left the earlier results alone
        assert actual.dtype == np.dtype(dtype) and actual.flags.owndata
        assert_close(actual, expectation, dtype)


@pytest.mark.parametrize("shape", [(5,), (1000,), (4, 1000), (256, 5)])
def test_calls_that_are_repeated(way, compiled_backend, shape):
    """One example counts as one row, however many inputs it has."""
    net, expected = make_net((shape[-1], 7, 3), backend=compiled_backend)
    X = np.random.default_rng(0).normal(size=shape).astype("float32")
    assert net._engine.repeat_forward(X) is None
    net.forward(X)
    if not _guards.active:
        right = oracle.fast_forward(expected, np.atleast_2d(X)).reshape(*shape[:-1], 3)
        assert_close(net._engine.repeat_forward(X), right, "float32")


@pytest.mark.parametrize("shape", [(5,), (6, 5)])
def test_other_arrays_after_a_call(way, backend, dtype, shape):
    net, _ = make_net(SIZES, backend=backend, dtype=dtype)
    X = whole_numbers(shape, dtype)
    expected = net.forward(X)
    for given in variants(X):
        for _ in range(2):
            assert_same_bits(net.forward(X), expected)
            assert_same_bits(net.forward(given), expected)
    if shape == (5,):
        assert_same_bits(net.forward(X[None]), expected[None])


def test_wrong_inputs_after_a_call(way, backend, dtype):
    net, _ = make_net(SIZES, backend=backend, dtype=dtype)
    x = whole_numbers((5,), dtype)
    expected = net.forward(x)
    for wrong in (
        x[:4],
        np.zeros((2, 4), dtype),
        np.zeros((2, 2, 5), dtype),
        x.astype(complex),
        x.astype("U3"),
        None,
        "x",
    ):
        with pytest.raises((TypeError, ValueError), match="^X "):
            net.forward(wrong)
        assert_same_bits(net.forward(x), expected)
    empty = net.forward(np.zeros((0, 5), dtype))
    assert empty.shape == (0, 3)


def test_more_shapes_than_are_kept(way, backend, dtype):
    """Also of calls whose memory would be gone, were it not kept by the function that uses it."""
    net, expected = make_net(SIZES, backend=backend, dtype=dtype)
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(dtype)
    right = oracle.fast_forward(expected, X)
    functions = []
    for _ in range(2):
        for n in range(1, 40):
            for _ in range(1 if _guards.active else OFTEN):
                Y = net.forward(X[:n])
            assert_close(Y, right[:n], dtype)
            functions.append((n, net._engine.repeat_forward))
    if backend == "numpy" or _guards.active:
        return
    del net
    gc.collect()
    filler = [np.full(2**14, np.nan) for _ in range(100)]
    for n, function in functions:
        assert_close(function(X[:n]), right[:n], dtype)
    del filler


def test_shapes_by_turns_are_not_made_again_and_again(compiled_backend, monkeypatch):
    """A call costs more to make than it saves once."""
    net, halves = pair(backend=compiled_backend)
    X, y = make_examples(net, 3 * MOST_SHAPES)
    sizes, turns = range(1, len(X) + 1), 2 if _guards.active else OFTEN - 1
    right = [halves.forward(X[:n]) for n in sizes]
    made = []
    for kind in (_compiled.Answer, _compiled.StepCall):
        name = kind.__name__
        monkeypatch.setattr(_compiled, name, lambda *a, kind=kind, name=name: made.append(name) or kind(*a))
    for _ in range(turns):
        for n in sizes:
            assert_same_bits(net.forward(X[:n]), right[n - 1])
    one, two = (fastmlp.SGD(lr=1e-3) for _ in range(2))
    for _ in range(turns):
        for n in sizes:
            loss, gradients = halves.loss_and_gradients(X[:n], y[:n], training=True)
            two.apply(halves, gradients)
            assert one.step(net, X[:n], y[:n]) == loss
    assert_same_bits(net.parameters, halves.parameters)
    assert made == ["Answer"] * MOST_SHAPES + ["StepCall"] * MOST_SHAPES


@pytest.mark.parametrize("sizes, n", [((5, 7, 3), 64), ((5, 300, 300, 3), 64)], ids=["short", "long"])
def test_threads_share_a_call(way, backend, sizes, n):
    """A long call lets other threads run, which find its memory in use."""
    net, expected = make_net(sizes, backend=backend)
    inputs = [np.random.default_rng(seed).normal(size=(n, 5)).astype("float32") for seed in range(8)]
    right = [oracle.fast_forward(expected, X) for X in inputs]

    def call(k):
        for _ in range(30):
            assert_close(net.forward(inputs[k]), right[k], "float32")

    run_in_threads(*(lambda k=k: call(k) for k in range(8)))


# Steps. ------------------------------------------------------------------------------------------------


def pair(**settings):
    """A net for repeated steps, and one whose steps are taken in halves, which repeats nothing."""
    return (make_net(SIZES, **settings)[0] for _ in range(2))


def check_steps(net, halves, batches, make_optimizer=lambda: fastmlp.Adam(lr=0.01)):
    one, two = make_optimizer(), make_optimizer()
    for X, y in batches:
        loss, gradients = halves.loss_and_gradients(X, y, training=True)
        two.apply(halves, gradients)
        assert one.step(net, X, y) == loss
        assert_same_bits(net.parameters, halves.parameters)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_steps_on_other_arrays(way, backend, dtype, output, dropout):
    net, halves = pair(backend=backend, dtype=dtype, output_activation=output, dropout=dropout)
    X, y = make_examples(net, 12)
    X = whole_numbers(X.shape, dtype)
    one_column = np.broadcast_to(X[:, :1], X.shape)
    batches = [(given, y) for given in variants(X)] + [
        (X, y),
        (one_column, y),
        (X, y),
        (X[::2], y[::2]),
        (X, y),
    ]
    other_targets = [np.asfortranarray(y), misplaced(y), y.astype(y.dtype.newbyteorder()), y.tolist(), y[::-1]]
    batches += [(X, given) for targets in other_targets for given in (y, targets)]
    if output != "softmax":
        batches += [(X, y.astype("float32").astype("float64")), (X, np.ones(y.shape, np.int64)), (X, y)]
    check_steps(net, halves, batches)


@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_steps_on_one_target_with_and_without_an_axis(way, backend, dtype, output):
    net, halves = (make_net((5, 7, 1), backend=backend, dtype=dtype, output_activation=output)[0] for _ in range(2))
    X, y = make_examples(net, 12)
    check_steps(net, halves, [(X, y), (X, y[:, 0]), (X, y), (X, y[:, 0]), (X, y[:, 0].copy())])


def test_batches_and_optimizers_take_turns(way, backend, dtype):
    net, halves = pair(backend=backend, dtype=dtype, output_activation="softmax")
    X, y = make_examples(net, 40)
    ones, twos = ([fastmlp.SGD(lr=0.1), fastmlp.Adam(lr=0.01)] for _ in range(2))
    for k in range(60):
        n = (8, 8, 3, k % 30 + 1)[k % 4]
        loss, gradients = halves.loss_and_gradients(X[:n], y[:n])
        twos[k // 5 % 2].apply(halves, gradients)
        assert ones[k // 5 % 2].step(net, X[:n], y[:n]) == loss
        assert_same_bits(net.parameters, halves.parameters)


def test_a_new_learning_rate(way, backend, dtype):
    net, halves = pair(backend=backend, dtype=dtype)
    X, y = make_examples(net, 9)
    one, two = fastmlp.SGD(lr=0.1), fastmlp.SGD(lr=0.1)
    for lr in (0.1, 0.2, 0.0, lambda epoch: 0.05, 0.3):
        one.lr = two.lr = lr
        for _ in range(2):
            two.apply(halves, halves.loss_and_gradients(X, y)[1])
            one.step(net, X, y)
            assert_same_bits(net.parameters, halves.parameters)


@pytest.mark.parametrize(
    "output, wrong",
    [("softmax", 3), ("softmax", -1), ("softmax", 2**40), ("sigmoid", 1.5), ("sigmoid", -0.1), ("exp", -1.0)],
)
def test_a_wrong_target_after_a_step(way, backend, dtype, output, wrong):
    net, _ = make_net(SIZES, backend=backend, dtype=dtype, output_activation=output)
    X, y = make_examples(net, 12)
    optimizer = fastmlp.SGD(lr=0.1)
    for _ in range(2):
        optimizer.step(net, X, y)
        before, count = net.parameters.copy(), net._dropout_step
        bad = y.copy()
        bad[7] = wrong
        with pytest.raises(ValueError, match="^y "):
            optimizer.step(net, X, bad)
        assert_same_bits(net.parameters, before)
        assert net._dropout_step == count


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_after_a_step(way, backend, dtype, wrong):
    net, _ = make_net(SIZES, backend=backend, dtype=dtype)
    X, y = make_examples(net, 12)
    optimizer = fastmlp.SGD(lr=0.1)
    for _ in range(2):
        optimizer.step(net, X, y)
        before = net.parameters.copy()
        for bad in (
            (np.where(X == X[3, 2], wrong, X).astype(dtype), y),
            (X, np.where(y == y[3, 1], wrong, y).astype(dtype)),
        ):
            with pytest.raises((FloatingPointError, ValueError)):
                optimizer.step(net, *bad)
            assert_same_bits(net.parameters, before)


@pytest.mark.parametrize("sizes, n", [((5, 7, 3), 12), ((5, 300, 300, 3), 64)], ids=["short", "long"])
def test_no_step_while_a_net_is_trained(way, backend, sizes, n):
    net, _ = make_net(sizes, backend=backend)
    X, y = make_examples(net, n)
    optimizer = fastmlp.SGD(lr=0.01)
    steps = [lambda: optimizer.step(net, X, y), lambda: run_in_threads(lambda: optimizer.step(net, X, y))]
    for step in steps:
        step()
    refused = []

    def callback(net, history):
        before = net.parameters.copy()
        for step in steps:
            with pytest.raises(RuntimeError, match="already being trained"):
                step()
            refused.append(step)
        assert_same_bits(net.parameters, before)

    net.fit(X, y, optimizer=fastmlp.SGD(), epochs=2, callbacks=[callback])
    assert len(refused) == 4
    for step in steps:
        step()


@pytest.mark.parametrize("sizes, n", [((5, 7, 3), 12), ((5, 300, 300, 3), 64)], ids=["short", "long"])
def test_steps_of_two_threads_exclude_each_other(way, backend, sizes, n):
    """Each is taken whole or refused: the parameters are those of as many steps in turn."""
    net, _ = make_net(sizes, backend=backend)
    other, _ = make_net(sizes, backend=backend)
    X, y = make_examples(net, n)
    optimizer, taken = fastmlp.SGD(lr=0.001), []

    def train():
        for _ in range(50):
            try:
                optimizer.step(net, X, y)
            except RuntimeError:
                continue
            taken.append(1)

    run_in_threads(train, train)
    again = fastmlp.SGD(lr=0.001)
    for _ in taken:
        again.step(other, X, y)
    assert_same_bits(net.parameters, other.parameters)


def test_a_step_refused_leaves_the_targets_of_the_one_under_way_alone(way, backend):
    """They lie in a place of the net's own, and were checked there."""
    net, _ = make_net((5, 300, 300, 3), backend=backend, output_activation="softmax")
    other, _ = make_net((5, 300, 300, 3), backend=backend, output_activation="softmax")
    X, y = make_examples(net, 64)
    wrong = np.full_like(y, 2**40)  # which as classes would be read from anywhere
    optimizer, again = fastmlp.SGD(lr=0.001), fastmlp.SGD(lr=0.001)
    optimizer.step(net, X, y)
    again.step(other, X, y)
    done = threading.Event()

    def train():
        taken = 0
        while taken < 200:
            try:
                optimizer.step(net, X, y)
                taken += 1
            except RuntimeError:  # the other thread holds the lock
                pass
        done.set()

    def disturb():
        while not done.is_set():
            with pytest.raises((RuntimeError, ValueError)):
                optimizer.step(net, X, wrong)

    run_in_threads(train, disturb)
    for _ in range(200):
        again.step(other, X, y)
    assert_same_bits(net.parameters, other.parameters)


def test_steps_of_nets_that_are_gone(way, compiled_backend):
    """The function that repeats a step keeps what it uses, and no net."""
    for _ in range(20):
        net, _ = make_net(SIZES, backend=compiled_backend)
        X, y = make_examples(net, 12)
        optimizer = fastmlp.SGD(lr=0.1)
        optimizer.step(net, X, y)
        repeat, update, lock = net._engine.repeat_step, optimizer._update, net._training_lock
        del net
        gc.collect()
        filler = [np.full(2**12, np.nan) for _ in range(50)]
        if not _guards.active:
            losses = [repeat(X, y, update, optimizer._table, 1, lock) for _ in range(10)]
            assert np.isfinite(losses).all() and losses[-1] < losses[0]
        with pytest.raises(RuntimeError, match="keeps the state of another network"):
            optimizer.step(make_net(SIZES, backend=compiled_backend)[0], X, y)
        del filler
