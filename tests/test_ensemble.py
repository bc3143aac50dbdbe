"""MLPEnsemble: every member against its own single fit, byte for byte, and what the ensemble computes."""

import copy
import pickle
import threading
import warnings

import numpy as np
import oracle
import pytest
from support import assert_close, assert_same_bits, oracle_of

import fastmlp
from fastmlp import _ensemble_fit
from fastmlp._backends import _compiled_ensemble

SIZES = (4, 6, 3)
# Seven: neither whole vectors of any instruction set nor whole groups.
K = 7
OPTIMIZERS = {
    "sgd": lambda i: fastmlp.SGD(lr=0.02 * i),
    "momentum": lambda i: fastmlp.SGD(lr=0.01 * (i + 1), momentum=0.9),
    "nesterov": lambda i: fastmlp.SGD(lr=0.01, momentum=0.1 * (i + 1), nesterov=True),
    "adam": lambda i: fastmlp.Adam(lr=0.001 * (i + 1)),
    "adamw": lambda i: fastmlp.AdamW(lr=0.003, weight_decay=0.1 * i),
    "rmsprop": lambda i: fastmlp.RMSprop(lr=0.001 * (i + 1)),
    "schedule": lambda i: fastmlp.Adam(lr=fastmlp.schedules.exponential(0.01 * (i + 1), 0.5)),
    "clipped": lambda i: fastmlp.SGD(lr=0.05, clip_norm=0.1 * (i + 1)),
}
# Architectures: (layer_sizes, settings alike for all, settings of member i).
NETS = {
    "regression": ((5, 9, 1), {}, {}),
    "deep": ((3, 18, 5, 4, 2), {"activation": ["relu", "tanh", "elu"]}, {}),
    "no hidden layer": ((3, 20), {"output_activation": "softmax"}, {}),
    "wide rows": ((17, 33, 20), {"output_activation": "softmax", "activation": "leaky_relu"}, {}),
    "binary": ((3, 4, 2), {"output_activation": "sigmoid", "activation": "sigmoid"}, {"l2": lambda i: 0.01 * i}),
    "counts": ((3, 4, 2), {"output_activation": "exp", "activation": "softplus"}, {"l1": lambda i: 0.001 * (i % 3)}),
    "mae": ((3, 4, 18), {"loss": "mae", "activation": "gelu", "output_activation": "tanh"}, {}),
    "huber": ((3, 4, 18), {"loss": "huber", "activation": "silu"}, {"l1": lambda i: 0.01, "l2": lambda i: 0.1 * i}),
    "dropout": ((4, 10, 6, 2), {"activation": "tanh"}, {"dropout": lambda i: [0.1 * (i % 4), 0.5 * (i % 2)]}),
    "relu dropout": ((4, 10, 6, 2), {"activation": "relu"}, {"dropout": lambda i: [0.1 * (i % 4), 0.5 * (i % 2)]}),
}


def ensemble_of(sizes, alike, own, **settings):
    per_member = {name: [value(i) for i in range(K)] for name, value in own.items()}
    return fastmlp.MLPEnsemble(sizes, K, rng=list(range(K)), **alike, **per_member, **settings)


def member_of(i, sizes, alike, own, **settings):
    return fastmlp.MLP(sizes, rng=i, **alike, **{name: value(i) for name, value in own.items()}, **settings)


def examples_for(sizes, n, output="identity", classes=True, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, sizes[0])).astype(np.float32)
    if output == "softmax":
        return X, rng.integers(0, sizes[-1], n) if classes else rng.dirichlet(np.ones(sizes[-1]), n)
    return X, rng.random((n, sizes[-1]))


def state_of(net, optimizer):
    """All that a fit changes, as bytes."""
    arrays = [net.parameters, optimizer._scalars, *optimizer._update[2:]]
    generator = repr(net._shuffle_rng.bit_generator.state)
    return [array.tobytes() for array in arrays], net._dropout_step, generator, optimizer._epoch


def assert_same_as_single_fits(
    backend, dtype, net=("regression", 40), optimizer="adam", n_threads=2, classes=True, own_weight=False, **fit
):
    """Train an ensemble, and each of its members alone, and compare everything that is left behind."""
    name, n = net
    sizes, alike, own = NETS[name]
    settings = {"backend": backend, "dtype": dtype}
    X, y = examples_for(sizes, n, alike.get("output_activation", "identity"), classes)
    weight = np.random.default_rng(5).random((K, n)) if own_weight else None
    ensemble = ensemble_of(sizes, alike, own, n_threads=n_threads, **settings)
    optimizers = [OPTIMIZERS[optimizer](i) for i in range(K)]
    fit = {"epochs": 3, "batch_size": 16} | fit
    history = ensemble.fit(X, y, optimizer=optimizers, sample_weight=weight, **fit)
    for i in range(K):
        single, single_optimizer = member_of(i, sizes, alike, own, **settings), OPTIMIZERS[optimizer](i)
        expected = single.fit(
            X, y, optimizer=single_optimizer, sample_weight=None if weight is None else weight[i], **fit
        )
        assert state_of(ensemble[i], optimizers[i]) == state_of(single, single_optimizer), f"member {i}"
        assert history[i].loss == expected.loss and history[i].val_loss == expected.val_loss
        assert history[i].stopped_by == expected.stopped_by and history[i].best_epoch == expected.best_epoch
    return history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_members_are_single_fits_with_every_optimizer(backend, dtype, optimizer):
    assert_same_as_single_fits(backend, dtype, optimizer=optimizer)


@pytest.mark.parametrize("net", NETS)
def test_members_are_single_fits_for_every_kind_of_net(backend, dtype, net):
    assert_same_as_single_fits(backend, dtype, net=(net, 37))


@pytest.mark.parametrize("net", ["no hidden layer", "wide rows"])
def test_members_are_single_fits_with_targets_of_probabilities(backend, dtype, net):
    assert_same_as_single_fits(backend, dtype, net=(net, 37), classes=False, own_weight=True)


@pytest.mark.parametrize(
    "fit", [{"shuffle": False}, {"batch_size": None}, {"batch_size": 1, "epochs": 1}, {"own_weight": True}]
)
def test_members_are_single_fits_with_every_way_through_the_examples(backend, fit):
    assert_same_as_single_fits(backend, "float32", **fit)


def test_batches_of_several_blocks(backend):
    assert_same_as_single_fits(backend, "float32", net=("regression", 1100), batch_size=None)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(backend, n_threads):
    assert_same_as_single_fits(backend, "float32", n_threads=n_threads)


def test_nets_that_leave_the_cache_go_one_by_one(backend, monkeypatch):
    monkeypatch.setattr(_compiled_ensemble, "MOST_LANE_BYTES", 0)
    X, y = examples_for((5, 9, 1), 30)
    assert_same_as_single_fits(backend, "float32", validation_data=(X, y))


def test_lanes_are_used_where_they_should_be(monkeypatch):
    """The tests above would pass without them."""
    for backend in {"c", "numba"} & set(fastmlp.available_backends()):
        ensemble = fastmlp.MLPEnsemble([5, 9, 1], K, backend=backend)
        calls, kernels = [], ensemble._engine._kernels
        original = kernels.train_members
        monkeypatch.setattr(kernels, "train_members", lambda *a, f=original, c=calls: (c.append(a), f(*a)))
        ensemble.fit(*examples_for((5, 9, 1), 30))
        assert calls


@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_every_member_stops_early_by_itself(backend, dtype, monitor):
    X, y = examples_for((3, 4, 2), 300, seed=1)
    rule = fastmlp.EarlyStopping(2, monitor=monitor)
    history = assert_same_as_single_fits(
        backend, dtype, net=("binary", 40), optimizer="momentum", epochs=30, validation_data=(X, y, y[:, 0]),
        early_stopping=rule,
    )  # fmt: skip
    if monitor == "val_loss":
        assert len(set(history.epochs.tolist())) > 1, "all stopped at once"
        assert "early_stopping" in history.stopped_by


def test_rounds_and_slices_change_nothing(backend, monkeypatch):
    monkeypatch.setattr(_ensemble_fit, "INDICES_PER_ROUND", 1)
    monkeypatch.setattr(_ensemble_fit.Pace, "note", lambda *a: None)
    monkeypatch.setattr(_ensemble_fit.Pace, "__init__", lambda self, *a: setattr(self, "steps", 2))
    assert_same_as_single_fits(backend, "float32", optimizer="schedule")


def test_a_member_that_diverges_ends_alone(backend, dtype):
    X, y = examples_for((5, 9, 1), 40)
    y = 10.0 * y
    # The largest makes the parameters infinite, so that they are put back to the start of an epoch.
    rates = [1e-3, 1e30, 1e-3, float(np.finfo(dtype).max), 1e-3, 1e-4, 30.0]
    ensemble = fastmlp.MLPEnsemble([5, 9, 1], K, rng=list(range(K)), backend=backend, dtype=dtype)
    with pytest.warns(RuntimeWarning, match=r"of 7 members ended because a loss or a parameter was not finite: 1"):
        history = ensemble.fit(X, y, optimizer=[fastmlp.SGD(lr=rate) for rate in rates], epochs=40, batch_size=8)
    n_ended = 0
    for i, rate in enumerate(rates):
        single = fastmlp.MLP([5, 9, 1], rng=i, backend=backend, dtype=dtype)
        try:
            single.fit(X, y, optimizer=fastmlp.SGD(lr=rate), epochs=40, batch_size=8)
        except FloatingPointError:
            n_ended += 1
            assert history.stopped_by[i] == "nonfinite"
            assert np.isnan(history.loss[i, history.epochs[i] :]).all()
        else:
            assert history.stopped_by[i] == "epochs"
        assert_same_bits(ensemble[i].parameters, single.parameters)
    assert 0 < n_ended < K


def test_losses_outputs_mean_and_spread(backend, dtype):
    sizes, alike, own = NETS["binary"]
    ensemble = ensemble_of(sizes, alike, own, backend=backend, dtype=dtype)
    X, y = examples_for(sizes, 600)
    weight = np.random.default_rng(2).random((K, len(X)))
    outputs = ensemble.forward(X)
    assert outputs.shape == (K, 600, 2) and outputs.dtype == np.dtype(dtype)
    losses = ensemble.loss(X, y, weight)
    expected = []
    for i, net in enumerate(ensemble):
        reference = oracle_of(net, **alike, l2=own["l2"](i))
        expected.append(oracle.forward(reference, X.astype(np.float64)))
        assert_close(losses[i], oracle.loss(reference, X.astype(np.float64), y, weight[i]), dtype, "loss")
        assert_same_bits(losses[i], net.loss(X, y, weight[i]))
        assert_same_bits(outputs[i], net.forward(X))
        assert_same_bits(ensemble.logits(X)[i], net.logits(X))
    assert_close(outputs, expected, dtype, "forward")
    assert_close(ensemble.mean(X), np.mean(expected, axis=0), dtype, "mean")
    assert_close(ensemble.spread(X), np.std(expected, axis=0), dtype, "spread", scale=10.0)
    assert ensemble(X[0]).shape == (K, 2) and ensemble.mean(X[0]).shape == (2,)
    assert ensemble.forward(X[:0]).shape == (K, 0, 2)
    strided = np.repeat(X, 2, axis=1)[:, ::2]
    assert_same_bits(ensemble.forward(strided), outputs)
    assert_same_bits(ensemble.loss(X.astype(np.float16), y), ensemble.loss(X.astype(np.float16).astype(dtype), y))


def test_a_member_is_a_copy(backend):
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, rng=0, backend=backend)
    before, net = ensemble.parameters, ensemble[-1]
    assert isinstance(net, fastmlp.MLP) and net.backend == backend and net.layer_sizes == SIZES
    assert_same_bits(net.parameters, before[2])
    net.weights[0][...] = 0.0
    net.fit(*examples_for(SIZES, 20))
    assert_same_bits(ensemble.parameters, before)
    assert_same_bits(ensemble[2]._shuffle_rng.permutation(9), ensemble[2]._shuffle_rng.permutation(9))


def test_seeds_may_be_spawned_from_one():
    streams = np.random.default_rng(3).spawn(4)
    expected = np.array([fastmlp.MLP(SIZES, rng=stream).parameters for stream in streams])
    assert_same_bits(fastmlp.MLPEnsemble(SIZES, 4, rng=3).parameters, expected)
    assert_same_bits(fastmlp.MLPEnsemble(SIZES, 4, rng=np.random.default_rng(3)).parameters, expected)


def test_one_optimizer_is_a_pattern_and_goes_on(backend):
    X, y = examples_for(SIZES, 50)
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, rng=[0, 1, 2], backend=backend)
    pattern = fastmlp.Adam(lr=0.01)
    ensemble.fit(X, y, optimizer=pattern, epochs=2)
    pattern.lr = 0.002
    ensemble.fit(X, y, optimizer=pattern, epochs=2)
    for i, net in enumerate(ensemble):
        single, own = fastmlp.MLP(SIZES, rng=i, backend=backend), fastmlp.Adam(lr=0.01)
        single.fit(X, y, optimizer=own, epochs=2)
        own.lr = 0.002
        single.fit(X, y, optimizer=own, epochs=2)
        assert_same_bits(net.parameters, single.parameters)
    with pytest.raises(RuntimeError, match="keeps the state of another network"):
        single.fit(X, y, optimizer=pattern)
    pattern.reset()
    ensemble.fit(X, y, optimizer=pattern)
    assert pattern._net() is ensemble


def test_parameters_are_live_views():
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, rng=0)
    assert [w.shape for w in ensemble.weights] == [(3, 6, 4), (3, 3, 6)]
    assert [b.shape for b in ensemble.biases] == [(3, 6), (3, 3)]
    ensemble.weights[0][1] = 2.0
    ensemble.biases[1][2] = -1.0
    assert (ensemble[1].weights[0] == 2.0).all() and (ensemble[2].biases[1] == -1.0).all()
    other = fastmlp.MLPEnsemble(SIZES, 3, rng=1)
    other.set_parameters(ensemble.parameters)
    assert_same_bits(other.parameters, ensemble.parameters)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles_go_on_alike(backend, duplicate):
    X, y = examples_for(SIZES, 40)
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, dropout=[[0.1], [0.2], [0.0]], l2=[0.0, 0.1, 0.2], rng=0, backend=backend)
    ensemble.fit(X, y)
    other = duplicate(ensemble)
    other = other if other.backend == backend else _on(other, backend)
    ensemble.fit(X, y, epochs=2)
    other.fit(X, y, epochs=2)
    assert_same_bits(other.parameters, ensemble.parameters)
    assert (other.l2 == [0.0, 0.1, 0.2]).all() and (other.dropout == [[0.1], [0.2], [0.0]]).all()


def _on(ensemble, backend):
    """An unpickled ensemble, on a backend that is not the best one."""
    other = type(ensemble).__new__(type(ensemble))
    other._restore(ensemble.__getstate__(), backend)
    return other


def test_what_it_says_of_itself():
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, l2=[0.0, 0.1, 0.2], backend="numpy")
    assert repr(ensemble) == (
        "MLPEnsemble([4, 6, 3], 3, activation='relu', output_activation='identity', loss='mse', dtype='float32', "
        "backend='numpy', l2=0.0...0.2)"
    )
    assert len(ensemble) == ensemble.n_members == 3 and ensemble.n_parameters == ensemble[0].n_parameters
    assert ensemble.dtype == np.float32 and ensemble.loss_name == "mse" and ensemble.l1.shape == (3,)
    history = ensemble.fit(*examples_for(SIZES, 20), epochs=2)
    assert repr(history) == "EnsembleHistory(3 members, up to 2 epochs; stopped: 3 by 'epochs')"
    assert history.loss.shape == (3, 2) and history.val_loss.shape == (3, 0) and len(list(history)) == 3
    assert (history.best_epoch == -1).all() and (history.epochs == 2).all()


def test_no_epochs():
    ensemble = fastmlp.MLPEnsemble(SIZES, 2, rng=0)
    before = ensemble.parameters
    history = ensemble.fit(*examples_for(SIZES, 20), epochs=0)
    assert history.loss.shape == (2, 0) and history.stopped_by == ("epochs", "epochs")
    assert_same_bits(ensemble.parameters, before)


X, Y = examples_for(SIZES, 20)
WRONG_CONSTRUCTION = [
    ({"n_members": 0}, ValueError, "n_members is 0; expected at least 1"),
    ({"n_members": 2.0}, TypeError, "n_members is 2.0; expected a whole number"),
    ({"l2": [0.1]}, ValueError, "l2 has 1 numbers; expected one, or 3"),
    ({"l2": [0.1, -1.0, 0.1]}, ValueError, r"l2\[1\] is -1"),
    ({"l1": "much"}, TypeError, "l1 is 'much'"),
    ({"dropout": [[0.1], [0.2]]}, ValueError, "dropout has 2 rows; expected 3"),
    ({"dropout": [[0.1], [0.2], [1.0]]}, ValueError, "dropout is 1; expected"),
    ({"dropout": [[0.1, 0.1]] * 3}, ValueError, "dropout has 2 rates; expected 1"),
    ({"rng": [1, 2]}, ValueError, "rng has 2 seeds; expected 3"),
    ({"rng": "dice"}, TypeError, "rng is 'dice'"),
    ({"rng": [0, 1, -1]}, ValueError, "rng is -1"),
    ({"layer_sizes": [4]}, ValueError, "layer_sizes is"),
    ({"backend": "gpu"}, ValueError, "backend is 'gpu'"),
    ({"n_threads": 0}, ValueError, "n_threads is 0"),
]
WRONG_FIT = [
    ({"X": X[:0], "y": Y[:0]}, ValueError, "X has no examples"),
    ({"X": X[0]}, ValueError, "X has shape .* that of one example"),
    ({"y": Y[:5]}, ValueError, "y has 5 rows; X has 20"),
    ({"sample_weight": np.ones((2, 20))}, ValueError, r"sample_weight has shape \(2, 20\); .*\(3, 20\)"),
    ({"sample_weight": np.full((3, 20), np.nan)}, ValueError, "sample_weight has NaN"),
    ({"optimizer": "adam"}, TypeError, "optimizer is 'adam'"),
    ({"optimizer": [fastmlp.Adam()]}, ValueError, "optimizer has 1 of them"),
    ({"optimizer": [fastmlp.Adam()] * 3}, ValueError, "optimizer has the same object twice"),
    ({"optimizer": [fastmlp.Adam(), fastmlp.SGD(), fastmlp.Adam()]}, ValueError, r"optimizer\[1\] is SGD"),
    ({"optimizer": [fastmlp.Adam(), None, fastmlp.Adam()]}, TypeError, r"optimizer\[1\] is None"),
    ({"epochs": -1}, ValueError, "epochs is -1"),
    ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ({"shuffle": 1}, TypeError, "shuffle is 1"),
    ({"validation_data": X}, TypeError, "validation_data must be a tuple"),
    ({"validation_data": (X, Y[:3])}, ValueError, "validation_data: y has 3 rows"),
    ({"early_stopping": 3}, ValueError, "early_stopping watches val_loss"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_CONSTRUCTION)
def test_wrong_construction(wrong, error, message):
    with pytest.raises(error, match=message):
        fastmlp.MLPEnsemble(**{"layer_sizes": SIZES, "n_members": 3} | wrong)


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_FIT)
def test_wrong_fits_change_nothing(wrong, error, message):
    ensemble = fastmlp.MLPEnsemble(SIZES, 3, rng=0)
    before = pickle.dumps(ensemble)
    with pytest.raises(error, match=message):
        ensemble.fit(**{"X": X, "y": Y} | wrong)
    assert pickle.dumps(ensemble) == before


def test_wrong_members_and_assignments():
    ensemble = fastmlp.MLPEnsemble(SIZES, 3)
    for index, error in ((3, IndexError), (-4, IndexError), ("first", TypeError), (True, TypeError)):
        with pytest.raises(error, match="index is"):
            ensemble[index]
    with pytest.raises(AttributeError, match="weights cannot be assigned"):
        ensemble.weights = []
    with pytest.raises(AttributeError, match="biases cannot be assigned"):
        ensemble.biases = []
    with pytest.raises(ValueError, match="flat has shape"):
        ensemble.set_parameters(np.zeros(3))
    with pytest.raises(ValueError, match="X has 3 features"):
        ensemble.forward(X[:, :3])


def test_optimizers_of_other_networks_are_refused():
    used = fastmlp.Adam()
    fastmlp.MLP(SIZES).fit(X, Y, optimizer=used)
    ensemble, fresh = fastmlp.MLPEnsemble(SIZES, 2), fastmlp.Adam()
    with pytest.raises(RuntimeError, match="keeps the state of another network"):
        ensemble.fit(X, Y, optimizer=[fresh, used])
    fastmlp.MLP(SIZES).fit(X, Y, optimizer=fresh)


class _Schedule:
    """A learning rate that does something at some epoch."""

    def __init__(self, action):
        self.action = action

    def __call__(self, epoch):
        self.action(epoch)
        return 0.01


def test_ctrl_c_leaves_a_usable_ensemble(backend, monkeypatch):
    """Whatever thread an exception rises in, all end, it is raised, and training can go on."""
    monkeypatch.setattr(_ensemble_fit, "INDICES_PER_ROUND", 1)

    def interrupt(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    ensemble = fastmlp.MLPEnsemble(SIZES, 40, rng=0, backend=backend, n_threads=3)
    n_before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        ensemble.fit(X, Y, optimizer=fastmlp.SGD(lr=_Schedule(interrupt)), epochs=5)
    assert threading.active_count() == n_before
    assert np.isfinite(ensemble.parameters).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ensemble.fit(X, Y, epochs=2).stopped_by == ("epochs",) * 40


def test_two_fits_at_a_time_are_refused():
    ensemble = fastmlp.MLPEnsemble(SIZES, 2, rng=0)

    def fit_again(epoch):
        with pytest.raises(RuntimeError, match="already being trained"):
            ensemble.fit(X, Y)

    ensemble.fit(X, Y, optimizer=fastmlp.SGD(lr=_Schedule(fit_again)))


def test_sparse_inputs_become_dense():
    sparse = pytest.importorskip("scipy.sparse")
    one, other = (fastmlp.MLPEnsemble(SIZES, 2, rng=0) for _ in range(2))
    one.fit(sparse.csr_array(X), Y)
    other.fit(X, Y)
    assert_same_bits(one.parameters, other.parameters)
