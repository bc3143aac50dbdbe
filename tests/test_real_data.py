"""Real data of scikit-learn: a net learns it as well as it should."""

import numpy as np
import pytest

import fastmlp

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn brings the data")


def standardised_split(data, seed=0):
    """Three quarters to train on, the rest to test on, scaled by the training part."""
    order = np.random.default_rng(seed).permutation(len(data.data))
    cut = 3 * len(order) // 4
    train, test = order[:cut], order[cut:]
    mean, scale = data.data[train].mean(axis=0), data.data[train].std(axis=0)
    X = (data.data - mean) / np.where(scale > 0, scale, 1.0)
    return X[train], data.target[train], X[test], data.target[test]


def test_digits(backend):
    X, y, X_test, y_test = standardised_split(datasets.load_digits())
    net = fastmlp.MLP([64, 64, 10], output_activation="softmax", l2=1e-4, rng=0, backend=backend)
    history = net.fit(
        X,
        y,
        optimizer=fastmlp.Adam(lr=3e-3),
        epochs=25,
        batch_size=64,
        validation_data=(X_test, y_test),
        early_stopping=fastmlp.EarlyStopping(patience=10),
    )
    assert history.loss[-1] < 0.05
    assert net.accuracy(X_test, y_test) >= 0.96


def test_breast_cancer(backend, dtype):
    X, y, X_test, y_test = standardised_split(datasets.load_breast_cancer())
    net = fastmlp.MLP([30, 16, 1], activation="tanh", output_activation="sigmoid", dtype=dtype, rng=0, backend=backend)
    net.fit(X, y, optimizer=fastmlp.SGD(lr=0.1, momentum=0.9), epochs=15)
    assert net.accuracy(X_test, y_test) >= 0.95
    np.testing.assert_array_equal(net.predict(X_test), net.forward(X_test)[:, 0] > 0.5)


def test_diabetes_by_a_linear_net_is_least_squares(backend):
    X, y, _, _ = standardised_split(datasets.load_diabetes())
    y = (y - y.mean()) / y.std()
    net = fastmlp.MLP([10, 1], dtype="float64", rng=0, backend=backend)
    net.fit(X, y, optimizer=fastmlp.SGD(lr=0.1, momentum=0.9), epochs=3000, batch_size=None)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y)[0]
    np.testing.assert_allclose(net.parameters, expected, rtol=1e-6, atol=1e-9)
