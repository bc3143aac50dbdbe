"""fastmlp.sklearn beside scikit-learn's own estimators, as users call them: fit, and predict of one row and of many.
And beside MLP.fit with the same net, batches, epochs and check of X: what the estimator costs above it.

Without timing, each bench still checks that both come to the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

neural_network = pytest.importorskip("sklearn.neural_network")
from sklearn.datasets import load_digits  # noqa: E402 - scikit-learn may be missing

import fastmlp.sklearn  # noqa: E402
from fastmlp._bench._rounds import stopwatch, time_in_rounds  # noqa: E402

LIBRARIES = {"scikit-learn": neural_network, "fastmlp": fastmlp.sklearn}
DTYPES = ("float64", "float32")
# Of the losses and probabilities after a few epochs.
TOLERANCES = {"float64": 1e-6, "float32": 1e-2}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Task(NamedTuple):
    """Data and settings of a fit."""

    name: str
    data: str
    settings: dict[str, Any]


FITS = (
    Task("digits, default settings", "digits", {}),
    Task("digits, batches of 32", "digits", {"batch_size": 32, "max_iter": 20}),
    Task("784-800-800-10", "wide", {"hidden_layer_sizes": (800, 800), "batch_size": 128, "max_iter": 2}),
)
OVERHEADS = (
    Task("digits, default settings", "digits", {}),
    Task("digits, 20 epochs", "digits", {"max_iter": 20}),
    Task("digits, batches of 32, 20 epochs", "digits", {"batch_size": 32, "max_iter": 20}),
    Task("784-128-10, batches of 64, 10 epochs", "wide", {"hidden_layer_sizes": 128, "batch_size": 64, "max_iter": 10}),
)
OVERHEAD_SECONDS, OVERHEAD_ROUNDS = 0.1, 7
WIDE_ROWS = 3840
CHECKED = {"digits": (1797, 5), "wide": (256, 1)}  # rows and epochs


def examples(data: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    if data == "digits":
        X, y = load_digits(return_X_y=True)
        return X.astype(dtype), y
    # Ten blurred prototypes: as easy to learn as digits of 28 x 28 pixels.
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, WIDE_ROWS)
    X = rng.random((10, 784))[y] + 0.5 * rng.standard_normal((len(y), 784))
    return X.astype(dtype), y


def estimator(library: str, **settings: Any) -> Any:
    threads = {"n_threads": 1} if library == "fastmlp" else {}
    return LIBRARIES[library].MLPClassifier(**{"random_state": 0} | settings | threads)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("task", FITS, ids=lambda task: task.name)
def test_fit(benchmark, task, dtype, library):
    X, y = examples(task.data, dtype)
    rows, epochs = CHECKED[task.data]
    short = task.settings | {"max_iter": epochs}
    expected, actual = (estimator(name, **short).fit(X[:rows], y[:rows]).loss_curve_ for name in LIBRARIES)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCES[dtype])
    settings = task.settings if benchmark.enabled else short
    benchmark.group = f"fit {task.name}, {dtype}"
    benchmark.pedantic(estimator(library, **settings).fit, (X, y), rounds=3)


@pytest.mark.parametrize("n", [1, 10_000])
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_predict(benchmark, method, n, dtype, library):
    X, y = examples("digits", dtype)
    theirs = estimator("scikit-learn", max_iter=20).fit(X, y)
    ours = fastmlp.sklearn.from_sklearn(theirs, n_threads=1)
    rows = np.resize(X, (n, X.shape[1]))
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), atol=TOLERANCES[dtype])
    benchmark.group = f"{method} of {n} rows, 64-100-10, {dtype}"
    benchmark(getattr(theirs if library == "scikit-learn" else ours, method), rows)


def plain_fit(X: np.ndarray, y: np.ndarray, settings: dict[str, Any], epochs: int, shuffle: bool) -> fastmlp.MLP:
    """What an estimator with these settings does for so many epochs, in terms of the package itself."""
    if not np.isfinite(X).all():
        raise ValueError("X has values that are not finite")
    hidden, batch = settings.get("hidden_layer_sizes", 100), settings.get("batch_size", 200)
    sizes = [X.shape[1], hidden, int(y.max()) + 1]
    net = fastmlp.MLP(sizes, output_activation="softmax", l2=1e-4 / batch, dtype=X.dtype, rng=0, n_threads=1)
    net.fit(X, y, optimizer=fastmlp.Adam(), epochs=epochs, batch_size=batch, shuffle=shuffle)
    return net


@pytest.mark.parametrize("task", OVERHEADS, ids=lambda task: task.name)
def test_overhead(task, dtype, timed, tables):
    X, y = examples(task.data, dtype)
    X /= np.abs(X).max()  # the first losses of unscaled data are so large that scikit-learn clips them
    once = task.settings | {"max_iter": 1, "shuffle": False, "warm_start": True}
    net = plain_fit(X, y, task.settings, 0, False)
    model = estimator("fastmlp", **once).fit(X, y)
    model.net_.copy_parameters_from(net)
    del model._optimizer
    plain = net.fit(X, y, optimizer=fastmlp.Adam(), batch_size=task.settings.get("batch_size", 200), shuffle=False)
    np.testing.assert_allclose(model.fit(X, y).loss_curve_[-1], plain.loss, rtol=1e-3)
    if not timed:
        return
    model = estimator("fastmlp", **task.settings)
    epochs = model.fit(X, y).n_iter_
    ways: dict[str, Callable[[], Any]] = {
        "estimator": lambda: model.fit(X, y),
        "plain": lambda: plain_fit(X, y, task.settings, epochs, True),
    }
    timers = {name: stopwatch(way) for name, way in ways.items()}
    seconds = time_in_rounds(timers, OVERHEAD_SECONDS, OVERHEAD_ROUNDS)
    tables.add(
        "MLPClassifier.fit beside MLP.fit for as many epochs, ms",
        ["fit", "dtype", "epochs", "estimator", "MLP.fit", "more"],
        [
            task.name,
            dtype,
            str(epochs),
            *(f"{1e3 * seconds[name]:.1f}" for name in ways),
            f"{100 * (seconds['estimator'] / seconds['plain'] - 1):.1f} %",
        ],
    )
