"""The penalty and dropout: where they act, their exact masks, and what they average to."""

import numpy as np
import oracle
import pytest
from support import assert_close, assert_same_bits, flat, make_examples, make_net

import fastmlp


def test_penalty_is_part_of_loss_history_and_validation(backend, dtype):
    settings = {"dtype": dtype, "backend": backend}
    net, reference = make_net((4, 6, 3), l1=0.05, l2=0.5, **settings)
    X, y = make_examples(net, 8)
    expected = oracle.loss(reference, X, y)
    assert oracle.penalty(reference) > 0.1 * expected
    assert_close(net.loss(X, y), expected, dtype)
    history = net.fit(X, y, optimizer=fastmlp.SGD(lr=0.0), batch_size=None, validation_data=(X, y))
    assert_close(history.loss[0], expected, dtype)
    assert_close(history.val_loss[0], expected, dtype)
    assert_close(fastmlp.SGD(lr=0.0).step(net, X, y), expected, dtype)


@pytest.mark.parametrize("settings", [{"l1": 0.3}, {"l2": 0.3}, {"l1": 0.1, "l2": 0.2}])
def test_penalty_gradient(backend, dtype, settings):
    net, reference = make_net((4, 6, 3), dtype=dtype, backend=backend, **settings)
    X, y = make_examples(net, 8)
    _, d_weights, d_biases, _ = oracle.loss_and_gradients(reference, X, y)
    assert_close(net.loss_and_gradients(X, y)[1].flat, flat(d_weights, d_biases), dtype)


def test_the_penalty_does_not_depend_on_the_batch(backend):
    """Each step carries the whole penalty, not a share of it."""
    net, _ = make_net((4, 6, 3), l2=0.5, dtype="float64", backend=backend)
    X, y = make_examples(net, 8)
    history = net.fit(X, y, optimizer=fastmlp.SGD(lr=0.0), batch_size=2, record="steps")
    assert history.loss[0] == pytest.approx(net.loss(X, y), rel=1e-12)


def test_squares_beyond_float32_count_for_nothing_without_l2(backend):
    net, reference = make_net((4, 6, 3), l1=1e-24, dtype="float32", backend=backend)
    net.weights[0][...] = 1e25
    reference.weights[0][...] = 1e25
    assert_close(net.penalty(), oracle.penalty(reference), "float32")


# Dropout. ------------------------------------------------------------------------------------------------


def dropout_net(backend, dtype="float64", **settings):
    settings = {"dropout": (0.5, 0.2), "activation": ("tanh", "relu"), "rng": 11, **settings}
    return make_net((4, 9, 7, 3), dtype=dtype, backend=backend, **settings)


@pytest.mark.parametrize("n", [1, 6, 40, 600])
def test_exact_masks(backend, dtype, n):
    """Loss and gradients with the oracle's own Philox, keyed by the net's seed and counted by its steps."""
    net, reference = dropout_net(backend, dtype)
    X, y = make_examples(net, n)
    for step in range(3):
        loss, gradients = net.loss_and_gradients(X, y, training=True)
        factors = oracle.dropout_factors(reference, int(net._seed), step, n)
        expected = oracle.fast_loss_and_gradients(reference, X, y, factors=factors)
        assert_close(loss, expected[0], dtype, f"loss {step}")
        assert_close(gradients.flat, flat(expected[1], expected[2]), dtype, f"gradients {step}", scale=2)


@pytest.mark.parametrize("widths", [(1, 4), (5, 8), (12, 16), (17, 33), (36, 100), (70, 130)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_exact_masks_of_widths(backend, dtype, widths, activation):
    """Several rows of the last units of a layer are drawn together; relu keeps no derivatives beside its outputs."""
    settings = {"dropout": (0.5, 0.3), "activation": activation, "rng": 3, "dtype": dtype, "backend": backend}
    net, reference = make_net((3, *widths, 2), **settings)
    for n in (1, 5, 13, 50):
        X, y = make_examples(net, n)
        step = net._dropout_step
        loss, gradients = net.loss_and_gradients(X, y, training=True)
        factors = oracle.dropout_factors(reference, int(net._seed), step, n)
        expected = oracle.fast_loss_and_gradients(reference, X, y, factors=factors)
        assert_close(loss, expected[0], dtype, f"loss of {n}")
        assert_close(gradients.flat, flat(expected[1], expected[2]), dtype, f"gradients of {n}", scale=2)
        # Without dropout nothing is scaled, though the net has a rate.
        loss, gradients = net.loss_and_gradients(X, y)
        expected = oracle.fast_loss_and_gradients(reference, X, y)
        assert_close(
            gradients.flat, flat(expected[1], expected[2]), dtype, f"gradients of {n} without dropout", scale=2
        )


@pytest.mark.parametrize("activation", ["relu", "elu", "sigmoid", "tanh", "gelu", "softplus", "identity"])
def test_dropout_with_every_kind_of_derivative(backend, dtype, activation):
    net, reference = make_net((4, 9, 3), activation=activation, dropout=0.4, dtype=dtype, backend=backend)
    X, y = make_examples(net, 12)
    _, gradients = net.loss_and_gradients(X, y, training=True)
    factors = oracle.dropout_factors(reference, int(net._seed), 0, 12)
    expected = oracle.fast_loss_and_gradients(reference, X, y, factors=factors)
    assert_close(gradients.flat, flat(expected[1], expected[2]), dtype, scale=2)


@pytest.mark.parametrize("rate", [2**-18, 2**-17 * 1.01, 0.9999, 1 - 2**-18, 1 - 2**-53])
def test_rates_are_whole_65536ths_below_1(backend, dtype, rate):
    """The least one that drops at all, and rates at which hardly a unit stays, but none is kept from staying."""
    net, reference = make_net((4, 300, 3), dropout=rate, rng=2, dtype=dtype, backend=backend)
    X, y = make_examples(net, 600)
    loss, gradients = net.loss_and_gradients(X, y, training=True)
    (factor,) = oracle.dropout_factors(reference, int(net._seed), 0, 600)
    assert 0 < np.count_nonzero(factor) < factor.size or rate < 2**-17
    if rate < 2**-17:
        assert_same_bits(gradients.flat, net.loss_and_gradients(X, y)[1].flat)
        return
    expected = oracle.fast_loss_and_gradients(reference, X, y, factors=[factor])
    assert loss == pytest.approx(expected[0], rel=1e-4 if dtype == "float32" else 1e-12)
    assert_close(gradients.flat, flat(expected[1], expected[2]), dtype, scale=4)


def test_dropout_acts_in_training_alone(backend):
    net, reference = dropout_net(backend)
    X, y = make_examples(net, 10)
    assert_close(net.forward(X), oracle.forward(reference, X), "float64")
    assert_close(net.loss(X, y), oracle.loss(reference, X, y), "float64")
    assert_close(net.loss_and_gradients(X, y)[0], oracle.loss(reference, X, y), "float64")
    assert_close(net.activations_of(X)[0], oracle.layer_outputs(reference, X)[0], "float64")
    assert abs(net.loss_and_gradients(X, y, training=True)[0] - net.loss(X, y)) > 1e-6


def test_each_training_pass_drops_others(backend):
    net, _ = dropout_net(backend)
    X, y = make_examples(net, 10)
    losses = {net.loss_and_gradients(X, y, training=True)[0] for _ in range(5)}
    losses |= {fastmlp.SGD(lr=0.0).step(net, X, y) for _ in range(5)}
    assert len(losses) == 10


def test_losses_with_dropout_average_to_the_exact_expectation(backend):
    """A linear net: the mean output is that without dropout, so the mean loss is loss + variance."""
    net, reference = make_net((2, 40, 1), activation="identity", dropout=0.25, dtype="float64", backend=backend)
    X, y = make_examples(net, 1)
    hidden = oracle.layer_outputs(reference, X)[0][0]
    variance = np.sum((hidden * reference.weights[1][0]) ** 2) * 0.25 / 0.75
    expected = oracle.loss(reference, X, y) + variance
    losses = [net.loss_and_gradients(X, y, training=True)[0] for _ in range(1500)]
    assert np.mean(losses) == pytest.approx(expected, abs=5 * np.std(losses) / np.sqrt(len(losses)))


def test_the_masks_are_the_same_in_every_backend(backend):
    X, y = make_examples(dropout_net("numpy")[0], 30)
    results = []
    for name in ("numpy", backend):
        net, _ = dropout_net(name)
        net.fit(X, y, optimizer=fastmlp.SGD(lr=0.01), epochs=3, batch_size=8)
        results.append(net.parameters)
    assert_close(results[1], results[0], "float64", scale=100)


def test_fit_reports_the_loss_with_dropout(backend):
    net, reference = dropout_net(backend)
    X, y = make_examples(net, 10)
    history = net.fit(X, y, optimizer=fastmlp.SGD(lr=0.0), batch_size=None, shuffle=False)
    factors = oracle.dropout_factors(reference, int(net._seed), 0, 10)
    assert history.loss[0] == pytest.approx(oracle.fast_loss_and_gradients(reference, X, y, factors=factors)[0])


def test_another_seed_drops_others():
    X, y = make_examples(dropout_net("numpy")[0], 10)
    losses = {dropout_net("numpy", rng=seed)[0].loss_and_gradients(X, y, training=True)[0] for seed in range(4)}
    assert len(losses) == 4
    one, two = dropout_net("numpy", rng=1)[0], dropout_net("numpy", rng=1)[0]
    assert_same_bits(
        one.loss_and_gradients(X, y, training=True)[1].flat, two.loss_and_gradients(X, y, training=True)[1].flat
    )


def test_no_dropout_in_a_net_without_hidden_layers(backend):
    net, reference = make_net((4, 3), dropout=0.5, dtype="float64", backend=backend)
    X, y = make_examples(net, 5)
    assert_close(net.loss_and_gradients(X, y, training=True)[0], oracle.loss(reference, X, y), "float64")
