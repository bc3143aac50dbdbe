"""The training loop: order, batches, validation, early stopping, callbacks, records, interruption."""

import os
import signal
import sys
import threading

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net

import fastmlp
from fastmlp import SGD, Adam, EarlyStopping


def make_classifier(backend, **settings):
    return make_net((6, 12, 3), output_activation="softmax", backend=backend, **settings)[0]


def train_by_hand(net, optimizer, X, y, *, epochs, batch_size, rng=None, sample_weight=None):
    """Steps of the optimizer over the batches fit should take; returns the losses of all steps, by epoch."""
    n = len(X)
    losses = []
    for _ in range(epochs):
        order = np.arange(n) if rng is None else rng.permutation(n)
        losses.append([])
        for start in range(0, n, batch_size or n):
            rows = order[start : start + (batch_size or n)]
            weight = None if sample_weight is None else sample_weight[rows]
            losses[-1].append((optimizer.step(net, X[rows], y[rows], weight), len(rows)))
    return losses


def mean_losses(losses):
    return [sum(loss * rows for loss, rows in epoch) / sum(rows for _, rows in epoch) for epoch in losses]


@pytest.mark.parametrize("make", [lambda: SGD(lr=0.1, momentum=0.9), Adam], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "n, batch_size",
    [(23, 1), (23, 5), (24, 8), (23, 32), (23, None), (600, 513), (1300, 1024), (1300, None), (1301, 1300)],
)
def test_fit_equals_steps_in_the_order_of_permutation(backend, dtype, n, batch_size, make):
    settings = {"dtype": dtype, "l2": 1e-3, "dropout": 0.2}
    net, other = make_classifier(backend, **settings), make_classifier(backend, **settings)
    X, y = make_examples(net, n)
    history = net.fit(
        X, y, optimizer=make(), epochs=2, batch_size=batch_size, rng=np.random.default_rng(5), record="steps"
    )
    losses = train_by_hand(other, make(), X, y, epochs=2, batch_size=batch_size, rng=np.random.default_rng(5))
    assert_same_bits(net.parameters, other.parameters)
    np.testing.assert_array_equal(history.step_loss, [loss for epoch in losses for loss, _ in epoch])
    assert history.loss == pytest.approx(mean_losses(losses), rel=1e-12)
    assert history.epochs == 2 and history.stopped_by == "epochs" and not history.val_loss


def test_fit_without_shuffling(backend, dtype):
    net, other = make_classifier(backend, dtype=dtype), make_classifier(backend, dtype=dtype)
    X, y = make_examples(net, 23)
    net.fit(X, y, optimizer=SGD(lr=0.1), epochs=3, batch_size=5, shuffle=False)
    train_by_hand(other, SGD(lr=0.1), X, y, epochs=3, batch_size=5)
    assert_same_bits(net.parameters, other.parameters)


def test_batch_size_none_is_one_update_per_epoch_even_when_shuffled(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 23)
    history = net.fit(X, y, optimizer=SGD(lr=0.1), epochs=4, batch_size=None, record="steps")
    assert history.step_loss.shape == (4,)
    assert history.loss == pytest.approx(list(history.step_loss), rel=1e-12)


def test_fit_with_sample_weights(backend, dtype):
    net, other = make_classifier(backend, dtype=dtype), make_classifier(backend, dtype=dtype)
    X, y = make_examples(net, 23)
    weight = np.random.default_rng(2).uniform(-0.1, 2.0, 23)
    history = net.fit(
        X, y, optimizer=Adam(), epochs=2, batch_size=5, sample_weight=weight, rng=np.random.default_rng(5)
    )
    losses = train_by_hand(
        other, Adam(), X, y, epochs=2, batch_size=5, rng=np.random.default_rng(5), sample_weight=weight
    )
    assert_same_bits(net.parameters, other.parameters)
    assert history.loss == pytest.approx(mean_losses(losses), rel=1e-12)


@pytest.mark.parametrize("output", ["identity", "sigmoid", "exp"])
def test_fit_of_vector_targets(backend, output):
    net, _ = make_net((6, 7, 1), output_activation=output, backend=backend)
    other, _ = make_net((6, 7, 1), output_activation=output, backend=backend)
    X, y = make_examples(net, 23)
    net.fit(X, y[:, 0], optimizer=Adam(), epochs=2, rng=np.random.default_rng(5))
    other.fit(X, y, optimizer=Adam(), epochs=2, rng=np.random.default_rng(5))
    assert_same_bits(net.parameters, other.parameters)


@pytest.mark.parametrize("batch_size", [4, None])
def test_fit_of_strided_integer_and_converted_data(backend, dtype, batch_size):
    """What fit converts block by block gives the bits of data converted before."""
    other_dtype = "float64" if dtype == "float32" else "float32"
    random = np.random.default_rng(0)
    base = random.normal(size=(60, 12))
    y = random.normal(size=(30, 3))
    variants = [
        base.astype(dtype)[::2, ::2],
        base.astype(dtype)[::-2, ::-2],
        np.asfortranarray(base.astype(dtype)[:30, :6]),
        base.astype(np.float32).astype(other_dtype)[:30, :6],
        base.astype(np.float16)[:30, :6],
        (10 * base).astype(np.int64)[:30, :6],
        (10 * base).astype(np.int32)[:30, :6],
        base[:30, :6] > 0,
        base.astype(dtype)[:30, :6].tolist(),
    ]
    for X in variants:
        net, _ = make_net((6, 7, 3), dtype=dtype, backend=backend)
        other, _ = make_net((6, 7, 3), dtype=dtype, backend=backend)
        plain = np.ascontiguousarray(np.asarray(X), dtype=dtype)
        fit = {"epochs": 2, "batch_size": batch_size}
        net.fit(X, np.asfortranarray(y), optimizer=SGD(), rng=np.random.default_rng(5), **fit)
        other.fit(plain, y.astype(dtype), optimizer=SGD(), rng=np.random.default_rng(5), **fit)
        assert_same_bits(net.parameters, other.parameters)


def test_fit_leaves_the_data_alone(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 23)
    X_before, y_before = X.copy(), y.copy()
    X.flags.writeable = y.flags.writeable = False
    net.fit(X, y, epochs=2)
    assert_same_bits(X, X_before)
    assert_same_bits(y, y_before)


def test_several_epochs_at_once_equal_one_by_one(backend, dtype):
    settings = {"dtype": dtype, "dropout": 0.2, "rng": 3}
    net, other = make_classifier(backend, **settings), make_classifier(backend, **settings)
    X, y = make_examples(net, 23)
    one, two = Adam(), Adam()
    together = net.fit(X, y, optimizer=one, epochs=6, batch_size=5)
    separate = [other.fit(X, y, optimizer=two, epochs=1, batch_size=5).loss[0] for _ in range(6)]
    assert_same_bits(net.parameters, other.parameters)
    assert together.loss == separate


def test_callbacks_and_records_change_nothing(backend, dtype):
    """They end a slice after every epoch; without them several epochs may share one."""
    settings = {"dtype": dtype, "dropout": 0.2, "rng": 3}
    net, other = make_classifier(backend, **settings), make_classifier(backend, **settings)
    X, y = make_examples(net, 23)
    plain = net.fit(X, y, optimizer=Adam(), epochs=6, batch_size=5)
    watched = other.fit(
        X,
        y,
        optimizer=Adam(),
        epochs=6,
        batch_size=5,
        callbacks=[lambda net, history: None],
        validation_data=(X, y),
        record=("steps", "parameters"),
    )
    assert_same_bits(net.parameters, other.parameters)
    assert plain.loss == watched.loss


def test_a_second_fit_goes_on_where_the_first_stopped(backend):
    net, other = make_classifier(backend, rng=3), make_classifier(backend, rng=3)
    X, y = make_examples(net, 23)
    one, two = Adam(), Adam()
    net.fit(X, y, optimizer=one, epochs=2, batch_size=5)
    net.fit(X, y, optimizer=one, epochs=3, batch_size=5)
    other.fit(X, y, optimizer=two, epochs=5, batch_size=5)
    assert_same_bits(net.parameters, other.parameters)


def test_same_seed_same_bits_and_another_seed_others(backend, dtype):
    X, y = make_examples(make_classifier(backend, dtype=dtype), 40)

    def train(seed):
        net = fastmlp.MLP([6, 12, 3], output_activation="softmax", dropout=0.1, dtype=dtype, rng=seed, backend=backend)
        net.fit(X, y, epochs=3, batch_size=7)
        return net.parameters

    assert_same_bits(train(1), train(1))
    assert np.any(train(1) != train(2))


def test_without_an_optimizer_fit_takes_adam(backend):
    net, other = make_classifier(backend, rng=3), make_classifier(backend, rng=3)
    X, y = make_examples(net, 40)
    net.fit(X, y, epochs=2)
    other.fit(X, y, optimizer=Adam(lr=1e-3), epochs=2, batch_size=32)
    assert_same_bits(net.parameters, other.parameters)


def test_fit_lowers_the_loss(backend, dtype):
    net = make_classifier(backend, dtype=dtype)
    X, y = make_examples(net, 60)
    history = net.fit(X, y, optimizer=Adam(lr=0.01), epochs=60, batch_size=16)
    assert len(history.loss) == 60
    assert history.loss[-1] < 0.5 * history.loss[0]


# What happens between epochs. ----------------------------------------------------------------------------


def test_validation(backend, dtype):
    net = make_classifier(backend, dtype=dtype, l2=0.01, dropout=0.5)
    X, y = make_examples(net, 40)
    X_val, y_val = make_examples(net, 15, seed=1)
    seen = []
    history = net.fit(
        X,
        y,
        epochs=3,
        validation_data=(X_val, y_val),
        callbacks=[lambda net, history: seen.append((net.loss(X_val, y_val), history.val_loss[-1], history.epochs))],
    )
    assert history.val_loss[-1] == net.loss(X_val, y_val)
    assert [epoch for _, _, epoch in seen] == [1, 2, 3]
    assert all(expected == actual for expected, actual, _ in seen)
    assert history.val_loss == [value for value, _, _ in seen]


def scripted(net, values):
    """Validation data on which a linear net with bias b loses b^2, and a callback that sets b from a script."""
    script = iter(values)

    def callback(net, history):
        net.biases[0][0] = np.sqrt(next(script))

    return (np.zeros((1, 1)), np.zeros((1, 1))), callback


@pytest.mark.parametrize(
    "early_stopping, epochs, best",
    [
        (2, 5, 2),
        (EarlyStopping(patience=2), 5, 2),
        (EarlyStopping(patience=1), 4, 2),
        (EarlyStopping(patience=3), 8, 5),
        (EarlyStopping(patience=2, min_delta=5.5), 3, 0),
        (EarlyStopping(patience=2, restore_best=False), 5, 2),
    ],
)
def test_early_stopping(backend, early_stopping, epochs, best):
    """Validation losses 9, 7, 4, 5, 6, 1, 8, 8: a learning rate of 0, and a callback that moves the bias."""
    losses = [9.0, 7.0, 4.0, 5.0, 6.0, 1.0, 8.0, 8.0]
    net = fastmlp.MLP([1, 1], dtype="float64", backend=backend)
    net.set_parameters([0.0, np.sqrt(losses[0])])
    data, callback = scripted(net, losses[1:] + [8.0])
    history = net.fit(
        np.zeros((1, 1)),
        np.zeros((1, 1)),
        optimizer=SGD(lr=0.0),
        epochs=8,
        validation_data=data,
        early_stopping=early_stopping,
        callbacks=[callback],
    )
    assert history.val_loss == pytest.approx(losses[:epochs])
    assert history.best_epoch == best
    assert history.stopped_by == ("early_stopping" if epochs < 8 else "epochs")
    if getattr(early_stopping, "restore_best", True):
        assert net.loss(*data) == pytest.approx(losses[best])


def test_early_stopping_on_the_training_loss(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    history = net.fit(
        X, y, optimizer=SGD(lr=0.0), epochs=50, batch_size=None, early_stopping=EarlyStopping(3, monitor="loss")
    )
    assert history.epochs == 4 and history.stopped_by == "early_stopping" and history.best_epoch == 0


def test_early_stopping_restores_after_the_last_epoch_too(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    validation = make_examples(net, 20, seed=7)
    history = net.fit(
        X,
        y,
        optimizer=SGD(lr=3.0),
        epochs=10,
        validation_data=validation,
        early_stopping=EarlyStopping(patience=100),
        record="parameters",
    )
    best = int(np.argmin(history.val_loss))
    assert best == history.best_epoch
    assert_same_bits(net.parameters, history.parameters[best])
    assert net.loss(*validation) == history.val_loss[best]


def test_early_stopping_needs_validation_data(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    with pytest.raises(ValueError, match="validation_data"):
        net.fit(X, y, epochs=3, early_stopping=2)


@pytest.mark.parametrize("answer, epochs", [(True, 2), (np.True_, 2), (None, 5), (0, 5), (False, 5)])
def test_a_callback_stops_by_returning_true(backend, answer, epochs):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    calls = []

    def callback(the_net, history):
        assert the_net is net
        calls.append((history.epochs, len(history.loss), history.stopped_by))
        return answer if history.epochs == 2 else None

    history = net.fit(X, y, epochs=5, callbacks=[callback])
    assert calls == [(epoch, epoch, None) for epoch in range(1, epochs + 1)]
    assert history.epochs == epochs
    assert history.stopped_by == ("callback" if epochs == 2 else "epochs")


def test_every_callback_is_called_and_may_write_weights(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    calls = []

    def freeze(net, history):
        net.weights[0][...] = 0.0
        return True

    net.fit(X, y, epochs=3, callbacks=(freeze, lambda net, history: calls.append(net.weights[0].any())))
    assert calls == [False]
    assert not net.weights[0].any()


def test_an_error_in_a_callback_leaves_a_usable_net(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 20)

    def callback(net, history):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        net.fit(X, y, epochs=3, callbacks=[callback])
    net.fit(X, y, epochs=1)


def test_records(backend, dtype):
    net = make_classifier(backend, dtype=dtype)
    X, y = make_examples(net, 23)
    plain = net.fit(X, y, epochs=2)
    assert plain.step_loss is None and plain.parameters is None
    history = net.fit(X, y, epochs=3, batch_size=5, record=("steps", "parameters"))
    assert history.step_loss.shape == (15,) and history.step_loss.dtype == np.float64
    assert history.parameters.shape == (3, net.n_parameters) and history.parameters.dtype == dtype
    assert_same_bits(history.parameters[-1], net.parameters)
    assert len(net.fit(X, y, epochs=2, record="parameters").parameters) == 2
    with pytest.raises(ValueError, match="record"):
        net.fit(X, y, record="gradients")


def test_progress_by_lines(backend, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    net.fit(X, y, epochs=3, progress=True, validation_data=(X, y))
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 3
    assert "3" in lines[2] and "loss" in lines[2] and "val_loss" in lines[2]
    net.fit(X, y, epochs=3)
    assert not capsys.readouterr().out


def test_progress_by_tqdm(backend, capsys):
    pytest.importorskip("tqdm", reason="tqdm draws the bar")
    net = make_classifier(backend)
    X, y = make_examples(net, 20)
    net.fit(X, y, epochs=3, progress=True)
    captured = capsys.readouterr()
    assert not captured.out
    assert "epoch 3/3" in captured.err and "loss" in captured.err


def test_progress_shows_nothing_else_changes(backend, capsys):
    net, other = make_classifier(backend, rng=1), make_classifier(backend, rng=1)
    X, y = make_examples(net, 20)
    assert net.fit(X, y, epochs=3, progress=True).loss == other.fit(X, y, epochs=3).loss
    assert_same_bits(net.parameters, other.parameters)


def test_no_epochs(backend):
    net = make_classifier(backend)
    before = net.parameters
    history = net.fit(*make_examples(net, 20), epochs=0)
    assert history.epochs == 0 and history.loss == []
    assert_same_bits(net.parameters, before)


# What can go wrong. --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_leaves_the_weights_before_that_step(backend, dtype):
    net, other = make_classifier(backend, dtype=dtype), make_classifier(backend, dtype=dtype)
    X, y = make_examples(net, 23)
    X[12] = np.nan  # the third batch of five, unshuffled
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 2"):
        net.fit(X, y, optimizer=Adam(), epochs=3, batch_size=5, shuffle=False)
    optimizer = Adam()
    for rows in (slice(0, 5), slice(5, 10)):
        optimizer.step(other, X[rows], y[rows])
    assert_same_bits(net.parameters, other.parameters)
    assert np.isfinite(net.fit(X[:12], y[:12], epochs=1).loss[0])


def test_divergence_is_reported_and_leaves_finite_weights(backend):
    net, _ = make_net((6, 12, 3), backend=backend)
    X, y = make_examples(net, 40)
    with pytest.raises(FloatingPointError, match=r"loss is (inf|nan) at epoch \d+, step \d+"):
        net.fit(X, y, optimizer=SGD(lr=1e6), epochs=100, batch_size=10)


def test_the_slices_of_a_fit_go_on_as_long_as_those_of_the_one_before(backend, monkeypatch):
    net = make_classifier(backend, dtype=np.float32)
    X, y = make_examples(net, 4096)
    lengths = []
    train = type(net._engine).train

    def counted(engine, examples, schedule, *rest):
        lengths.append(schedule.n_steps)
        return train(engine, examples, schedule, *rest)

    monkeypatch.setattr(type(net._engine), "train", counted)
    monkeypatch.setattr("fastmlp._fit.Pace.note", lambda pace, n_steps, seconds: setattr(pace, "steps", 10**6))
    for batch_size, slices in ((2, 2), (2, 1), (4, 2), (4, 1)):
        lengths.clear()
        net.fit(X, y, epochs=1, batch_size=batch_size)
        assert (len(lengths), sum(lengths)) == (slices, 4096 // batch_size)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill with SIGINT ends the process on Windows")
def test_interruption_leaves_a_usable_net(backend):
    # A shell that runs the tests in the background has them ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    net = make_classifier(backend)
    X, y = make_examples(net, 64)
    before = net.parameters
    optimizer = SGD(lr=1e-3)
    net.fit(X, y, optimizer=optimizer, epochs=1)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    # So many epochs that the suite would not end if the signal went unseen.
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, optimizer=optimizer, epochs=10**7, batch_size=8)
    timer.join()
    assert np.any(net.parameters != before) and np.isfinite(net.parameters).all()
    assert np.isfinite(net.forward(X)).all()
    assert np.isfinite(net.fit(X, y, optimizer=optimizer, epochs=1).loss[0])


@pytest.mark.parametrize(
    "settings, name",
    [
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -3}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"early_stopping": 0}, "patience|early_stopping"),
        ({"early_stopping": "yes"}, "patience|early_stopping"),
        ({"validation_data": 3}, "validation_data"),
        ({"callbacks": 3}, "callbacks"),
        ({"shuffle": "no"}, "shuffle"),
        ({"rng": "seed"}, "rng"),
        ({"sample_weight": [1.0, 2.0]}, "sample_weight"),
    ],
)
def test_bad_arguments_of_fit(settings, name):
    net = make_classifier("numpy")
    before = net.parameters
    with pytest.raises((ValueError, TypeError), match=name):
        net.fit(*make_examples(net, 20), **settings)
    assert_same_bits(net.parameters, before)
    net.fit(*make_examples(net, 20))


def test_minibatches():
    X, y = np.arange(46).reshape(23, 2), np.arange(23)
    batches = list(fastmlp.minibatches(X, y, 5, np.random.default_rng(5)))
    order = np.random.default_rng(5).permutation(23)
    assert [len(part) for part, _ in batches] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), X[order])
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), y[order])
    with pytest.raises(ValueError, match="batch_size"):
        list(fastmlp.minibatches(X, y, 0, np.random.default_rng(5)))
    with pytest.raises(ValueError, match="23"):
        list(fastmlp.minibatches(X, y[:-1], 5, np.random.default_rng(5)))
