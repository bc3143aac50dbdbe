"""What may be handed in: every dtype and memory order with its result, everything else with its error."""

import re

import numpy as np
import pytest
from support import assert_close, assert_same_bits, make_examples, make_net

import fastmlp
from fastmlp._backends._plan import readable

sparse = pytest.importorskip("scipy.sparse", reason="scipy gives the sparse matrices")


def call_everything(net, X, y):
    """All results of an X and its targets that do not change the net."""
    loss, gradients = net.loss_and_gradients(X, y)
    return [net.forward(X), net.logits(X), net.predict(X), net.loss(X, y), loss, gradients.flat, net.accuracy(X, y)]


def check_equal_results(net, X, y, plain_X, plain_y):
    for actual, expected in zip(call_everything(net, X, y), call_everything(net, plain_X, plain_y)):
        assert_same_bits(actual, expected)


def variants_of(values):
    """The same small integers as arrays of many kinds."""
    wide = np.zeros((2 * values.shape[0], 3 * values.shape[1]))
    wide[::2, ::3] = values
    return {
        "strided": wide[::2, ::3],
        "negative strides": values[::-1, ::-1].copy()[::-1, ::-1],
        "fortran": np.asfortranarray(values),
        "transposed": values.T.copy().T,
        "list": values.tolist(),
        "tuple": tuple(map(tuple, values.tolist())),
        "read only": np.frombuffer(values.astype(np.float64).tobytes()).reshape(values.shape),
        "big endian": values.astype(">f4"),
        "unaligned": np.frombuffer(b"x" + values.astype(np.float32).tobytes(), np.uint8)[1:]
        .view(np.float32)
        .reshape(values.shape),
        "memoryview": memoryview(np.ascontiguousarray(values, dtype=np.float64)),
        "broadcast": np.broadcast_to(values[:1], values.shape),
        **{name: values.astype(name) for name in ("float16", "float32", "float64", "int8", "uint8", "int32", "int64")},
    }


VALUES = np.random.default_rng(0).integers(0, 9, (7, 4)).astype(float)


@pytest.mark.parametrize("kind", variants_of(VALUES))
@pytest.mark.parametrize("output", ["identity", "softmax"])
def test_kinds_of_arrays(backend, dtype, kind, output):
    net, _ = make_net((4, 6, 4), output_activation=output, dtype=dtype, backend=backend)
    X = variants_of(VALUES)[kind]
    plain = np.ascontiguousarray(np.asarray(X), dtype=dtype)
    if output == "softmax":
        check_equal_results(net, X, [0, 1, 2, 3, 3, 2, 0], plain, np.array([0, 1, 2, 3, 3, 2, 0]))
    # Their own targets, too: real ones, or unnormalised probabilities.
    loss, gradients = net.loss_and_gradients(X, X)
    plain_loss, plain_gradients = net.loss_and_gradients(plain, plain)
    assert loss == plain_loss
    assert_same_bits(gradients.flat, plain_gradients.flat)
    assert_same_bits(net.forward(X), net.forward(plain))


def test_booleans(backend, dtype):
    net, _ = make_net((4, 6, 1), output_activation="sigmoid", dtype=dtype, backend=backend)
    X = VALUES > 4
    y = X[:, 0]
    check_equal_results(net, X, y, X.astype(dtype), y.astype(dtype)[:, None])


def test_float64_input_of_a_float32_net_is_rounded(backend):
    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    X = np.random.default_rng(0).normal(size=(9, 4))
    y = np.arange(9) % 3
    assert net.forward(X).dtype == np.float32
    check_equal_results(net, X, y, X.astype(np.float32), y)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "int64", "uint64", "float32", "float64", "list"])
def test_kinds_of_class_labels(backend, kind):
    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    X, y = make_examples(net, 9)
    labels = y.tolist() if kind == "list" else y.astype(kind)
    if kind.startswith("float"):
        # Whole numbers are taken as classes or refused, never silently as something else.
        try:
            assert net.loss(X, labels) == net.loss(X, y)
        except (TypeError, ValueError) as error:
            assert "class" in str(error) or "integer" in str(error)
        return
    check_equal_results(net, X, labels, X, y)
    assert net.loss(X, y[::-1][::-1]) == net.loss(X, y)


def test_sparse_input(backend, dtype):
    dense = np.where(VALUES > 5, VALUES, 0.0)
    y = np.arange(7) % 4
    for make in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, sparse.csc_array):
        net, _ = make_net((4, 6, 4), output_activation="softmax", dtype=dtype, backend=backend)
        X = make(dense)
        assert_same_bits(net.forward(X), net.forward(dense))
        assert_same_bits(net.predict(X), net.predict(dense))
        other, _ = make_net((4, 6, 4), output_activation="softmax", dtype=dtype, backend=backend)
        for trained, data in ((net, X), (other, dense.astype(dtype))):
            trained.fit(data, y, epochs=2, batch_size=3, rng=np.random.default_rng(5))
        assert_same_bits(net.parameters, other.parameters)
    X = sparse.csr_array(dense)
    assert net.loss(X, y) == net.loss(dense, y)
    assert net.accuracy(X, y) == net.accuracy(dense, y)
    assert_same_bits(net.loss_and_gradients(X, y)[1].flat, net.loss_and_gradients(dense, y)[1].flat)
    history = net.fit(X, y, validation_data=(X, y))
    assert history.val_loss == [net.loss(dense, y)]


def test_sparse_input_of_many_rows(backend):
    random = np.random.default_rng(0)
    X = sparse.csr_array(np.where(random.random((1300, 20)) < 0.1, random.normal(size=(1300, 20)), 0.0))
    net, _ = make_net((20, 6, 4), output_activation="softmax", backend=backend)
    assert_same_bits(net.forward(X), net.forward(X.toarray()))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (4, 3)])
def test_one_row_and_size_one(backend, dtype, sizes):
    net, _ = make_net(sizes, dtype=dtype, backend=backend)
    X, y = make_examples(net, 1)
    assert net.forward(X).shape == (1, sizes[-1])
    assert net.forward(X[0]).shape == (sizes[-1],)
    assert_close(net.loss(X[0], y[0]), net.loss(X, y), dtype)


def test_an_empty_batch(backend, dtype):
    net, _ = make_net((4, 6, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = np.zeros((0, 4), dtype=dtype), np.zeros(0, dtype=int)
    assert net.forward(X).shape == (0, 3) and net.forward(X).dtype == dtype
    assert net.logits(X).shape == (0, 3)
    assert net.predict(X).shape == (0,)
    assert [a.shape for a in net.activations_of(X)] == [(0, 6), (0, 3)]
    before = net.parameters
    for call in (
        lambda: net.loss(X, y),
        lambda: net.loss_and_gradients(X, y),
        lambda: net.fit(X, y),
        lambda: fastmlp.SGD().step(net, X, y),
        lambda: net.accuracy(X, y),
    ):
        with pytest.raises(ValueError, match=r"(?i)no (examples|rows)|empty|0 examples|at least (1|one)"):
            call()
    assert_same_bits(net.parameters, before)


def test_nan_and_infinity_flow_through(backend, dtype):
    net, _ = make_net((4, 6, 3), activation="tanh", dtype=dtype, backend=backend)
    X, y = make_examples(net, 20)
    clean = net.forward(X)
    X[3, 1], X[8, 2], X[15, 0] = np.nan, np.inf, -np.inf
    y_hat = net.forward(X)
    assert np.isnan(y_hat[3]).all()
    assert np.isfinite(y_hat[[8, 15]]).all()  # tanh is 1 or -1 there
    others = [row for row in range(20) if row not in (3, 8, 15)]
    assert_close(y_hat[others], clean[others], dtype)
    assert np.isnan(net.loss(X, y))
    loss, gradients = net.loss_and_gradients(X, y)
    assert np.isnan(loss) and np.isnan(gradients.flat).any()


def test_subnormal_numbers_count_as_zero_or_as_themselves(backend, dtype):
    net = fastmlp.MLP([1, 1], dtype=dtype, backend=backend)
    net.set_parameters([1.0, 0.0])
    smallest = np.finfo(dtype).smallest_subnormal
    assert net.forward(np.array([smallest], dtype=dtype))[0] in (0.0, smallest)
    # And the caller's arithmetic is as it was.
    assert np.array([smallest], dtype=dtype)[0] * np.dtype(dtype).type(1.0) == smallest


# Refused. ------------------------------------------------------------------------------------------------


def calls_with_X(net, y):
    return [
        net.forward,
        net.logits,
        net.predict,
        net.activations_of,
        lambda X: net.accuracy(X, y),
        lambda X: net.loss(X, y),
        lambda X: net.loss_and_gradients(X, y),
        lambda X: net.backward(X, np.zeros((5, 3))),
        lambda X: fastmlp.SGD().step(net, X, y),
        lambda X: net.fit(X, y),
        lambda X: net.fit(np.zeros((5, 4)), y, validation_data=(X, y)),
    ]


@pytest.mark.parametrize(
    "X, error, text",
    [
        (np.zeros((5, 3)), ValueError, "X has 3 features; this network takes 4"),
        (np.zeros((5, 5)), ValueError, "X has 5 features; this network takes 4"),
        (np.zeros(7), ValueError, "X has 7 features; this network takes 4"),
        (np.zeros((2, 5, 4)), ValueError, "3"),
        (np.array(1.0), ValueError, "0"),
        (np.zeros((5, 4), dtype=complex), TypeError, "complex"),
        (np.zeros((5, 4), dtype=object), TypeError, "object"),
        (np.full((5, 4), "a"), TypeError, "X"),
        (np.zeros((5, 4), dtype="M8[s]"), TypeError, "X"),
        ([[1, 2, 3, 4], [1, 2]], (ValueError, TypeError), "X"),
        (None, TypeError, "X"),
        ("text", TypeError, "X"),
    ],
)
def test_wrong_X(backend, X, error, text):
    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    before = net.parameters
    for call in calls_with_X(net, np.zeros(5, dtype=int)):
        with pytest.raises(error, match=re.escape(text)):
            call(X)
    assert_same_bits(net.parameters, before)
    net.fit(np.zeros((5, 4)), np.zeros(5, dtype=int))


def test_a_vector_for_a_net_of_one_feature_suggests_a_column():
    net = fastmlp.MLP([1, 3, 1])
    for call in (net.forward, lambda X: net.fit(X, np.zeros(5)), lambda X: net.loss(X, np.zeros(5))):
        with pytest.raises(ValueError, match=re.escape("X[:, None]")):
            call(np.zeros(5))


@pytest.mark.parametrize(
    "settings, y, error, text",
    [
        ({}, np.zeros((5, 2)), ValueError, "2"),
        ({}, np.zeros((4, 3)), ValueError, "4"),
        ({}, np.zeros(5), ValueError, "y"),
        ({}, np.zeros((5, 3, 1)), ValueError, "y"),
        ({}, np.zeros((5, 3), dtype=complex), TypeError, "complex"),
        ({}, np.full((5, 3), "a"), TypeError, "y"),
        ({}, None, TypeError, "y"),
        ({"output_activation": "softmax"}, [0, 1, 2, 3, 0], ValueError, "3"),
        ({"output_activation": "softmax"}, [0, 1, 2, -1, 0], ValueError, "-1"),
        ({"output_activation": "softmax"}, [0, 1, 2, 1], ValueError, "4"),
        ({"output_activation": "softmax"}, [0.5, 1.0, 2.0, 1.0, 0.0], (ValueError, TypeError), "y"),
        ({"output_activation": "softmax"}, np.zeros((5, 2)), ValueError, "2"),
        ({"output_activation": "softmax"}, np.zeros((5, 1), dtype=int), ValueError, "y"),
        ({"output_activation": "softmax"}, list("abcab"), TypeError, "y"),
    ],
)
def test_wrong_y(backend, settings, y, error, text):
    net, _ = make_net((4, 6, 3), backend=backend, **settings)
    X = np.zeros((5, 4))
    before = net.parameters
    good = np.zeros(5, dtype=int) if settings else np.zeros((5, 3))
    for call in (
        lambda: net.loss(X, y),
        lambda: net.loss_and_gradients(X, y),
        lambda: fastmlp.SGD().step(net, X, y),
        lambda: net.fit(X, y),
        lambda: net.fit(X, good, validation_data=(X, y)),
    ):
        with pytest.raises(error, match=re.escape(text)):
            call()
    assert_same_bits(net.parameters, before)
    net.fit(X, good)


def test_the_quick_path_of_step_sees_wrong_labels_too(backend, dtype):
    """After a first good step the optimizer reads plain arrays without the full checks."""
    net, _ = make_net((4, 6, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 8)
    y = y.astype(np.int64)
    optimizer = fastmlp.SGD()
    optimizer.step(net, X, y)
    before = net.parameters
    for bad in (3, -1, 2**40):
        labels = y.copy()
        labels[5] = bad
        with pytest.raises(ValueError, match=str(bad)):
            optimizer.step(net, X, labels)
    with pytest.raises(ValueError, match="7"):
        optimizer.step(net, X, y[:-1])
    with pytest.raises(ValueError, match="X has 3 features"):
        optimizer.step(net, np.ascontiguousarray(X[:, :3]), y)
    with pytest.raises(ValueError, match="y"):
        optimizer.step(net, X, np.zeros((8, 2), dtype=dtype))
    with pytest.raises(ValueError, match="no|empty|0"):
        optimizer.step(net, X[:0], y[:0])
    assert_same_bits(net.parameters, before)


@pytest.mark.parametrize("output, bad", [("sigmoid", (2, -1)), ("exp", (-1, -1000))])
def test_the_quick_path_of_step_sees_wrong_integers_that_are_no_classes(backend, dtype, output, bad):
    net, _ = make_net((4, 6, 3), output_activation=output, dtype=dtype, backend=backend)
    X, y = make_examples(net, 8)[0], np.tile([0, 1, 1], (8, 1))
    optimizer = fastmlp.SGD(lr=0.0)
    for _ in range(2):
        optimizer.step(net, X, y)
    for number in bad:
        targets = y.copy()
        targets[5, 2] = number
        with pytest.raises(ValueError, match=f"y has {number:g} in it"):
            optimizer.step(net, X, targets)


@pytest.mark.parametrize("output, highest", [("sigmoid", 1.0), ("exp", np.inf)])
def test_the_quick_path_of_step_sees_wrong_targets_too(backend, dtype, output, highest):
    net, _ = make_net((4, 6, 1), output_activation=output, dtype=dtype, backend=backend)
    X, y = make_examples(net, 8)
    optimizer = fastmlp.SGD(lr=0.0)
    loss = optimizer.step(net, X, y)
    for good in (y, y.reshape(8), np.where(y == 0, -0.0, y), y.astype("float64"), y.astype("float32")):
        assert optimizer.step(net, X, good) == pytest.approx(loss, rel=1e-5)
    before = net.parameters
    for bad in (
        -1e-30,
        -np.inf,
        *([] if np.isinf(highest) else [np.nextafter(net.dtype.type(1), net.dtype.type(2)), np.inf]),
    ):
        targets = y.copy()
        targets[5] = bad
        with pytest.raises(ValueError, match="y has .* in it"):
            optimizer.step(net, X, targets)
    targets[5] = np.nan
    with pytest.raises(FloatingPointError):
        optimizer.step(net, X, targets)
    assert_same_bits(net.parameters, before)


@pytest.mark.parametrize(
    "weight, error",
    [
        ([1.0, 2.0], ValueError),
        (np.ones((5, 1)), ValueError),
        ([1.0, 1.0, np.nan, 1.0, 1.0], ValueError),
        ([1.0, 1.0, np.inf, 1.0, 1.0], ValueError),
        (list("abcde"), TypeError),
        (np.ones(5, dtype=complex), TypeError),
    ],
)
def test_wrong_sample_weight(backend, weight, error):
    net, _ = make_net((4, 6, 3), backend=backend)
    X, y = make_examples(net, 5)
    for call in (
        lambda: net.loss(X, y, weight),
        lambda: net.loss_and_gradients(X, y, weight),
        lambda: fastmlp.SGD().step(net, X, y, weight),
        lambda: net.fit(X, y, sample_weight=weight),
    ):
        with pytest.raises(error, match="sample_weight"):
            call()


def test_sample_weights_of_other_kinds(backend, dtype):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    X, y = make_examples(net, 5)
    plain = net.loss(X, y, np.array([1.0, 2.0, 0.0, -1.0, 3.0]))
    for weight in (
        [1, 2, 0, -1, 3],
        np.array([1, 2, 0, -1, 3], dtype=np.int8),
        np.array([1, 2, 0, -1, 3], dtype=np.float32),
        np.array([1.0, 9, 2, 9, 0, 9, -1, 9, 3])[::2],
        np.array([3.0, -1, 0, 2, 1])[::-1],
    ):
        assert net.loss(X, y, weight) == plain


@pytest.mark.parametrize(
    "dY, error",
    [
        (np.zeros((5, 2)), ValueError),
        (np.zeros((4, 3)), ValueError),
        (np.zeros(5), ValueError),
        (np.zeros((5, 3), dtype=complex), TypeError),
    ],
)
def test_wrong_dY(backend, dY, error):
    net, _ = make_net((4, 6, 3), backend=backend)
    with pytest.raises(error, match="dY"):
        net.backward(np.zeros((5, 4)), dY)


def test_dY_of_other_kinds(backend, dtype):
    net, _ = make_net((4, 6, 3), dtype=dtype, backend=backend)
    X, _ = make_examples(net, 5)
    dY = np.arange(15).reshape(5, 3) - 7
    expected = net.backward(X, dY.astype(dtype)).flat
    for other in (dY, dY.tolist(), np.asfortranarray(dY.astype(float)), dY.astype(np.float16), dY.astype(">f8")):
        assert_same_bits(net.backward(X, other).flat, expected)


@pytest.mark.parametrize(
    "out, error",
    [
        (np.zeros((5, 2), dtype=np.float32), ValueError),
        (np.zeros((4, 3), dtype=np.float32), ValueError),
        (np.zeros(3, dtype=np.float32), ValueError),
        (np.zeros((5, 3), dtype=np.float64), (ValueError, TypeError)),
        (np.zeros((5, 3), dtype=int), (ValueError, TypeError)),
        (np.zeros((5, 3), dtype=np.float32, order="F"), ValueError),
        (np.zeros((10, 3), dtype=np.float32)[::2], ValueError),
        (np.broadcast_to(np.float32(0), (5, 3)), ValueError),
        ([[0.0] * 3] * 5, TypeError),
    ],
)
def test_wrong_out(backend, out, error):
    net, _ = make_net((4, 6, 3), backend=backend)
    with pytest.raises(error, match="out"):
        net.forward(np.zeros((5, 4), dtype=np.float32), out=out)


def test_out_may_not_be_read_only(backend):
    net, _ = make_net((4, 6, 3), backend=backend)
    out = np.zeros((5, 3), dtype=np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        net.forward(np.zeros((5, 4), dtype=np.float32), out=out)


def test_out_may_not_overlap_the_input_or_the_parameters(backend, dtype):
    net, _ = make_net((4, 4), dtype=dtype, backend=backend)
    X, _ = make_examples(net, 7)
    before = X.copy()
    for out in (X, X[1:]):
        with pytest.raises(ValueError, match="out shares memory"):
            net.forward(X[: len(out)], out=out)
    with pytest.raises(ValueError, match="out"):
        net.forward(X[0], out=net.biases[0])
    assert_same_bits(X, before)


# Of the network itself. ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer_sizes, settings, error, text",
    [
        ([4], {}, ValueError, "layer_sizes"),
        ([], {}, ValueError, "layer_sizes"),
        (4, {}, TypeError, "layer_sizes"),
        ([4, 0, 3], {}, ValueError, "layer_sizes"),
        ([4, -1, 3], {}, ValueError, "layer_sizes"),
        ([4, 2.5, 3], {}, (TypeError, ValueError), "layer_sizes"),
        ([4, "6", 3], {}, TypeError, "layer_sizes"),
        ([4, 6, 3], {"activation": "rleu"}, ValueError, "rleu"),
        ([4, 6, 3], {"activation": "softmax"}, ValueError, "softmax"),
        ([4, 6, 3], {"activation": "exp"}, ValueError, "exp"),
        ([4, 6, 3], {"activation": ["relu", "tanh"]}, ValueError, "activation"),
        ([4, 6, 3], {"output_activation": "nothing"}, ValueError, "nothing"),
        ([4, 6, 3], {"loss": "hinge"}, ValueError, "hinge"),
        ([4, 6, 3], {"loss": "cross_entropy"}, ValueError, "softmax"),
        ([4, 6, 3], {"loss": "bce"}, ValueError, "sigmoid"),
        ([4, 6, 3], {"loss": "poisson"}, ValueError, "exp"),
        ([4, 6, 3], {"output_activation": "softmax", "loss": "mse"}, ValueError, "softmax"),
        ([4, 6, 3], {"initializer": "xavier"}, ValueError, "xavier"),
        ([4, 6, 3], {"initializer": 3}, TypeError, "initializer"),
        ([4, 6, 3], {"l1": -0.1}, ValueError, "l1"),
        ([4, 6, 3], {"l2": np.nan}, ValueError, "l2"),
        ([4, 6, 3], {"l2": "small"}, TypeError, "l2"),
        ([4, 6, 3], {"dropout": 1.0}, ValueError, "dropout"),
        ([4, 6, 3], {"dropout": -0.1}, ValueError, "dropout"),
        ([4, 6, 3], {"dropout": [0.1, 0.1]}, ValueError, "dropout"),
        ([4, 6, 3], {"dtype": "float16"}, (ValueError, TypeError), "float16"),
        ([4, 6, 3], {"dtype": int}, (ValueError, TypeError), "int"),
        ([4, 6, 3], {"rng": "seed"}, TypeError, "rng"),
        ([4, 6, 3], {"rng": -1}, ValueError, "rng"),
        ([4, 6, 3], {"backend": "gpu"}, ValueError, "gpu"),
        ([4, 6, 3], {"n_threads": 0}, ValueError, "n_threads"),
        ([4, 6, 3], {"n_threads": 1.5}, TypeError, "n_threads"),
    ],
)
def test_wrong_settings(layer_sizes, settings, error, text):
    with pytest.raises(error, match=text):
        fastmlp.MLP(layer_sizes, **settings)


def test_settings_of_other_kinds():
    net = fastmlp.MLP(np.array([4, 6, 3]), dtype=np.float64, rng=np.int64(3), l2=np.float32(0.5), n_threads=np.int8(1))
    assert net.layer_sizes == (4, 6, 3) and net.dtype == np.float64
    assert all(type(size) is int for size in net.layer_sizes)


def test_kernels_read_columns_where_they_are():
    """Of y[:, None] nothing is repeated, though its columns are 0 bytes apart; of what is broadcast everything is."""
    numbers = np.arange(6.0)
    for column in (numbers[:, None], numbers[::2, None], numbers.reshape(-1, 1)):
        view = readable(column)
        assert np.shares_memory(view, numbers)
        assert view.strides[1] != 0
        np.testing.assert_array_equal(view, column)
    for repeated in (np.broadcast_to(3.0, (4, 1)), np.broadcast_to(numbers[:, None], (6, 3))):
        copy = readable(repeated)
        assert 0 not in copy.strides
        np.testing.assert_array_equal(copy, repeated)
