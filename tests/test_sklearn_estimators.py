"""fastmlp.sklearn among scikit-learn's tools, and what its estimators do beyond scikit-learn's."""

import pickle
import sys
import warnings

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, mean_squared_error
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
from support import run_python

import fastmlp
from fastmlp.sklearn import MLPClassifier, MLPRegressor, from_sklearn, to_sklearn
from fastmlp.sklearn._classifier import fitted_binarizer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X)[:300], y[:300]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X * 10.0, y / 100.0


def classifier(**settings):
    return MLPClassifier(**({"hidden_layer_sizes": (16,), "max_iter": 15, "random_state": 0} | settings))


def regressor(**settings):
    return MLPRegressor(**({"hidden_layer_sizes": (16,), "max_iter": 15, "random_state": 0} | settings))


def same_parameters(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_))


# --- among scikit-learn's tools ---


@pytest.mark.parametrize(
    "y",
    [
        np.repeat([3, 1, 2], 5),
        np.repeat([7, 5], 4),
        np.full(6, 2),
        np.repeat(np.array([1, 0], dtype=np.uint8), 3),
        np.arange(8),
        np.repeat(["b", "a", "c"], 3),
        np.repeat([0.0, 1.0, 2.0], 3),
        np.array([[1, 0, 1], [0, 1, 1]]),
    ],
    ids=lambda y: f"{y.dtype}{y.shape}",
)
def test_fitted_binarizer_is_as_scikit_learn_fits_it(y):
    with warnings.catch_warnings(record=True) as theirs:
        warnings.simplefilter("always")
        expected = LabelBinarizer().fit(y)
    with warnings.catch_warnings(record=True) as ours:
        warnings.simplefilter("always")
        actual = fitted_binarizer(y)
    assert vars(actual).keys() == vars(expected).keys() and len(ours) == len(theirs)
    assert (actual.y_type_, actual.sparse_input_) == (expected.y_type_, expected.sparse_input_)
    assert actual.classes_.dtype == expected.classes_.dtype and np.array_equal(actual.classes_, expected.classes_)
    assert np.array_equal(actual.transform(y), expected.transform(y))


@parametrize_with_checks([MLPClassifier(max_iter=50), MLPRegressor(max_iter=50)])
def test_estimator_checks(estimator, check):
    check(estimator)


def test_pipeline_search_and_scores_in_two_processes(wine):
    X, y = wine
    model = make_pipeline(StandardScaler(), classifier(solver="lbfgs"))
    search = GridSearchCV(model, {"mlpclassifier__alpha": [1e-3, 1e3]}, n_jobs=2, cv=3).fit(X, y)
    assert search.best_params_ == {"mlpclassifier__alpha": 1e-3} and search.best_score_ > 0.9
    scores = cross_val_score(model, X, y, cv=3)
    assert scores == pytest.approx([search.cv_results_[f"split{i}_test_score"][0] for i in range(3)])


def test_calibration_and_permutation_importance(cancer):
    X, y = cancer
    calibrated = CalibratedClassifierCV(classifier(solver="lbfgs"), cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9
    noisy = np.column_stack([X, np.random.default_rng(0).normal(size=len(X))])
    importance = permutation_importance(classifier(max_iter=60).fit(noisy, y), noisy, y, n_repeats=2, random_state=0)
    assert importance.importances_mean[:-1].max() > 2 * abs(importance.importances_mean[-1])


def test_metadata_routing_of_weights(wine):
    X, y = wine
    weight = np.linspace(0.1, 2.0, len(y))
    with config_context(enable_metadata_routing=True):
        step = classifier().set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), step).fit(
            X, y, sample_weight=weight
        )
    plain = classifier().fit(StandardScaler().fit_transform(X), y, sample_weight=weight)
    assert same_parameters(routed[-1], plain)


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("dump", ["pickle", "joblib"])
def test_partial_fit_goes_on_after_loading(wine, solver, dump, tmp_path):
    X, y = wine
    model = classifier(solver=solver, learning_rate="invscaling").partial_fit(X, y, classes=[0, 1, 2])
    if dump == "joblib":
        joblib.dump(model, tmp_path / "model")
        loaded = joblib.load(tmp_path / "model")
    else:
        loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    for _ in range(3):
        model.partial_fit(X, y)
        loaded.partial_fit(X, y)
    assert same_parameters(model, loaded) and model.loss_curve_ == loaded.loss_curve_
    loaded.coefs_[0][...] = 0.0
    assert not same_parameters(model, loaded) and not loaded.net_.weights[0].any()


def test_clone_has_every_parameter():
    model = classifier(activation=["gelu"], callbacks=(print,), class_weight={0: 2.0}, dropout=[0.1], n_threads=1)
    assert clone(model).get_params() == model.get_params()


def test_without_scikit_learn_one_line_names_the_command():
    code = "import sys; sys.modules['sklearn'] = None\ntry:\n import fastmlp.sklearn\nexcept ImportError as e: print(e)"
    assert run_python(code) == 'fastmlp.sklearn needs scikit-learn: pip install "fastmlp[sklearn]"\n'


def test_an_old_scikit_learn_is_named():
    attempt = "try:\n import fastmlp.sklearn\nexcept ImportError as e: print(e)"
    code = f"import sklearn; sklearn.__version__ = '1.6.1'\n{attempt}"
    assert "scikit-learn 1.7 or later, and this is 1.6.1" in run_python(code)


def test_fastmlp_alone_does_not_import_scikit_learn():
    assert run_python("import sys, fastmlp; print('sklearn' in sys.modules, 'scipy' in sys.modules)") == "False False\n"


# --- coefs_ ---


def test_what_stands_in_coefs_is_what_predicts(wine):
    X, y = wine
    model = classifier().fit(X, y)
    model.coefs_[0][...] = 0.5  # written into
    model.intercepts_[1] = np.array([0.0, 3.0, 0.0])  # replaced
    hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0.0)
    logits = hidden @ model.coefs_[1] + model.intercepts_[1]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-9)
    model.coefs_ = [W[:, :3] if i == 0 else W[:3] for i, W in enumerate(model.coefs_)]  # a pruned layer
    model.intercepts_[0] = model.intercepts_[0][:3]
    expected = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0.0) @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_estimators_from_given_coefs(wine, diabetes):
    X, y = wine
    rng = np.random.default_rng(0)
    shapes = ((13, 4), (4, 3))
    coefs = [rng.normal(size=shape) for shape in shapes]
    biases = [rng.normal(size=shape[1]) for shape in shapes]
    logits = np.tanh(X @ coefs[0] + biases[0]) @ coefs[1] + biases[1]
    model = MLPClassifier.from_coefs(coefs, biases, classes=["a", "b", "c"], activation="tanh")
    np.testing.assert_array_equal(model.predict(X), np.array(["a", "b", "c"])[logits.argmax(axis=1)])
    labels = MLPClassifier.from_coefs(coefs, biases, multilabel=True, activation="tanh")
    np.testing.assert_array_equal(labels.predict(X), (logits > 0).astype(int))
    numbers = MLPRegressor.from_coefs(coefs, biases, activation="tanh")
    np.testing.assert_allclose(numbers.predict(X), logits, rtol=1e-12)
    assert numbers.get_params()["hidden_layer_sizes"] == (4,)
    before = numbers.coefs_[0].copy()
    numbers.partial_fit(X, logits + 1.0)
    assert np.any(numbers.coefs_[0] != before) and len(numbers.loss_curve_) == 1
    with pytest.raises(ValueError, match="3 outputs"):
        MLPClassifier.from_coefs(coefs, biases, classes=["a", "b"])


# --- what is new ---


def test_class_weight(wine):
    X, y = wine
    balanced = classifier(class_weight="balanced").fit(X, y)
    assert same_parameters(balanced, classifier().fit(X, y, sample_weight=compute_sample_weight("balanced", y)))
    rare = classifier(class_weight={0: 100.0}).fit(X, y)
    assert (rare.predict(X) == 0).sum() > (balanced.predict(X) == 0).sum()
    with pytest.raises(ValueError, match="balanced"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    classifier(class_weight={1: 2.0}).partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_absolute_error_and_huber(diabetes, solver, outputs):
    X, y = diabetes
    y = np.stack([y, y**2], axis=1)[:, :outputs]
    y = y[:, 0] if outputs == 1 else y
    for loss, local in (
        ("mae", abs),
        ("absolute_error", abs),
        ("huber", lambda d: np.where(abs(d) <= 1.0, 0.5 * d**2, abs(d) - 0.5)),
    ):
        model = regressor(loss=loss, solver=solver, alpha=0.3, max_iter=200).fit(X, y)
        fitted = clone(model).set_params(solver="sgd", learning_rate_init=1e-300, max_iter=1, batch_size=len(y))
        fitted = fitted.set_params(warm_start=True)
        probe = MLPRegressor.from_coefs(
            model.coefs_,
            model.intercepts_,
            **{name: value for name, value in fitted.get_params().items() if name != "hidden_layer_sizes"},
        ).partial_fit(X, y)
        errors = local(y - model.predict(X)).reshape(len(y), -1).sum(axis=1).mean()
        penalty = 0.15 * sum(np.square(W).sum() for W in model.coefs_) / len(y)
        assert probe.loss_ == pytest.approx(errors + penalty, rel=1e-9)
    assert mean_absolute_error(y, regressor(loss="mae", max_iter=300, learning_rate_init=0.01).fit(X, y).predict(X)) < (
        mean_absolute_error(y, np.broadcast_to(np.median(y, axis=0), y.shape))
    )


def test_a_validation_set_of_ones_own(wine):
    X, y = wine
    X, X_val, y, y_val = train_test_split(X, y, random_state=0)
    weight = np.linspace(0.5, 1.5, len(y_val))
    plain = classifier().fit(X, y)
    model = classifier().fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight)
    assert same_parameters(model, plain) and model.loss_curve_ == plain.loss_curve_
    assert len(model.validation_loss_curve_) == 15 and not hasattr(plain, "validation_loss_curve_")
    expected = log_loss(y_val, model.predict_proba(X_val), sample_weight=weight)
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-9)
    stopped = classifier(early_stopping=True, max_iter=300, n_iter_no_change=3).fit(X, y, X_val=X_val, y_val=y_val)
    assert stopped.n_iter_ < 300
    best = accuracy_score(y_val, stopped.predict(X_val))
    assert best == max(stopped.validation_scores_) == stopped.best_validation_score_


def test_errors_of_validation_sets(wine):
    X, y = wine
    for given, message in (
        ({"X_val": X}, "X_val is provided, but y_val was not"),
        ({"y_val": y}, "y_val is provided, but X_val was not"),
        ({"X_val": X[:, :3], "y_val": y}, "3 features"),
        ({"X_val": X, "y_val": y[:5]}, "inconsistent numbers"),
        ({"X_val": X, "y_val": y + 1}, "classes that y has not"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier().fit(X, y, **given)
    with pytest.raises(ValueError, match="2 outputs"):
        regressor().fit(X, y, X_val=X, y_val=np.stack([y, y], axis=1))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_validation_losses_of_every_task(wine, diabetes, kind):
    convert = sparse.csr_array if kind == "sparse" else np.asarray
    X, y = wine
    labels = np.stack([y == 0, y == 1], axis=1).astype(int)
    for target, expected in (
        (y == 1, lambda m: log_loss(y == 1, m.predict_proba(X))),
        (labels, lambda m: sum(log_loss(labels[:, k], m.predict_proba(X)[:, k]) for k in range(2))),
    ):
        model = classifier(max_iter=3).fit(X, target, X_val=convert(X), y_val=target)
        assert model.validation_loss_curve_[-1] == pytest.approx(expected(model), rel=1e-9)
    X, y = diabetes
    y = np.stack([y, y**2], axis=1)
    model = regressor(max_iter=3).fit(X, y, X_val=convert(X), y_val=y)
    assert model.validation_loss_curve_[-1] == pytest.approx(0.5 * mean_squared_error(y, model.predict(X)))


@pytest.mark.parametrize("scoring", ["loss", "f1_macro", lambda model, X, y: -model.n_iter_])
def test_what_early_stopping_watches(wine, scoring):
    X, y = wine
    X, X_val, y, y_val = train_test_split(X, y, random_state=0)
    model = classifier(early_stopping=True, scoring=scoring, n_iter_no_change=2, max_iter=30)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    best = model.best_validation_score_
    if scoring == "loss":
        assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]
        assert -best == pytest.approx(log_loss(y_val, model.predict_proba(X_val)), rel=1e-9)
    elif scoring == "f1_macro":
        assert best == pytest.approx(f1_score(y_val, model.predict(X_val), average="macro"))
    else:
        assert best == -1 and model.n_iter_ == 4


def test_a_scorer_does_not_warn_of_feature_names(wine):
    pandas = pytest.importorskip("pandas")
    X, y = wine
    frame = pandas.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = classifier(early_stopping=True, scoring="accuracy", max_iter=2).fit(frame, y)
        model.predict(frame)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_checkpoints_are_for_networks(wine, tmp_path):
    with pytest.raises(TypeError, match="callbacks has a Checkpoint"):
        classifier(callbacks=[fastmlp.Checkpoint(tmp_path / "wine")]).fit(*wine)


def test_callbacks_and_progress(wine, capsys, monkeypatch):
    X, y = wine
    seen = []
    model = classifier(callbacks=lambda estimator: seen.append(estimator.loss_curve_[-1]))
    assert same_parameters(model.fit(X, y), classifier().fit(X, y))
    assert seen == model.loss_curve_
    model = classifier(callbacks=[lambda estimator: estimator.n_iter_ == 4]).fit(X, y)
    assert model.n_iter_ == 4
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    classifier(progress=True, max_iter=2).fit(X, y)
    assert capsys.readouterr().out.count("epoch") == 2


def test_hidden_activations(wine):
    X, y = wine
    model = classifier(hidden_layer_sizes=(5, 4), activation="tanh").fit(X, y)
    for form in (X, sparse.csr_array(X)):
        first, second, output = model.activations_of(form)
        np.testing.assert_allclose(first, np.tanh(X @ model.coefs_[0] + model.intercepts_[0]), rtol=1e-9)
        np.testing.assert_allclose(second, np.tanh(first @ model.coefs_[1] + model.intercepts_[1]), rtol=1e-9)
        np.testing.assert_allclose(output, model.predict_proba(X), rtol=1e-9)


def test_input_gradient_against_differences(wine):
    X, y = wine
    X = X[:20]
    model = classifier(activation="silu").fit(*wine)
    step = 1e-6
    expected = np.stack(
        [(model.predict_proba(X + step * e) - model.predict_proba(X - step * e)) / (2 * step) for e in np.eye(13)],
        axis=2,
    )
    np.testing.assert_allclose(model.input_gradient(X), expected, atol=1e-8)
    np.testing.assert_allclose(model.input_gradient(X, output=1), expected[:, 1], atol=1e-8)
    assert regressor().fit(*wine).input_gradient(X).shape == X.shape
    with pytest.raises(ValueError, match="from 0 to 2"):
        model.input_gradient(X, output=3)


@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "silu", "elu", "softplus", ["relu", "tanh"]])
def test_new_activations(diabetes, activation):
    X, y = diabetes
    model = regressor(hidden_layer_sizes=(8, 8), activation=activation, max_iter=300, learning_rate_init=0.01).fit(X, y)
    assert model.score(X, y) > 0.5
    own = [activation] * 2 if isinstance(activation, str) else activation
    assert model.net_.activations == tuple(own)
    with pytest.raises(ValueError, match="1 names; expected 2"):
        regressor(hidden_layer_sizes=(8, 8), activation=["relu"]).fit(X, y)


def test_a_list_of_one_activation_is_that_activation(wine):
    X, y = wine
    one = classifier(hidden_layer_sizes=(6, 5), activation="logistic").fit(X, y)
    assert same_parameters(one, classifier(hidden_layer_sizes=(6, 5), activation=["logistic"] * 2).fit(X, y))


def test_dropout_and_weight_decay(cancer):
    X, y = cancer
    plain = classifier().fit(X, y)
    dropped = classifier(dropout=0.5).fit(X, y)
    assert same_parameters(dropped, classifier(dropout=[0.5]).fit(X, y))
    # Parameters that stay as they are have the same loss in every epoch, but not where units are dropped.
    still = {"learning_rate": fastmlp.schedules.constant(0.0), "max_iter": 4}
    assert np.ptp(classifier(**still).fit(X, y).loss_curve_) < 1e-12
    assert np.ptp(classifier(**still, dropout=0.5).fit(X, y).loss_curve_) > 1e-3
    assert same_parameters(classifier(solver="adamw", weight_decay=0.0).fit(X, y), plain)
    shrunk = classifier(solver="adamw", weight_decay=10.0).fit(X, y)
    assert np.square(shrunk.coefs_[0]).sum() < np.square(plain.coefs_[0]).sum()


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_schedules(wine, solver):
    X, y = wine
    plain = classifier(solver=solver, learning_rate_init=0.01).fit(X, y)
    assert same_parameters(classifier(solver=solver, learning_rate=fastmlp.schedules.constant(0.01)).fit(X, y), plain)
    asked = []
    still = classifier(solver=solver, learning_rate=lambda epoch: asked.append(epoch) or 0.0, max_iter=3).fit(X, y)
    assert asked == [0, 1, 2] and len(set(still.loss_curve_)) <= 3
    assert still.loss_curve_[0] == pytest.approx(still.loss_curve_[2], rel=1e-12)


def test_backends_and_threads(wine, backend):
    X, y = wine
    model = classifier(backend=backend, n_threads=1).fit(X, y)
    assert model.net_.backend == backend
    np.testing.assert_allclose(model.coefs_[0], classifier().fit(X, y).coefs_[0], atol=1e-9)


def test_net_minimizes_the_same_loss(wine, diabetes):
    for model, (X, y), factor in ((classifier(), wine, 1.0), (regressor(), diabetes, 2.0)):
        model.set_params(alpha=0.7, batch_size=len(y)).fit(X, y)
        before = model.net_.loss(X, y)
        model.partial_fit(X, y)
        assert before == pytest.approx(factor * model.loss_, rel=1e-9)


# --- converters ---


def labelled(X, y):
    return np.stack([y == 0, y == 1], axis=1).astype(int)


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("target", [lambda X, y: y, lambda X, y: np.where(y == 1, "yes", "no"), labelled])
def test_there_and_back(wine, solver, target):
    from sklearn.neural_network import MLPClassifier as Theirs

    X, y = wine
    y = target(X, y)
    theirs = Theirs((9, 8), "tanh", solver=solver, max_iter=6, random_state=0).fit(X, y)
    ours = from_sklearn(theirs)
    back = to_sklearn(ours)
    assert isinstance(ours, MLPClassifier) and type(back) is Theirs and back.get_params() == theirs.get_params()
    for model in (ours, back, pickle.loads(pickle.dumps(ours))):
        np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    if solver != "lbfgs":
        for _ in range(3):
            for model in (theirs, ours, back):
                model.partial_fit(X, y)
        for model in (ours, back):
            np.testing.assert_allclose(model.coefs_[0], theirs.coefs_[0], rtol=0, atol=1e-6)
            assert len(model.loss_curve_) == 9


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_regressors_there_and_back(diabetes, loss):
    from sklearn.neural_network import MLPRegressor as Theirs

    X, y = diabetes
    theirs = Theirs(loss, 7, max_iter=5, random_state=0, early_stopping=True).fit(X, y)
    ours = from_sklearn(theirs, n_threads=1)
    assert ours.n_threads == 1
    from_sklearn(theirs, solver="sgd", early_stopping=False).partial_fit(X, y)  # cannot take over the state of Adam
    for model in (ours, to_sklearn(ours), to_sklearn(ours.net_)):
        np.testing.assert_allclose(model.predict(X), theirs.predict(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("output, k", [("softmax", 2), ("softmax", 4), ("sigmoid", 1), ("sigmoid", 3), ("exp", 2)])
def test_networks_to_scikit_learn(wine, output, k):
    X, _ = wine
    net = fastmlp.MLP([13, 6, k], activation="tanh", output_activation=output, rng=0)
    model = to_sklearn(net)
    probabilities = model.predict(X) if output == "exp" else model.predict_proba(X)
    expected = net.forward(X)
    expected = np.column_stack([1 - expected, expected]) if output == "sigmoid" and k == 1 else expected
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-6)
    if output != "exp":
        np.testing.assert_array_equal(model.predict(X), net.predict(X))


def test_what_cannot_be_converted(wine):
    X, y = wine
    for wrong, message in (
        (classifier(activation="gelu").fit(X, y), "gelu"),
        (classifier(activation=["relu", "tanh"], hidden_layer_sizes=(3, 3)), "relu"),
        (fastmlp.MLP([3, 2], output_activation="tanh"), "tanh"),
    ):
        with pytest.raises(ValueError, match=message):
            to_sklearn(wrong)
    for convert in (from_sklearn, to_sklearn):
        with pytest.raises(TypeError, match="StandardScaler"):
            convert(StandardScaler())
