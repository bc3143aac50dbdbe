"""What the demos compute, over every backend, and that each writes its picture."""

import importlib
import sys

import numpy as np
import pytest
from support import assert_close, require

import fastmlp
from fastmlp._demos import DEMOS, _figure, batching, descent, digits, ensemble, export, gates, minimal, njit, sgd, xor
from fastmlp._demos._table import format_duration, format_table

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


# Gates


def test_gates_give_their_truth_tables(backend):
    for name, (net, truth) in gates.networks(backend).items():
        # sigmoid(10) is the farthest from its target: 5e-5 for a neuron, a little more through two layers.
        np.testing.assert_allclose(gates.outputs(net), truth, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(net.predict(gates.INPUTS), truth, err_msg=name)


def test_gates_are_what_their_names_say():
    a, b = gates.INPUTS.astype(bool).T
    np.testing.assert_array_equal(gates.GATES["AND"].truth, a & b)
    np.testing.assert_array_equal(gates.GATES["OR"].truth, a | b)
    np.testing.assert_array_equal(gates.GATES["NAND"].truth, ~(a & b))
    np.testing.assert_array_equal(gates.XOR_TRUTH, a ^ b)


def test_xor_of_gates_is_the_matrix_formula(backend):
    def sigmoid(z):
        return 1.0 / (1.0 + np.exp(-z))

    hidden = sigmoid(gates.INPUTS @ gates.XOR_W1.T + gates.XOR_B1)
    expected = sigmoid(hidden @ gates.XOR_W2.T + gates.XOR_B2)[:, 0]
    np.testing.assert_allclose(gates.outputs(gates.xor_network(backend)), expected, rtol=2e-5)
    layers = gates.xor_network(backend).activations_of(gates.INPUTS)
    np.testing.assert_allclose(np.asarray(layers[-2]).round(), np.transpose([(0, 1, 1, 1), (1, 1, 1, 0)]))


# XOR


def test_some_seeds_learn_xor_and_some_get_stuck(backend):
    attempts = xor.study(10, 1500, backend)
    solved = [attempt for attempt in attempts if attempt.solved]
    assert 4 <= len(solved) <= 9
    for attempt in attempts:
        assert attempt.solved == xor.solves(attempt.net)
        assert attempt.solved == (len(attempt.losses) < 1500)
        if attempt.solved:
            np.testing.assert_array_equal(np.ravel(attempt.net.forward(xor.INPUTS)) > 0.5, [False, True, True, False])


def test_learning_xor_stops_at_its_step_limit(backend):
    attempt = xor.attempt(0, 3, backend)
    assert not attempt.solved
    assert len(attempt.losses) == 3


# One parameter


@pytest.mark.parametrize("rate", minimal.RATES)
def test_one_parameter_follows_the_closed_form(backend, rate):
    actual = minimal.descend(rate, 20, start=-1.5, backend=backend)
    expected = [2.0 + (-1.5 - 2.0) * (1.0 - 2.0 * rate) ** n for n in range(21)]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(minimal.closed_form(rate, 20, -1.5), expected, rtol=1e-13)


def test_one_parameter_behaves_as_its_learning_rate_says(backend):
    errors = {rate: minimal.descend(rate, backend=backend) - minimal.TARGET for rate in minimal.RATES}
    assert np.all(errors[0.1] < 0)
    assert np.all(np.diff(errors[0.1]) > 0)
    np.testing.assert_array_equal(errors[0.5][1:], 0.0)
    for rate in (0.9, 1.1):
        assert np.all(errors[rate][1:] * errors[rate][:-1] < 0), f"rate {rate} has to change sides at every step"
    assert np.all(np.diff(np.abs(errors[0.9])) < 0)
    assert np.all(np.diff(np.abs(errors[1.1])) > 0)


# Gradient descent on 4 x1^2 + x2^2


@pytest.mark.parametrize(("point", "expected"), [((0.0, 5.0), (0, 10)), ((1.0, 1.0), (8, 2)), ((1.25, 0.0), (10, 0))])
def test_gradient_agrees_three_ways(backend, point, expected):
    x = np.array(point)
    np.testing.assert_array_equal(descent.gradient(x), expected)
    np.testing.assert_allclose(descent.finite_differences(x), expected, atol=1e-8)
    loss, by_backpropagation = descent.backpropagation(x, backend)
    np.testing.assert_allclose(by_backpropagation, expected, rtol=1e-13, atol=1e-13)
    assert loss == pytest.approx(4 * point[0] ** 2 + point[1] ** 2, rel=1e-13)
    # The level curve through x runs along (-x2, 4 x1): it is (r/2 cos t, r sin t).
    assert descent.gradient(x) @ np.array([-x[1], 4 * x[0]]) == 0.0


def test_descent_depends_on_the_learning_rate(backend):
    n = np.arange(descent.N_STEPS + 1)
    ends = {}
    for rate, name in descent.RATES.items():
        path = descent.descend(rate, backend=backend)
        expected = np.column_stack([descent.START[0] * (1 - 8 * rate) ** n, descent.START[1] * (1 - 2 * rate) ** n])
        np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-14)
        ends[name] = descent.value(path[-1])
    assert ends["good"] < 1e-4 < ends["small"] < descent.value(np.array(descent.START))
    assert ends["too large"] > descent.value(descent.descend(0.26, 1, backend)[-1]) * 0.9


# Stochastic gradient descent


def test_noisy_estimates_get_further_with_the_same_examples(backend):
    X, y = sgd.make_data(512)
    n_epochs = 4
    batch, _, single = sgd.WAYS
    by_batch = sgd.descend(batch._replace(n_updates=n_epochs), X, y, backend)
    by_single = sgd.descend(single._replace(n_updates=n_epochs * len(X)), X, y, backend)
    assert by_batch.losses[0] == by_single.losses[0]
    assert by_single.losses[-1] < 0.9 * by_batch.losses[-1]
    assert len(by_single.estimates) == n_epochs * len(X)
    assert by_single.updates[-1] == n_epochs * len(X)
    assert np.all(np.diff(by_single.seconds) >= 0)
    # A batch of all examples is no estimate.
    np.testing.assert_allclose(by_batch.estimates, by_batch.losses[:-1], rtol=1e-5)


def test_single_examples_estimate_the_loss_without_bias(backend):
    X, y = sgd.make_data(256)
    frozen = sgd.Way("frozen", 1, 0.0, len(X))
    estimates = sgd.descend(frozen, X, y, backend).estimates
    assert estimates.std() > 0.05
    assert estimates.mean() == pytest.approx(sgd.descend(frozen, X, y, backend).losses[0], rel=1e-5)


def test_first_reaching_finds_the_first_checkpoint():
    arrays = np.array([0, 1, 5, 9]), np.array([0.7, 0.4, 0.2, 0.3]), np.array([0.0, 0.1, 0.5, 0.9])
    course = sgd.Descent(sgd.WAYS[0], *arrays, accuracy=1.0, estimates=np.empty(0))
    assert sgd.first_reaching(course, 0.3) == (5, 0.5)
    assert sgd.first_reaching(course, 0.1) is None


# Batching


@pytest.mark.parametrize("way", batching.WAYS)
def test_ways_to_a_gradient_agree(backend, way):
    net = batching.make_network(backend)
    before = net.parameters
    X, y = batching.make_data(37)
    expected = net.loss_and_gradients(X.astype(np.float64), y)[1].flat
    assert_close(batching.WAYS[way](net, X, y), expected, "float32", way)
    np.testing.assert_array_equal(net.parameters, before)


def test_numpy_loop_against_central_differences():
    net = fastmlp.MLP(batching.LAYER_SIZES, output_activation="softmax", dtype="float64", rng=0, backend="numpy")
    X, y = batching.make_data(5)
    gradient = batching.numpy_loop(net, X, y)
    point = net.parameters
    for place in np.random.default_rng(0).integers(0, net.n_parameters, 20):
        losses = []
        for shift in (1e-6, -1e-6):
            moved = point.copy()
            moved[place] += shift
            net.set_parameters(moved)
            losses.append(net.loss(X, y))
        net.set_parameters(point)
        assert gradient[place] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_nothing_is_timed_unless_the_ways_agree(monkeypatch, backend):
    net = batching.make_network(backend)
    X, y = batching.make_data(8)
    assert set(batching.time_ways(net, X, y, 0.0)) == set(batching.WAYS)
    monkeypatch.setitem(batching.WAYS, batching.BATCHED, lambda net, X, y: batching.one_batched_call(net, X, y) * 1.001)
    with pytest.raises(AssertionError, match="the four ways differ by"):
        batching.time_ways(net, X, y, 0.0)


def test_seconds_per_call_counts_calls():
    calls = []
    seconds = batching.seconds_per_call(calls.append, "x", budget=0.001)
    assert len(calls) >= 1 + 3 + batching.N_RUNS
    assert 0 < seconds < 0.001


# Export


def test_exports_agree(tmp_path, backend, capsys):
    net = export.make_network(1, backend)
    X = export.observations()
    found = export.ways(net, tmp_path)
    assert list(found)[0] == f"fastmlp, backend {backend}"
    for way in found.values():
        assert_close(way.outputs(X), net.forward(X), "float32")
        assert 0 < way.timer(3) < 1
    printed = capsys.readouterr().out
    for name, start in (("C", "C99"), ("onnxruntime", "onnxruntime"), ("PyTorch", "PyTorch")):
        assert any(way.startswith(start) for way in found) != (f"Without {name}: " in printed)
    assert (tmp_path / "policy.onnx").exists()


def test_exports_that_disagree_are_not_shown():
    outputs = np.zeros(3, np.float32)
    assert export.agreement(outputs, outputs) == "same bits"
    assert export.agreement(outputs + np.float32(1e-7), outputs) == "within 1e-07"
    with pytest.raises(AssertionError, match="outputs differ by 1.0e-04"):
        export.agreement(outputs + np.float32(1e-4), outputs)


def test_without_a_compiler_the_demo_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    net = export.make_network(0, "numpy")
    assert not any("C99" in name for name in export.ways(net, tmp_path))
    assert "Without C: there is no C compiler here (gcc, clang, cc)" in capsys.readouterr().out


# Digits


@pytest.fixture(scope="module")
def split():
    pytest.importorskip("sklearn")
    return digits.load()


def test_digits_are_split_the_same_way_each_time(split):
    assert [len(split.y_train), len(split.y_validation), len(split.y_test)] == [1178, 169, 450]
    for part, again in zip(split, digits.load()):
        np.testing.assert_array_equal(part, again)
    for labels in (split.y_train, split.y_validation, split.y_test):
        assert set(labels.tolist()) == set(range(10))
    np.testing.assert_allclose(split.X_train.mean(axis=0), 0.0, atol=1e-5)
    assert set(np.round(split.X_train.std(axis=0), 3)) == {0.0, 1.0}


def test_digits_are_read_right(backend, split):
    trainings = [digits.train(split, seed, backend) for seed in range(digits.N_SEEDS)]
    assert np.mean([training.accuracy for training in trainings]) >= digits.GOAL
    for training in trainings:
        history = training.history
        assert training.backend == backend
        assert history.stopped_by == "early_stopping"
        assert min(history.val_loss) == pytest.approx(
            training.net.loss(split.X_validation, split.y_validation), rel=1e-12
        )


# Compiled loops, as Python runs them


def test_the_lorenz_system_rests_where_it_should():
    place = np.sqrt(njit.BETA * (njit.RAYLEIGH - 1.0))
    for y in ([0.0, 0.0, 0.0], [place, place, njit.RAYLEIGH - 1.0], [-place, -place, njit.RAYLEIGH - 1.0]):
        slope = np.full(3, np.nan)
        njit.lorenz(np.array(y), slope)
        np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_integration_is_of_fourth_order():
    def decay(y, out):
        out[:] = -y * [1.0, 2.0]

    errors = []
    for n in (10, 20):
        path = np.ones((n + 1, 2))
        njit.integrate(decay, 1.0 / n, path)
        errors.append(np.abs(path[-1] - np.exp([-1.0, -2.0])).max())
    assert errors[1] < 1e-5
    assert 14.0 < errors[0] / errors[1] < 20.0


class Linear:
    """y' = A y as a compiled net has it."""

    def __init__(self, A):
        self.A = np.array(A)

    def value_and_jacobian(self, x, out, J):
        out[:], J[:] = self.A @ x, self.A


def test_growth_rate_is_the_largest_eigenvalue():
    path = np.ones((3001, 2))
    assert njit.growth_rate(Linear([[0.5, 1.0], [0.0, -1.0]]), 0.01, path) == pytest.approx(0.5, abs=0.02)
    assert njit.growth_rate(Linear([[-0.7, 0.0], [0.3, -2.0]]), 0.01, path) == pytest.approx(-0.7, abs=0.02)


def test_the_regulator_holds_poles_and_nothing_lets_them_fall():
    def regulator(state, action):
        action[0] = state @ njit.GAINS / njit.LARGEST_FORCE

    def nothing(state, action):
        action[0] = 0.0

    starts = np.array([[0.1, 0.0, 0.1, 0.0], [-0.2, 0.1, -0.15, -0.1]], dtype=np.float32)
    held, fallen = np.zeros((2, 2, 300), dtype=np.float32)
    njit.rollout(regulator, starts, held)
    njit.rollout(nothing, starts, fallen)
    assert np.abs(held).max() < 0.4
    assert (np.abs(fallen).max(axis=1) > 1.5).all()


def test_a_net_learns_the_lorenz_system(backend):
    path = np.empty((3001, 3))
    path[0] = (-8.0, -8.0, 27.0)
    njit.integrate(njit.lorenz, njit.TIME_STEP, path)
    net = njit.learn_lorenz(path, 5, backend)
    slopes = np.empty_like(path)
    njit.lorenz(path.T, slopes.T)
    assert np.abs(net.forward(path) - slopes).mean() < 0.05 * np.abs(slopes).mean()


# Ensemble


def test_an_ensemble_is_its_members_and_is_unsure_where_it_has_seen_nothing(backend):
    result = ensemble.study(6, 60, backend)
    assert result.same_bits and result.ensemble.backend == backend
    spread = result.ensemble.spread(ensemble.GRID[:, None])[:, 0]
    assert spread[0] + spread[-1] > 4 * spread[len(spread) // 2]


def test_the_search_gives_the_losses_of_every_learning_rate(backend):
    losses = ensemble.search(40, backend, per_rate=2)
    assert tuple(losses) == ensemble.RATES and all(each.shape == (2,) for each in losses.values())
    assert np.median(losses[1e-2]) < np.median(losses[1e-4])


# Pictures and tables


@pytest.mark.parametrize("name", DEMOS)
def test_demo_runs_and_writes_its_picture(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    if name == "digits":
        pytest.importorskip("sklearn")
    if name == "njit":
        require("numba")
    backend = None if name in ("batching", "digits") else fastmlp.available_backends()[0]
    importlib.import_module(f"fastmlp._demos.{DEMOS[name].module}").run(tmp_path / "new", backend, True)
    picture = tmp_path / "new" / f"{name}.png"
    assert picture.read_bytes().startswith(PNG_SIGNATURE)
    printed = capsys.readouterr().out
    assert f"Picture: {picture}" in printed
    assert "----" in printed, "a table is expected"


def test_without_matplotlib_a_demo_goes_on(tmp_path, capsys, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    gates.run(tmp_path, "numpy", True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("No picture: matplotlib")
    assert 'pip install "fastmlp[demo]"' in lines[-1]
    assert not list(tmp_path.iterdir())


def test_pictures_leave_matplotlib_as_it_was(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    assert _figure.write(tmp_path / "a.png", lambda figure: figure.subplots(), (2.0, 2.0))
    assert dict(matplotlib.rcParams) == before


def test_table_aligns_its_columns():
    lines = format_table(["gate", "w"], [["AND", "20"], ["or", "-5.5"]]).splitlines()
    assert lines == ["gate     w", "----  ----", "AND     20", "or    -5.5"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(2.5, "2.5 s"), (0.0305, "30.5 ms"), (4.2e-5, "42 µs"), (8.04e-8, "80.4 ns"), (1234.5, "1,234 s")],
)
def test_durations_are_written_in_their_unit(seconds, expected):
    assert format_duration(seconds) == expected
