"""Every loss with every output against the oracle; weights, penalty, and logits far out."""

import numpy as np
import oracle
import pytest
from support import OUTPUTS_AND_LOSSES, assert_close, assert_same_bits, flat, make_examples, make_net

import fastmlp
from fastmlp._backends._engine import Examples, Schedule


@pytest.mark.parametrize("output, loss", OUTPUTS_AND_LOSSES)
def test_loss(backend, dtype, output, loss):
    net, reference = make_net((4, 9, 3), output_activation=output, loss=loss, dtype=dtype, backend=backend)
    for n in (1, 5, 18):
        X, y = make_examples(net, n, seed=n)
        actual = net.loss(X, y)
        assert isinstance(actual, float)
        assert_close(actual, oracle.loss(reference, X, y), dtype, f"{n} rows")


@pytest.mark.parametrize("output, loss, outputs", [(*pair, 3) for pair in OUTPUTS_AND_LOSSES] + [("sigmoid", "bce", 1)])
def test_weighted_loss_with_penalty(backend, dtype, output, loss, outputs):
    net, reference = make_net(
        (4, 5, outputs), output_activation=output, loss=loss, l1=0.01, l2=0.1, dtype=dtype, backend=backend
    )
    X, y = make_examples(net, 6)
    weight = np.array([1.0, 0.0, 2.5, -1.0, 0.5, 3.0])
    assert_close(net.loss(X, y, weight), oracle.loss(reference, X, y, weight), dtype)
    assert_close(net.loss(X, y, sample_weight=weight), oracle.loss(reference, X, y, weight), dtype)


@pytest.mark.parametrize(
    "output, expected",
    [("identity", "mse"), ("relu", "mse"), ("sigmoid", "bce"), ("softmax", "cross_entropy"), ("exp", "poisson")],
)
def test_default_loss(output, expected):
    assert fastmlp.MLP([2, 3], output_activation=output).loss_name == expected


def test_probabilities_as_targets(backend, dtype):
    net, reference = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 7, classes=False)
    assert_close(net.loss(X, y), oracle.loss(reference, X, y), dtype)
    # Not normalised: the definition is a sum over y_k all the same.
    assert_close(net.loss(X, 3 * y), oracle.loss(reference, X, 3 * y), dtype)


def test_one_hot_targets_equal_classes(backend, dtype):
    net, _ = make_net((4, 9, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, classes = make_examples(net, 7)
    assert_close(net.loss(X, np.eye(3, dtype=dtype)[classes]), net.loss(X, classes), dtype)


def test_a_zero_target_counts_nothing_where_the_probability_is_zero(backend, dtype):
    net = fastmlp.MLP([3, 3], output_activation="softmax", dtype=dtype, backend=backend)
    net.weights[0][...] = np.eye(3)
    X = np.array([[0.0, 0.0, -np.inf]], dtype=dtype)
    with np.errstate(all="ignore"):
        actual = net.loss(X, np.array([[0.5, 0.5, 0.0]], dtype=dtype))
    # The weights' zeros times infinity make the other logits NaN, so the bias carries the infinity.
    assert np.isnan(actual)
    net.biases[0][2] = -np.inf
    with np.errstate(all="ignore"):
        actual = net.loss(np.zeros((1, 3), dtype=dtype), np.array([[0.5, 0.5, 0.0]], dtype=dtype))
    assert_close(actual, np.log(2.0), dtype)


@pytest.mark.parametrize("shape", ["vector", "column"])
@pytest.mark.parametrize("output", ["identity", "sigmoid", "exp"])
def test_targets_of_one_output_may_be_a_vector(backend, dtype, output, shape):
    net, reference = make_net((4, 5, 1), output_activation=output, dtype=dtype, backend=backend)
    X, y = make_examples(net, 6)
    assert_close(net.loss(X, y[:, 0] if shape == "vector" else y), oracle.loss(reference, X, y), dtype)


@pytest.mark.parametrize(
    "output, y, expected",
    [
        ("sigmoid", [[0.0, 1.0]], [(1000.0 + 0.0) / 2, (0.0 + 1000.0) / 2]),
        ("softmax", [1], [1000.0, 0.0]),
        ("softmax", [[0.5, 0.5]], [500.0, 500.0]),
    ],
)
def test_losses_far_out_are_exact(backend, dtype, output, y, expected):
    net = fastmlp.MLP([2, 2], output_activation=output, dtype=dtype, backend=backend)
    for bias, wanted in zip(([1000.0, 0.0], [0.0, 1000.0]), expected):
        net.set_weights([np.zeros((2, 2))], [np.array(bias)])
        if output == "sigmoid":
            net.set_weights([np.zeros((2, 2))], [np.array([1000.0, 1000.0] if bias[0] else [-1000.0, -1000.0])])
        assert net.loss(np.zeros((1, 2), dtype=dtype), np.array(y)) == pytest.approx(wanted, rel=1e-6)


def test_loss_adds_up_in_float64(backend):
    """A float32 sum of 3000 equal losses would be off in the fifth digit."""
    net = fastmlp.MLP([1, 1], backend=backend)
    net.set_parameters(np.array([0.0, 0.1]))
    X = np.zeros((3000, 1), dtype=np.float32)
    assert net.loss(X, np.zeros(3000)) == pytest.approx(float(np.float32(0.1)) ** 2, rel=2e-7)


def test_penalty(backend, dtype):
    net, reference = make_net((4, 5, 3), l1=0.3, l2=0.7, dtype=dtype, backend=backend)
    assert_close(net.penalty(), oracle.penalty(reference), dtype)
    X, y = make_examples(net, 3)
    plain, _ = make_net((4, 5, 3), dtype=dtype, backend=backend)
    assert plain.penalty() == 0.0
    assert_close(net.loss(X, y) - net.penalty(), plain.loss(X, y), dtype, scale=10)


@pytest.mark.parametrize("n", [511, 512, 513, 1300])
def test_loss_of_many_rows(backend, dtype, n):
    net, reference = make_net((6, 8, 4), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, n)
    assert_close(net.loss(X, y), oracle.fast_loss_and_gradients(reference, X, y)[0], dtype)


def far_logits(k, dtype):
    """Rows up to +-10,000: far apart, close together and far from 0, all alike."""
    random = np.random.default_rng(0)
    rows = [random.uniform(-1e4, 1e4, (30, k)), random.uniform(-1.0, 1.0, (30, k)) + random.uniform(-1e4, 1e4, (30, 1))]
    rows += [np.full((1, k), 1e4), np.full((1, k), -1e4), 1e4 * np.sign(random.normal(size=(10, k)))]
    return np.concatenate(rows).astype(dtype)


@pytest.mark.parametrize("targets", ["classes", "probabilities", "bce"])
@pytest.mark.parametrize("k", [2, 3, 17, 100])
def test_logits_up_to_ten_thousand(backend, dtype, targets, k):
    """Every loss and gradient to a few roundings of its own terms, the largest of which is the logits' range."""
    Z = far_logits(k, dtype)
    output = "sigmoid" if targets == "bce" else "softmax"
    net = fastmlp.MLP([k, k], output_activation=output, dtype=dtype, backend=backend)
    net.set_weights([np.eye(k)], [np.zeros(k)])
    random = np.random.default_rng(1)
    y = {
        "classes": random.integers(0, k, len(Z)),
        "probabilities": random.dirichlet(np.ones(k), len(Z)).astype(dtype),
        "bce": random.random((len(Z), k)).astype(dtype),
    }[targets]
    eps = float(np.finfo(dtype).eps)
    for z, target in zip(Z, y):
        row = z[None, :].astype(np.float64)
        if output == "softmax":  # which changes nothing, but the oracle adds the largest logit to the logarithm
            row -= row.max()
        wanted = target if np.ndim(target) == 0 else target.astype(np.float64)
        outputs = (
            [oracle.sigmoid(value) for value in row[0]] if output == "sigmoid" else oracle.softmax(row[0].tolist())
        )
        loss, gradients = net.loss_and_gradients(z, target)
        expected = oracle.local_loss(net.loss_name, row[0].tolist(), outputs, wanted)
        assert abs(loss - expected) <= 8 * eps * (abs(expected) + np.ptp(z) + 1.0), (z, target)
        assert net.loss(z, target) == pytest.approx(loss, rel=4 * eps)
        slopes = oracle.logit_gradient(net.loss_name, output, row[0].tolist(), outputs, wanted)
        # An exponent of size d is rounded by d eps / 2; where d is large the probability is small.
        np.testing.assert_allclose(gradients.biases[0], slopes, rtol=0, atol=24 * eps)
        total = net.forward(z).astype(np.float64).sum()
        assert output == "sigmoid" or total == pytest.approx(1.0, abs=4 * k * eps)


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "probabilities"])
@pytest.mark.parametrize("weighted", [False, True])
def test_largest_loss_bounds_what_is_reported_alone(backend, dtype, classes, weighted):
    """What fastmlp.sklearn asks of the kernels; the step itself is the same to the bit."""
    limit, n = 1.5, 37
    results = []
    for largest_loss in (0.0, limit):
        net, reference = make_net((5, 7, 4), output_activation="softmax", scale=3.0, dtype=dtype, backend=backend)
        X, y = make_examples(net, n, classes=classes)
        weights = np.linspace(0.5, 2.0, n) if weighted else None
        before = [oracle.loss(reference, X[i : i + 1], y[i : i + 1]) for i in range(n)]
        losses = np.zeros(1)
        schedule = Schedule(None, n, 0, 1, np.array([[0.1, 0.0, 0.0, 1.0]]), largest_loss)
        update = fastmlp.SGD(lr=0.1)._bind(net)
        assert net._engine.train(Examples(X, y, weights), schedule, update, losses, 0) == 1
        results.append((losses[0], net.parameters, before))
    (whole, parameters, before), (bounded, same_parameters, _) = results
    assert sum(loss > limit for loss in before) > 3
    weights = np.ones(n) if weights is None else weights
    assert_close(whole, np.dot(before, weights) / n, dtype)
    assert_close(bounded, np.dot(np.minimum(before, limit), weights) / n, dtype)
    assert same_parameters.tobytes() == parameters.tobytes()


def test_largest_loss_lets_nan_through(backend, dtype):
    net, _ = make_net((3, 4), output_activation="softmax", dtype=dtype, backend=backend)
    X, y = make_examples(net, 20)
    X[7, 1] = np.nan
    losses = np.zeros(1)
    schedule = Schedule(None, 20, 0, 1, np.array([[0.1, 0.0, 0.0, 1.0]]), 2.0)
    assert net._engine.train(Examples(X, y, None), schedule, fastmlp.SGD(lr=0.1)._bind(net), losses, 0) == 0
    assert np.isnan(losses[0])


@pytest.mark.parametrize("n_outputs", [2, 4, 8, 9, 16, 17, 31, 32, 33])
def test_softmax_rows_side_by_side(backend, dtype, n_outputs):
    """Of few outputs as many rows as a vector has lanes are taken together, the others one by one."""
    net, expected = make_net((3, n_outputs), output_activation="softmax", backend=backend, dtype=dtype, scale=4.0)
    X, y = make_examples(net, 49)
    weights = np.random.default_rng(1).uniform(0.0, 2.0, 49)
    alone = [net.forward(x) for x in X]
    for n in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 49):
        if backend == "numpy":  # whose matrix products depend on the number of rows
            assert_close(net.forward(X[:n]), oracle.fast_forward(expected, X[:n]), dtype)
        else:
            assert_same_bits(net.forward(X[:n]), np.array(alone[:n]))
        loss, gradients = net.loss_and_gradients(X[:n], y[:n], weights[:n])
        right_loss, d_weights, d_biases, _ = oracle.fast_loss_and_gradients(expected, X[:n], y[:n], weights[:n])
        assert_close(loss, right_loss, dtype)
        assert_close(gradients.flat, flat(d_weights, d_biases), dtype, scale=2.0)
        assert_close(net.loss(X[:n], y[:n], weights[:n]), right_loss, dtype)


@pytest.mark.parametrize("n_outputs", [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33])
@pytest.mark.parametrize("output, loss", [pair for pair in OUTPUTS_AND_LOSSES if pair[0] in ("sigmoid", "exp", "tanh")])
def test_losses_of_rows_side_by_side(backend, dtype, output, loss, n_outputs):
    net, expected = make_net((3, n_outputs), output_activation=output, loss=loss, backend=backend, dtype=dtype)
    X, y = make_examples(net, 37)
    weights = np.random.default_rng(1).uniform(0.0, 2.0, 37)
    for n in (1, 3, 4, 8, 15, 16, 17, 37):
        value, gradients = net.loss_and_gradients(X[:n], y[:n], weights[:n])
        right_loss, d_weights, d_biases, _ = oracle.fast_loss_and_gradients(expected, X[:n], y[:n], weights[:n])
        assert_close(value, right_loss, dtype, scale=4.0)
        assert_close(gradients.flat, flat(d_weights, d_biases), dtype, scale=8.0)


@pytest.mark.parametrize("n_outputs", [1, 2, 4, 5, 8, 9, 16, 31, 32, 33])
def test_targets_of_any_layout_are_the_same(backend, dtype, n_outputs):
    """Targets in the dtype of the kernels and side by side are read where they are, others converted."""
    net, expected = make_net((3, n_outputs), loss="mse", backend=backend, dtype=dtype)
    X, y = make_examples(net, 37)
    y = y.astype(np.float32).astype(np.float64)  # the same numbers in both
    other = "float64" if dtype == "float32" else "float32"
    spread = np.full((2 * 37, 3 * n_outputs + 1), np.nan, dtype)
    spread[::2, 1 : 1 + n_outputs] = y
    sparse = np.full((37, 2 * n_outputs), np.nan, dtype)
    sparse[:, ::2] = y
    backwards = np.ascontiguousarray(y[::-1], dtype)[::-1]
    loss, gradients = net.loss_and_gradients(X, np.ascontiguousarray(y, dtype))
    right_loss, d_weights, d_biases, _ = oracle.fast_loss_and_gradients(expected, X, y)
    assert_close(loss, right_loss, dtype)
    assert_close(gradients.flat, flat(d_weights, d_biases), dtype)
    for same in (
        y.astype(other),
        spread[::2, 1 : 1 + n_outputs],
        sparse[:, ::2],
        np.asfortranarray(y, dtype),
        backwards,
    ):
        same_loss, same_gradients = net.loss_and_gradients(X, same)
        if backend == "numpy":  # whose sums depend on strides
            assert_close(same_gradients.flat, gradients.flat, dtype)
        else:
            assert same_loss == loss
            assert_same_bits(same_gradients.flat, gradients.flat)
