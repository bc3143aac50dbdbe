"""Losses and parameters that are not finite: where a fit stops, what it puts back, and how it goes on."""

import re
import warnings

import numpy as np
import pytest
from support import make_examples, make_net

from fastmlp import SGD, Adam
from fastmlp._training_state import all_finite

OPTIMIZERS = {"adam": Adam, "momentum": lambda: SGD(lr=0.05, momentum=0.9)}


def state_of(net, optimizer):
    update = optimizer._update
    arrays = [net.parameters, np.empty(0), np.empty(0), np.empty(0)]
    if update is not None:
        arrays = [net.parameters, update.first, update.second, update.scalars]
    return [array.tobytes() for array in arrays]


def steps(net, optimizer, X, y, batches):
    for start in batches:
        optimizer.step(net, X[start : start + 5], y[start : start + 5])


def where(error):
    return tuple(map(int, re.search(r"epoch (\d+), step (\d+)", str(error)).groups()))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_step_of_such_a_loss_is_not_taken(backend, dtype, make, bad):
    settings = {"dtype": dtype, "backend": backend, "dropout": 0.2}
    (net, _), (other, _) = make_net((4, 6, 2), **settings), make_net((4, 6, 2), **settings)
    X, y = make_examples(net, 20)
    y[17] = bad
    one, two = make(), make()
    with pytest.raises(FloatingPointError, match="the parameters are those before this step") as raised:
        net.fit(X, y, optimizer=one, epochs=3, batch_size=5, shuffle=False)
    assert where(raised.value) == (0, 3)
    steps(other, two, X, y, (0, 5, 10))
    assert state_of(net, one) == state_of(other, two)
    y[17] = 0.0
    net.fit(X, y, optimizer=one, batch_size=5)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_a_fit_that_goes_on_leaves_the_step_out(backend, make, policy):
    (net, _), (other, _) = make_net((4, 6, 2), backend=backend), make_net((4, 6, 2), backend=backend)
    X, y = make_examples(net, 20)
    y[7] = np.nan
    one, two = make(), make()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        history = net.fit(
            X, y, optimizer=one, epochs=2, batch_size=5, shuffle=False, record="steps", on_nonfinite=policy
        )
    for _ in range(2):
        steps(other, two, X, y, (0, 10, 15))
    assert state_of(net, one) == state_of(other, two)
    assert [where(warning.message) for warning in seen] == ([(0, 1), (1, 1)] if policy == "warn" else [])
    assert all(issubclass(warning.category, RuntimeWarning) for warning in seen)
    by_epoch = history.step_loss.reshape(2, 4)
    assert np.isnan(by_epoch[:, 1]).all()
    np.testing.assert_allclose(history.loss, by_epoch[:, [0, 2, 3]].mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [4, None])
def test_parameters_are_put_back_to_the_start_of_the_epoch(backend, dtype, batch_size):
    """A rate that throws them to infinity in epoch 3, and with one step an epoch only after its last."""

    def train(epochs):
        net, _ = make_net((4, 6, 2), dtype=dtype, backend=backend, dropout=0.2)
        optimizer = SGD(lr=lambda epoch: 1e-4 if epoch < 3 else 1.7e308, momentum=0.9)
        X, y = make_examples(net, 20)
        try:
            net.fit(X, 1000 * y, optimizer=optimizer, epochs=epochs, batch_size=batch_size, rng=4)
        except FloatingPointError as error:
            return error, state_of(net, optimizer)[:3]
        return None, state_of(net, optimizer)[:3]

    expected_error, expected = train(3)
    error, actual = train(6)
    assert expected_error is None and where(error)[0] == 3
    assert "put back to those before epoch 3" in str(error)
    assert actual == expected


def a_running_bias(dtype, backend):
    """Negative weights of the examples drive the bias away until it overflows; the losses are finite all the while."""
    net, _ = make_net((3, 1), loss="mae", dtype=dtype, backend=backend)
    X = np.random.default_rng(1).uniform(0.5e-3, 1.5e-3, (20, 3)).astype(dtype)
    optimizer = SGD(lr=float(np.finfo(dtype).max) / 20, momentum=0.9)
    return net, (X, np.zeros(20)), {"optimizer": optimizer, "batch_size": 4, "sample_weight": np.full(20, -0.1)}


def test_that_holds_where_several_epochs_are_one_run(backend, dtype):
    """Without callbacks small epochs follow each other inside the kernels."""

    def train(epochs, callbacks):
        net, data, fit = a_running_bias(dtype, backend)
        error = None
        try:
            net.fit(*data, epochs=epochs, callbacks=callbacks, rng=4, **fit)
        except FloatingPointError as caught:
            error = str(caught)
        return error, state_of(net, fit["optimizer"])

    error, actual = train(40, ())
    epoch = int(re.search(r"before epoch (\d+)", error)[1])
    assert epoch > 0
    assert (error, actual) == train(40, lambda net, history: None)
    assert (None, actual) == train(epoch, ())


def test_a_fit_that_goes_on_puts_back_too(backend, dtype):
    net, data, fit = a_running_bias(dtype, backend)
    history = net.fit(*data, epochs=20, on_nonfinite="ignore", **fit)
    assert np.isfinite(net.parameters).all() and history.epochs == 20


def test_large_nets_keep_no_copy(backend, monkeypatch):
    monkeypatch.setattr("fastmlp._nonfinite.LARGEST_COPY", 100)
    net, _ = make_net((4, 6, 2), backend=backend)
    X, y = make_examples(net, 20)
    with pytest.raises(FloatingPointError, match="no longer finite, and too many"):
        net.fit(X, 1000 * y, optimizer=SGD(lr=1.7e308), batch_size=4)


@pytest.mark.parametrize("size", [1, 7, 4096, 12293])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(dtype, size, bad):
    array = np.full(size, np.finfo(dtype).max, dtype)
    array[::2] *= -1  # the sum of finite numbers may overflow, and that of infinities be no number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite(array)
        assert all_finite(np.abs(array))
        for place in {0, size // 2, size - 1}:
            spoilt = array.copy()
            spoilt[place] = bad
            assert not all_finite(spoilt)


@pytest.mark.parametrize("policy, error", [("stop", ValueError), (None, TypeError), (True, TypeError)])
def test_wrong_policies(policy, error):
    net, _ = make_net((4, 6, 2), backend="numpy")
    with pytest.raises(error, match=r"on_nonfinite is .* expected one of raise, warn, ignore"):
        net.fit(*make_examples(net, 20), on_nonfinite=policy)
