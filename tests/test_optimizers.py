"""Five steps of every optimizer against formulas written out here; clipping, schedules, binding, bad settings."""

import copy
import math
import pickle

import numpy as np
import pytest
from support import assert_close, assert_same_bits, flat, make_examples, make_net

import fastmlp
from fastmlp import SGD, Adam, AdamW, RMSprop, schedules

# Each takes float64 vectors: parameters p, gradient g, which parameters are weights, state, the number t of the
# step from 1; and returns the next parameters.


def sgd(p, g, is_weight, state, t):
    return p - 0.1 * g


def momentum(p, g, is_weight, state, t):
    state["v"] = 0.9 * state.get("v", 0.0) + g
    return p - 0.1 * state["v"]


def nesterov(p, g, is_weight, state, t):
    state["v"] = 0.9 * state.get("v", 0.0) + g
    return p - 0.1 * (g + 0.9 * state["v"])


def adam(p, g, is_weight, state, t, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3):
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adam_defaults(p, g, is_weight, state, t):
    return adam(p, g, is_weight, state, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)


def adamw(p, g, is_weight, state, t):
    decayed = np.where(is_weight, p - 0.02 * 0.3 * p, p)
    return adam(decayed, g, is_weight, state, t)


def rmsprop(p, g, is_weight, state, t):
    state["v"] = 0.9 * state.get("v", 0.0) + 0.1 * g**2
    return p - 0.01 * g / (np.sqrt(state["v"]) + 1e-3)


def clipped(formula, clip_norm):
    def update(p, g, is_weight, state, t):
        norm = math.sqrt(sum(float(x) ** 2 for x in g))
        return formula(p, min(1.0, clip_norm / (norm + 1e-6)) * g, is_weight, state, t)

    return update


OPTIMIZERS = {
    "sgd": (lambda **more: SGD(lr=0.1, **more), sgd),
    "momentum": (lambda **more: SGD(lr=0.1, momentum=0.9, **more), momentum),
    "nesterov": (lambda **more: SGD(lr=0.1, momentum=0.9, nesterov=True, **more), nesterov),
    "adam": (lambda **more: Adam(lr=0.02, betas=(0.8, 0.95), eps=1e-3, **more), adam),
    "adam_defaults": (lambda **more: Adam(**more), adam_defaults),
    "adamw": (lambda **more: AdamW(lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3, **more), adamw),
    "rmsprop": (lambda **more: RMSprop(lr=0.01, rho=0.9, eps=1e-3), rmsprop),
}
CLIPPING = [name for name in OPTIMIZERS if name != "rmsprop"]


def weights_mask(net):
    return flat([np.ones(w.shape, bool) for w in net.weights], [np.zeros(b.shape, bool) for b in net.biases])


def check_five_steps(net, optimizer, formula, examples, how):
    X, y = examples
    expected, state, is_weight = net.parameters.astype(np.float64), {}, weights_mask(net)
    for t in range(1, 6):
        loss, gradients = net.loss_and_gradients(X, y)
        expected = formula(expected, gradients.flat.astype(np.float64), is_weight, state, t)
        if how == "step":
            assert optimizer.step(net, X, y) == loss
        else:
            optimizer.apply(net, gradients)
        assert_close(net.parameters, expected, net.dtype, f"step {t}")


@pytest.mark.parametrize("how", ["step", "apply"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps(backend, dtype, name, how):
    make, formula = OPTIMIZERS[name]
    net, _ = make_net((5, 18, 3), activation="tanh", l1=0.003, l2=0.02, dtype=dtype, backend=backend)
    check_five_steps(net, make(), formula, make_examples(net, 20), how)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_over_several_blocks(backend, dtype, name):
    make, formula = OPTIMIZERS[name]
    net, _ = make_net((5, 18, 3), activation="tanh", l2=0.02, dtype=dtype, backend=backend)
    check_five_steps(net, make(), formula, make_examples(net, 600), "step")


@pytest.mark.parametrize("how", ["step", "apply"])
@pytest.mark.parametrize("name", CLIPPING)
def test_five_clipped_steps(backend, dtype, name, how):
    make, formula = OPTIMIZERS[name]
    net, _ = make_net((5, 18, 3), activation="tanh", l2=0.02, dtype=dtype, backend=backend)
    check_five_steps(net, make(clip_norm=0.05), clipped(formula, 0.05), make_examples(net, 20), how)


def test_a_gradient_below_the_clip_norm_stays(backend, dtype):
    plain, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
    clipping, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
    X, y = make_examples(plain, 20)
    SGD(lr=0.1).step(plain, X, y)
    SGD(lr=0.1, clip_norm=1e6).step(clipping, X, y)
    assert_close(clipping.parameters, plain.parameters, dtype)


def test_one_clipped_step_moves_by_the_norm(backend):
    net, _ = make_net((5, 8, 3), dtype="float64", backend=backend)
    before = net.parameters
    SGD(lr=1.0, clip_norm=0.01).step(net, *make_examples(net, 20))
    assert np.linalg.norm(net.parameters - before) == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_leaves_biases_alone(backend, dtype):
    net, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
    weights, biases = copy.deepcopy(net.weights), copy.deepcopy(net.biases)
    X, _ = make_examples(net, 4)
    gradients = net.backward(X, np.zeros((4, 3), dtype=dtype))
    AdamW(lr=0.1, weight_decay=0.5).apply(net, gradients)
    for layer in range(2):
        assert_close(net.weights[layer], 0.95 * weights[layer].astype(np.float64), dtype)
        assert_same_bits(net.biases[layer], biases[layer])


def test_apply_leaves_the_gradients_alone(backend, dtype):
    net, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
    _, gradients = net.loss_and_gradients(*make_examples(net, 4))
    before = gradients.flat
    for name in CLIPPING:
        OPTIMIZERS[name][0](clip_norm=1e-3).apply(net, gradients)
    assert_same_bits(gradients.flat, before)


def test_gradients_may_be_edited_before_they_are_applied(backend, dtype):
    net, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
    _, gradients = net.loss_and_gradients(*make_examples(net, 4))
    before = net.parameters
    gradients.weights[0][...] = 0.0
    gradients.biases[1][...] = 2.0
    expected = before.astype(np.float64) - 0.5 * gradients.flat.astype(np.float64)
    SGD(lr=0.5).apply(net, gradients)
    assert_close(net.parameters, expected, dtype)
    assert_same_bits(net.weights[0], before[:40].reshape(8, 5))


def test_zero_learning_rate_changes_nothing(backend, dtype):
    for name in OPTIMIZERS:
        net, _ = make_net((5, 8, 3), dtype=dtype, backend=backend)
        before = net.parameters
        optimizer = OPTIMIZERS[name][0]()
        optimizer.lr = 0.0
        optimizer.step(net, *make_examples(net, 4))
        assert_same_bits(net.parameters, before)


def test_learning_rate_is_writable(backend):
    net, _ = make_net((5, 8, 3), dtype="float64", backend=backend)
    X, y = make_examples(net, 4)
    optimizer = SGD(lr=0.1)
    optimizer.step(net, X, y)
    before, (_, gradients) = net.parameters, net.loss_and_gradients(X, y)
    optimizer.lr = 0.7
    optimizer.step(net, X, y)
    assert optimizer.lr == 0.7
    assert_close(net.parameters, before - 0.7 * gradients.flat, "float64")
    before, (_, gradients) = net.parameters, net.loss_and_gradients(X, y)
    optimizer.lr = 0.3
    optimizer.apply(net, gradients)
    assert_close(net.parameters, before - 0.3 * gradients.flat, "float64")


def test_a_padded_parameter_never_moves(backend):
    """Weights beside the padding of a row: three outputs fill less than a vector."""
    net, _ = make_net((3, 3), backend=backend, dtype="float64")
    X, y = make_examples(net, 5)
    optimizer = Adam()
    for _ in range(3):
        optimizer.step(net, X, y)
    fresh, reference = make_net((3, 3), backend=backend, dtype="float64")
    fresh.set_parameters(net.parameters)
    assert_same_bits(fresh.forward(X), net.forward(X))


# State. --------------------------------------------------------------------------------------------------


def test_an_optimizer_stays_with_its_first_net(backend):
    first, _ = make_net((5, 8, 3), backend=backend)
    second, _ = make_net((5, 8, 3), backend=backend)
    X, y = make_examples(first, 4)
    optimizer = Adam()
    optimizer.step(first, X, y)
    before = second.parameters
    with pytest.raises((RuntimeError, ValueError), match="another network"):
        optimizer.step(second, X, y)
    with pytest.raises((RuntimeError, ValueError), match="another network"):
        second.fit(X, y, optimizer=optimizer)
    with pytest.raises((RuntimeError, ValueError), match="another network"):
        optimizer.apply(second, second.loss_and_gradients(X, y)[1])
    assert_same_bits(second.parameters, before)
    optimizer.step(first, X, y)
    optimizer.reset()
    optimizer.step(second, X, y)


def test_reset_forgets_the_state(backend):
    X, y = make_examples(make_net((5, 8, 3))[0], 4)
    for name in OPTIMIZERS:
        optimizer = OPTIMIZERS[name][0]()
        results = []
        for _ in range(2):
            net, _ = make_net((5, 8, 3), backend=backend)
            for _ in range(3):
                optimizer.step(net, X, y)
            results.append(net.parameters)
            optimizer.reset()
        assert_same_bits(*results)


def test_a_pickled_optimizer_goes_on(backend):
    for name in OPTIMIZERS:
        net, _ = make_net((5, 8, 3), backend=backend)
        X, y = make_examples(net, 4)
        optimizer = OPTIMIZERS[name][0]()
        optimizer.step(net, X, y)
        other, _ = make_net((5, 8, 3), backend=backend)
        other.set_parameters(net.parameters)
        loaded = pickle.loads(pickle.dumps(optimizer))
        optimizer.step(net, X, y)
        loaded.step(other, X, y)
        assert_same_bits(other.parameters, net.parameters)


@pytest.mark.parametrize(
    "optimizer, expected",
    [
        (SGD(lr=0.1, momentum=0.9), "SGD(lr=0.1, momentum=0.9"),
        (Adam(), "Adam(lr=0.001, betas=(0.9, 0.999)"),
        (AdamW(), "AdamW(lr=0.001"),
        (RMSprop(), "RMSprop(lr=0.001, rho=0.99"),
    ],
)
def test_repr(optimizer, expected):
    assert repr(optimizer).startswith(expected)


def test_defaults():
    assert (SGD().lr, Adam().lr, AdamW().lr, RMSprop().lr) == (0.01, 1e-3, 1e-3, 1e-3)
    assert Adam().clip_norm is None and SGD(clip_norm=2).clip_norm == 2.0


# Schedules. ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (schedules.constant(0.3), [0.3, 0.3, 0.3, 0.3, 0.3]),
        (schedules.step(0.8, every=2, factor=0.5), [0.8, 0.8, 0.4, 0.4, 0.2]),
        (schedules.exponential(1.0, factor=0.5), [1.0, 0.5, 0.25, 0.125, 0.0625]),
        (schedules.cosine(1.0, epochs=4), [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]),
        (schedules.cosine(1.0, epochs=4, final=0.5), [1.0, 0.75 + math.sqrt(0.125) / 2, 0.75, 0.573223304703363, 0.5]),
        (schedules.cosine(0.9, epochs=4, warmup=2), [0.3, 0.6, 0.9, 0.45, 0.0]),
        (lambda epoch: 1.0 / (1 + epoch), [1.0, 0.5, 1 / 3, 0.25, 0.2]),
    ],
)
def test_schedules(schedule, expected):
    """The rate of each epoch, read from how far plain SGD moves under a gradient of one."""
    assert [schedule(epoch) for epoch in range(5)] == pytest.approx(expected, abs=1e-15)
    net = fastmlp.MLP([1, 1], loss="mae", dtype="float64", backend="numpy")
    net.set_parameters([0.0, 100.0])
    history = net.fit(np.zeros((1, 1)), np.zeros((1, 1)), optimizer=SGD(lr=schedule), epochs=5, record="parameters")
    positions = [100.0, *history.parameters[:, 1]]
    assert -np.diff(positions) == pytest.approx(expected, abs=1e-12)


def test_step_never_advances_a_schedule_and_fit_does(backend):
    called = []

    def schedule(epoch):
        called.append(epoch)
        return 0.1 * (epoch + 1)

    net, _ = make_net((5, 8, 3), dtype="float64", backend=backend)
    X, y = make_examples(net, 12)
    optimizer = SGD(lr=schedule)
    for _ in range(3):
        before, (_, gradients) = net.parameters, net.loss_and_gradients(X, y)
        optimizer.step(net, X, y)
        assert_close(net.parameters, before - 0.1 * gradients.flat, "float64")
    assert set(called) == {0}
    called.clear()
    net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=5)
    net.fit(X, y, optimizer=optimizer, epochs=1)
    assert sorted(set(called)) == [0, 1, 2]
    before, (_, gradients) = net.parameters, net.loss_and_gradients(X, y)
    optimizer.step(net, X, y)
    assert_close(net.parameters, before - 0.1 * 3 * gradients.flat, "float64")


def test_a_schedule_set_later_goes_by_the_epochs_begun_so_far(backend):
    net, _ = make_net((5, 8, 3), backend=backend)
    X, y = make_examples(net, 12)
    optimizer = SGD(lr=0.1)
    net.fit(X, y, optimizer=optimizer, epochs=4)
    called = []

    def schedule(epoch):
        called.append(epoch)
        return 0.01

    optimizer.lr = schedule
    optimizer.step(net, X, y)
    assert set(called) == {3}
    called.clear()
    net.fit(X, y, optimizer=optimizer, epochs=2)
    assert sorted(set(called)) == [4, 5]


def test_pickled_schedules_are_the_same():
    for schedule in (schedules.constant(0.3), schedules.step(0.8, 2), schedules.cosine(1.0, 5, warmup=2)):
        loaded = pickle.loads(pickle.dumps(schedule))
        assert repr(loaded) == repr(schedule) and loaded(3) == schedule(3)


# Bad settings. -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop])
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_bad_learning_rates(make, lr):
    with pytest.raises(ValueError, match=r"\blr\b"):
        make(lr=lr)
    optimizer = make()
    with pytest.raises(ValueError, match=r"\blr\b"):
        optimizer.lr = lr
    assert optimizer.lr == make().lr
    with pytest.raises(TypeError, match=r"\blr\b"):
        make(lr="fast")


@pytest.mark.parametrize(
    "make, settings, name",
    [
        (SGD, {"momentum": -0.1}, "momentum"),
        (SGD, {"momentum": 1.0}, "momentum"),
        (SGD, {"nesterov": True}, "nesterov"),
        (SGD, {"clip_norm": 0.0}, "clip_norm"),
        (SGD, {"clip_norm": -1.0}, "clip_norm"),
        (Adam, {"betas": (0.9, 1.0)}, "betas"),
        (Adam, {"betas": (-0.1, 0.9)}, "betas"),
        (Adam, {"betas": (0.9,)}, "betas"),
        (Adam, {"eps": -1e-8}, "eps"),
        (AdamW, {"weight_decay": -0.01}, "weight_decay"),
        (RMSprop, {"rho": 1.0}, "rho"),
        (RMSprop, {"eps": 0.0}, "eps"),
    ],
)
def test_bad_settings(make, settings, name):
    with pytest.raises((TypeError, ValueError), match=name):
        make(**settings)


def test_a_schedule_that_gives_no_rate(backend):
    net, _ = make_net((5, 8, 3), backend=backend)
    X, y = make_examples(net, 4)
    before = net.parameters
    with pytest.raises(ValueError, match="-1"):
        SGD(lr=lambda epoch: -1.0).step(net, X, y)
    with pytest.raises(ValueError, match="nan"):
        net.fit(X, y, optimizer=SGD(lr=lambda epoch: math.nan))
    with pytest.raises(TypeError, match="lr"):
        net.fit(X, y, optimizer=SGD(lr=lambda epoch: None))
    assert_same_bits(net.parameters, before)


def test_gradients_of_another_net_are_refused(backend):
    net, _ = make_net((5, 8, 3), backend=backend)
    other, _ = make_net((5, 7, 3), backend=backend)
    _, gradients = other.loss_and_gradients(*make_examples(other, 4))
    with pytest.raises(ValueError, match="gradients"):
        SGD().apply(net, gradients)
    with pytest.raises(TypeError, match="gradients"):
        SGD().apply(net, np.zeros(net.n_parameters))
