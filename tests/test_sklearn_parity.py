"""fastmlp.sklearn beside scikit-learn's own estimators: the same parameters, losses and scores from the same seed."""

import numpy as np
import pytest
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

import fastmlp.sklearn

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),  # in scikit-learn, where a fit diverges
    pytest.mark.filterwarnings("ignore:overflow encountered"),
]
TOLERANCE = 1e-6
N = 150


def scaled(X):
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-9)


def make_data():
    digits, cancer, diabetes = load_digits(), load_breast_cancer(), load_diabetes()
    X, y = digits.data[:N], digits.target[:N]
    numbers = diabetes.target[:N] / 100.0
    return {
        "multiclass": (X / 16.0, y),
        "strings": (X / 16.0, np.array(["zero", "one", "two", "three"])[y % 4]),
        "binary": (scaled(cancer.data)[:N], cancer.target[:N]),
        "multilabel": (X / 16.0, np.stack([y > 4, y % 2, y < 2], axis=1).astype(int)),
        "unscaled": (load_wine().data, load_wine().target),
        "unscaled binary": (cancer.data, cancer.target),
        "regression": (diabetes.data[:N] * 10.0, numbers),
        "outputs": (diabetes.data[:N] * 10.0, np.stack([numbers, -numbers, numbers**2], axis=1)),
    }


DATA = make_data()
SCALED = tuple(name for name in DATA if not name.startswith("unscaled"))
REGRESSION = ("regression", "outputs")
ACTIVATIONS = ("identity", "logistic", "tanh", "relu")


def pair(task, **settings):
    """scikit-learn's estimator and ours."""
    name = "MLPRegressor" if task in REGRESSION else "MLPClassifier"
    settings = {"hidden_layer_sizes": (12, 7), "max_iter": 20, "random_state": 3, "batch_size": 32} | settings
    return getattr(neural_network, name)(**settings), getattr(fastmlp.sklearn, name)(**settings)


def assert_same(theirs, ours, X, tolerance=TOLERANCE):
    """Everything that a fit leaves behind agrees."""
    for name in ("coefs_", "intercepts_"):
        for expected, actual in zip(getattr(theirs, name), getattr(ours, name), strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        expected = getattr(theirs, name, None)
        if expected is None:
            assert getattr(ours, name, None) is None
        else:
            np.testing.assert_allclose(getattr(ours, name), expected, rtol=tolerance, atol=tolerance, err_msg=name)
    for name in ("n_iter_", "t_", "n_features_in_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for method in ("predict", "predict_proba"):
        if hasattr(theirs, method):
            expected, actual = getattr(theirs, method)(X), getattr(ours, method)(X)
            assert actual.dtype == expected.dtype and actual.shape == expected.shape
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=method)
            else:
                np.testing.assert_array_equal(actual, expected)


def check(task, tolerance=TOLERANCE, fit=None, **settings):
    """Fit both on the same data and compare."""
    X, y = DATA[task]
    theirs, ours = pair(task, **settings)
    theirs.fit(X, y, **(fit or {}))
    ours.fit(X, y, **(fit or {}))
    assert_same(theirs, ours, X, tolerance)
    return theirs, ours


@pytest.mark.parametrize("task", SCALED)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_task_and_activation(task, solver, activation):
    check(task, solver=solver, activation=activation)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_size", [32, "auto"])
@pytest.mark.parametrize("task", ["unscaled", "unscaled binary"])
def test_losses_of_unscaled_data_come_from_clipped_probabilities(task, batch_size, seed):
    theirs, _ = check(task, random_state=seed, hidden_layer_sizes=(100,), batch_size=batch_size)
    assert max(theirs.loss_curve_) > 1.0


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("logit", [22.3, 30.3, 34.4, 36.5, 50.0])
def test_one_example_far_on_the_wrong_side(n_classes, logit):
    """Its loss is clipped; and with two classes it has the rounding of 1 - p in it, wherever it comes in an epoch."""
    for position in (11, 27, 51, 75):  # in batches 1, 3, 6 and 9, which are not looked at
        X = np.full((80, 1), -7.0)
        X[position] = logit
        models = pair(
            "binary", hidden_layer_sizes=(), solver="sgd", learning_rate_init=1e-12, batch_size=8, shuffle=False
        )
        for model in models:
            for _ in range(2):
                model.partial_fit(X, np.zeros(80, dtype=int), classes=range(n_classes))
                model.coefs_[0][...] = 0.0
                model.coefs_[0][:, -1] = 1.0
                model.intercepts_[0][...] = 0.0
        assert models[1].loss_ == pytest.approx(models[0].loss_, rel=1e-9)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, True), (0.5, False), (0.9, True)])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_learning_rate_policies(task, momentum, nesterov, learning_rate, early_stopping):
    _, ours = check(
        task,
        solver="sgd",
        learning_rate=learning_rate,
        learning_rate_init=0.02,
        momentum=momentum,
        nesterovs_momentum=nesterov,
        early_stopping=early_stopping,
        n_iter_no_change=2,
        tol=0.01,
        max_iter=40 if learning_rate == "adaptive" else 20,
    )
    if learning_rate == "adaptive" and not early_stopping:
        assert ours._optimizer.learning_rate < 0.02


@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_penalty(task, alpha):
    check(task, alpha=alpha)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "regression", "outputs"])
def test_early_stopping(task, solver):
    check(task, solver=solver, early_stopping=True, validation_fraction=0.2, n_iter_no_change=3, max_iter=40)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "regression", "outputs"])
@pytest.mark.parametrize("solver, early_stopping", [("sgd", False), ("adam", True), ("lbfgs", False)])
def test_sample_weight(task, solver, early_stopping):
    weight = np.random.default_rng(0).uniform(0.0, 3.0, N)
    weight[:5] = 0.0
    iterations = 10 if solver == "lbfgs" else 20
    check(task, solver=solver, early_stopping=early_stopping, fit={"sample_weight": weight}, max_iter=iterations)


@pytest.mark.parametrize("form", [np.float32, np.int64, lambda weight: 2.5, list])
def test_forms_of_sample_weight(form):
    check("multiclass", fit={"sample_weight": form(np.arange(1.0, N + 1.0))}, max_iter=4)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sparse_labels(early_stopping):
    X, y = DATA["multilabel"]
    theirs, ours = pair("multilabel", early_stopping=early_stopping, max_iter=4)
    theirs.fit(X, sparse.csr_matrix(y))
    ours.fit(X, sparse.csr_matrix(y))
    np.testing.assert_array_equal(ours.predict(X).toarray(), theirs.predict(X).toarray())
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=TOLERANCE)


def test_a_single_class():
    X, _ = DATA["binary"]
    theirs, ours = pair("binary", max_iter=4)
    labels = np.full(N, "only")
    assert_same(theirs.fit(X, labels), ours.fit(X, labels), X)


@pytest.mark.parametrize("task", ["regression", "outputs"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_poisson(task, weighted, solver):
    X, y = DATA[task]
    theirs, ours = pair(task, loss="poisson", solver=solver, max_iter=10 if solver == "lbfgs" else 20)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, N) if weighted else None
    theirs.fit(X, abs(y), sample_weight=weight)
    ours.fit(X, abs(y), sample_weight=weight)
    assert_same(theirs, ours, X)


@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lbfgs(task, activation):
    check(task, solver="lbfgs", activation=activation, max_iter=10)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_lbfgs_comes_to_the_same_loss(task):
    X, y = DATA[task]
    theirs, ours = (m.fit(X, y) for m in pair(task, solver="lbfgs", max_iter=100, activation="tanh", alpha=1.0))
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, N, "auto"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches(batch_size, shuffle):
    check("multiclass", batch_size=batch_size, shuffle=shuffle, max_iter=5)


def test_batches_of_more_rows_than_the_kernels_take_at_once():
    X, y = load_digits(return_X_y=True)
    theirs, ours = pair("multiclass", batch_size=1000, max_iter=5)
    assert_same(theirs.fit(X, y), ours.fit(X, y), X)


@pytest.mark.parametrize("hidden", [(), 5, (5,), [9, 8, 7], np.array([6, 5])])
def test_layers(hidden):
    check("binary", hidden_layer_sizes=hidden, max_iter=5)


@pytest.mark.parametrize("settings", [{"beta_1": 0.0, "beta_2": 0.9}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.1}])
def test_settings_of_adam(settings):
    check("multiclass", **settings)


@pytest.mark.parametrize("seed", [0, None, "instance"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel", "outputs"])
@pytest.mark.parametrize("settings", [{"solver": "adam"}, {"solver": "sgd", "learning_rate": "invscaling"}])
def test_partial_fit(task, settings, seed):
    """An int starts its random numbers anew at each call, an instance and None go on."""
    X, y = DATA[task]
    models = []
    for model in pair(task, **settings):
        np.random.seed(5)  # noqa: NPY002 - None means this generator
        model.set_params(random_state=np.random.RandomState(5) if seed == "instance" else seed)
        classes = {} if task == "outputs" else {"classes": [0, 1, 2] if task == "multilabel" else np.unique(y)}
        for _ in range(4):
            for rows in (slice(0, 60), slice(60, N)):
                model.partial_fit(X[rows], y[rows], **classes)
                classes = {}
        models.append(model)
    assert_same(*models, X)
    assert len(models[1].loss_curve_) == 8


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("task", ["binary", "outputs"])
def test_warm_start(task, early_stopping, solver):
    X, y = DATA[task]
    models = pair(task, solver=solver, warm_start=True, early_stopping=early_stopping, max_iter=4, n_iter_no_change=3)
    for model in models:
        model.fit(X, y)
        model.set_params(alpha=0.5).fit(X, y)
        model.set_params(activation="tanh").fit(X[:150], y[:150])
    assert_same(*models, X)


def test_fit_after_partial_fit_starts_anew():
    X, y = DATA["binary"]
    models = pair("binary")
    for model in models:
        model.partial_fit(X, y, classes=[0, 1])
        model.fit(X[:, :9], y)
    assert_same(*models, X[:, :9])


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sparse(container, solver, early_stopping):
    X, y = DATA["multiclass"]
    theirs, ours = pair("multiclass", solver=solver, early_stopping=early_stopping, max_iter=8)
    weight = np.linspace(0.5, 2.0, N)
    theirs.fit(container(X), y, sample_weight=weight)
    ours.fit(container(X), y, sample_weight=weight)
    assert_same(theirs, ours, container(X))


def test_many_sparse_rows_in_lbfgs():
    X, y = load_digits(return_X_y=True)
    X = sparse.csr_array(X / 16.0)
    theirs, ours = pair("multiclass", solver="lbfgs", max_iter=6)
    assert_same(theirs.fit(X, y), ours.fit(X, y), X)


@pytest.mark.parametrize("task", ["multiclass", "outputs"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_float32(task, solver):
    X, y = DATA[task]
    theirs, ours = pair(task, solver=solver, max_iter=8)
    theirs.fit(X.astype(np.float32), y)
    ours.fit(X.astype(np.float32), y)
    assert_same(theirs, ours, X.astype(np.float32), tolerance=1e-3)
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@pytest.mark.parametrize("convert", [np.asfortranarray, lambda X: (16 * X).astype(np.int32), lambda X: X.tolist()])
def test_other_kinds_of_arrays(convert):
    X, y = DATA["multiclass"]
    theirs, ours = pair("multiclass", max_iter=5)
    assert_same(theirs.fit(convert(X), y.tolist()), ours.fit(convert(X), y.tolist()), convert(X))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_divergence(early_stopping):
    """scikit-learn goes on with NaN; early stopping saves the parameters from before."""
    X, y = DATA["regression"]
    models = pair("regression", solver="sgd", learning_rate_init=1e9, early_stopping=early_stopping, max_iter=6)
    for model in models:
        model.set_params(n_iter_no_change=1)  # which NaN does not count towards
        if early_stopping:
            model.fit(X, y)
            assert np.isnan(model.loss_curve_[-1]) and np.isnan(model.validation_scores_[-1])
        else:
            with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
                model.fit(X, y)
    if early_stopping:
        assert models[1].n_iter_ == models[0].n_iter_ == 6
        for expected, actual in zip(models[0].coefs_, models[1].coefs_):
            np.testing.assert_allclose(actual, expected, atol=TOLERANCE)


def random_settings(rng):
    """Settings that scikit-learn knows, each at random."""
    choose = rng.choice
    return {
        "hidden_layer_sizes": tuple(int(size) for size in rng.integers(1, 30, rng.integers(1, 4))),
        "activation": str(choose(ACTIVATIONS)),
        "solver": str(choose(["sgd", "adam"])),
        "alpha": float(choose([0.0, 1e-4, 0.1, 3.0])),
        "batch_size": int(rng.integers(1, 80)),
        "learning_rate": str(choose(["constant", "invscaling", "adaptive"])),
        "learning_rate_init": float(10 ** rng.uniform(-4, -2)),
        "power_t": float(rng.uniform(0, 1)),
        "shuffle": bool(rng.random() < 0.8),
        "momentum": float(choose([0.0, 0.5, 0.95])),
        "nesterovs_momentum": bool(rng.random() < 0.5),
        "early_stopping": bool(rng.random() < 0.3),
        "n_iter_no_change": int(rng.integers(1, 5)),
        "tol": float(choose([0.0, 1e-4, 1e-2])),
        "random_state": int(rng.integers(1000)),
    }


@pytest.mark.parametrize("seed", range(14))
def test_random_settings(seed):
    rng = np.random.default_rng(seed)
    task = str(rng.choice(SCALED))
    fit = {"sample_weight": rng.uniform(0.0, 2.0, N)} if rng.random() < 0.4 else {}
    check(task, fit=fit, **random_settings(rng))


# --- what is said on the way ---


def messages(call, capsys, kind=None):
    """The warnings, the error and the print-out of a call."""
    capsys.readouterr()
    with pytest.warns() if kind is None else pytest.raises(kind) as caught:
        call()
    said = [str(w.message) for w in caught] if kind is None else str(caught.value)
    return said, capsys.readouterr().out


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "settings",
    [
        {"max_iter": 2},
        {"max_iter": 2, "batch_size": 1000},
        {"max_iter": 2, "solver": "lbfgs"},
        {
            "verbose": True,
            "solver": "sgd",
            "learning_rate": "adaptive",
            "tol": 0.5,
            "n_iter_no_change": 1,
            "max_iter": 8,
        },
        {"verbose": True, "early_stopping": True, "max_iter": 3},
    ],
)
def test_the_same_warnings_and_print_out(settings, capsys):
    X, y = DATA["binary"]
    theirs, ours = pair("binary", **settings)
    assert messages(lambda: ours.fit(X, y), capsys) == messages(lambda: theirs.fit(X, y), capsys)


def test_a_fit_that_stops_by_itself_prints_why(capsys):
    X, y = DATA["binary"]
    printed = []
    for model in pair("binary", verbose=True, tol=0.5, n_iter_no_change=2):
        model.fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "did not improve" in printed[0]


@pytest.mark.parametrize(
    "settings, data",
    [
        ({"hidden_layer_sizes": (0,)}, {}),
        ({"hidden_layer_sizes": -1}, {}),
        ({"alpha": -1.0}, {}),
        ({"learning_rate_init": 0.0}, {}),
        ({"momentum": 2}, {}),
        ({"n_iter_no_change": -1}, {}),
        ({"early_stopping": True, "validation_fraction": 0.001}, {}),
        ({}, {"X": np.full((N, 3), np.nan)}),
        ({}, {"X": np.zeros(N)}),
        ({}, {"y": np.zeros(3)}),
        ({}, {"y": np.linspace(0, 1, N)}),
        ({}, {"sample_weight": np.ones(3)}),
    ],
)
def test_the_same_errors(settings, data, capsys):
    X, y = DATA["binary"]
    theirs, ours = pair("binary", **settings)
    data = {"X": X, "y": y} | data
    assert messages(lambda: ours.fit(**data), capsys, ValueError) == messages(
        lambda: theirs.fit(**data), capsys, ValueError
    )


def test_the_same_errors_of_later_calls(capsys):
    X, y = DATA["strings"]
    theirs, ours = (model.fit(X, y) for model in pair("strings", warm_start=True, max_iter=2))
    for wrong in (
        lambda model: model.fit(X[:50], np.repeat(["zero", "one"], 25)),
        lambda model: model.predict(X[:, :5]),
        lambda model: clone(model).predict(X),
        lambda model: clone(model).partial_fit(X, y),
        lambda model: clone(model).set_params(early_stopping=True).partial_fit(X, y, classes=np.unique(y)),
        lambda model: clone(model).partial_fit(X, y, classes=["zero", "one"]),
    ):
        assert messages(lambda wrong=wrong: wrong(ours), capsys, ValueError) == messages(
            lambda wrong=wrong: wrong(theirs), capsys, ValueError
        )


def test_an_interrupt_ends_the_fit_and_keeps_what_was_reached():
    X, y = DATA["binary"]
    theirs, ours = pair("binary", max_iter=3)
    theirs.fit(X, y)

    def interrupt(estimator):
        if estimator.n_iter_ == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        ours.set_params(max_iter=20, callbacks=interrupt).fit(X, y)
    assert_same(theirs, ours, X)


@pytest.mark.parametrize("activation", ["logistic", "relu"])
def test_without_hidden_layers_the_activation_still_bounds_the_first_parameters(activation):
    X, y = np.random.default_rng(0).standard_normal((30, 4)), np.repeat([0, 1, 2], 10)
    settings = {"hidden_layer_sizes": (), "activation": activation, "max_iter": 3, "random_state": 0}
    expected = neural_network.MLPClassifier(**settings).fit(X, y)
    actual = fastmlp.sklearn.MLPClassifier(**settings).fit(X, y)
    np.testing.assert_allclose(actual.coefs_[0], expected.coefs_[0], atol=1e-9)
