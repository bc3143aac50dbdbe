"""fastmlp.sklearn beside scikit-learn's own estimators, as users call them: fit, and predict of one row and of many.

Without timing, each bench still checks that both libraries come to the same numbers.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

neural_network = pytest.importorskip("sklearn.neural_network")
from sklearn.datasets import load_digits  # noqa: E402 - scikit-learn may be missing

import fastmlp.sklearn  # noqa: E402

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
