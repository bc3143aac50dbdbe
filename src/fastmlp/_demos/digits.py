"""Handwritten digits: scikit-learn's 1797 images of 8 x 8 pixels, learned on every backend."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._extras import require
from fastmlp._demos._table import format_duration, format_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastmlp import History

LAYER_SIZES = (64, 100, 10)
BATCH_SIZE = 64
# Best in accuracy and then in loss on the validation part, of rates from 1e-3 to 1e-2 and penalties from 0 to 3e-3.
LEARNING_RATE = 5e-3
L2 = 1e-3
MAX_EPOCHS, PATIENCE = 200, 10
N_SEEDS, QUICK_N_SEEDS = 5, 1
GOAL = 0.97


class Split(NamedTuple):
    """Standardised images (n, 64) in float32 and their digits (n,), in three parts that never change."""

    X_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    X_validation: NDArray[np.float32]
    y_validation: NDArray[np.int64]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


class Training(NamedTuple):
    """One net trained: the part of the test images it reads right, and what it took."""

    backend: str
    seed: int
    net: fastmlp.MLP
    history: "History"
    accuracy: float
    seconds: float
    examples_per_second: float


def load() -> Split:
    """The digits: a quarter for testing, an eighth of the rest for validation, scaled by the training part."""
    datasets = require("sklearn.datasets", "scikit-learn")
    selection = require("sklearn.model_selection", "scikit-learn")
    X, y = datasets.load_digits(return_X_y=True)
    X_rest, X_test, y_rest, y_test = selection.train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
    X_train, X_validation, y_train, y_validation = selection.train_test_split(
        X_rest, y_rest, test_size=0.125, stratify=y_rest, random_state=0
    )
    mean, scale = X_train.mean(axis=0), X_train.std(axis=0)
    scale[scale == 0.0] = 1.0  # pixels that are never inked
    scaled = [((part - mean) / scale).astype(np.float32) for part in (X_train, X_validation, X_test)]
    return Split(scaled[0], y_train, scaled[1], y_validation, scaled[2], y_test)


def train(split: Split, seed: int, backend: str | None = None, progress: bool = False) -> Training:
    """Train one net until the validation loss has stopped falling, and keep its best weights."""
    net = fastmlp.MLP(LAYER_SIZES, output_activation="softmax", l2=L2, rng=seed, backend=backend)
    started = time.perf_counter()
    history = net.fit(
        split.X_train,
        split.y_train,
        optimizer=fastmlp.Adam(lr=LEARNING_RATE),
        epochs=MAX_EPOCHS,
        batch_size=BATCH_SIZE,
        validation_data=(split.X_validation, split.y_validation),
        early_stopping=fastmlp.EarlyStopping(patience=PATIENCE),
        progress=progress,
    )
    seconds = time.perf_counter() - started
    rate = len(split.y_train) * len(history.loss) / seconds
    return Training(net.backend, seed, net, history, net.accuracy(split.X_test, split.y_test), seconds, rate)


def warm_up(split: Split, backend: str) -> float:
    """Seconds until a backend is ready: one compiles at first use."""
    started = time.perf_counter()
    net = fastmlp.MLP(LAYER_SIZES, output_activation="softmax", l2=L2, rng=0, backend=backend)
    data = split.X_validation, split.y_validation
    net.fit(*data, optimizer=fastmlp.Adam(), batch_size=BATCH_SIZE, validation_data=data)
    net.accuracy(*data)
    return time.perf_counter() - started


def scikit_learn(split: Split, seed: int) -> tuple[float, float, float]:
    """Test accuracy, seconds and examples per second of MLPClassifier with the same settings and split.

    It takes its validation part itself, of the same size, out of the same training and validation images,
    and watches accuracy instead of loss.
    """
    classifier_class = require("sklearn.neural_network", "scikit-learn").MLPClassifier
    X = np.concatenate([split.X_train, split.X_validation])
    y = np.concatenate([split.y_train, split.y_validation])
    classifier = classifier_class(
        LAYER_SIZES[1:-1],
        alpha=L2 * BATCH_SIZE,  # it divides its penalty by the rows of the batch
        batch_size=BATCH_SIZE,
        learning_rate_init=LEARNING_RATE,
        max_iter=MAX_EPOCHS,
        early_stopping=True,
        validation_fraction=len(split.y_validation) / len(y),
        n_iter_no_change=PATIENCE,
        random_state=seed,
    )
    started = time.perf_counter()
    classifier.fit(X, y)
    seconds = time.perf_counter() - started
    accuracy = float(np.mean(classifier.predict(split.X_test) == split.y_test))
    return accuracy, seconds, len(split.y_train) * classifier.n_iter_ / seconds


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Train on each backend; print accuracy and speed; draw the loss curves and the speed."""
    split = load()
    backends = [backend] if backend else list(fastmlp.available_backends())
    n_seeds = QUICK_N_SEEDS if quick else N_SEEDS
    sizes = "-".join(map(str, LAYER_SIZES))
    print(
        f"Digits: {len(split.y_train)} training, {len(split.y_validation)} validation, {len(split.y_test)} test images"
    )
    print(f"Net {sizes}, relu and softmax, Adam (rate {LEARNING_RATE:g}), L2 {L2:g}, batch size {BATCH_SIZE}")
    print(f"Early stopping: patience {PATIENCE} epochs, at most {MAX_EPOCHS}, best weights kept; {n_seeds} seeds\n")
    trainings: dict[str, list[Training]] = {}
    for name in backends:
        ready = warm_up(split, name)
        print(f"{name}: ready after {format_duration(ready)}; seed 0:")
        trainings[name] = [train(split, seed, name, progress=seed == 0) for seed in range(n_seeds)]
    print()
    rows = [[f"fastmlp: {name}", *_summary([training[4:] for training in group])] for name, group in trainings.items()]
    peers = [] if quick else [scikit_learn(split, seed) for seed in range(n_seeds)]
    if peers:
        rows.append(["scikit-learn MLPClassifier", *_summary(peers)])
    print(format_table(["", "mean test accuracy", "lowest", "highest", "time per fit", "examples per second"], rows))
    print()
    _figure.write(
        output / "digits.png", lambda figure: draw(figure, trainings, [rate for *_, rate in peers]), (12.5, 4.8)
    )
    for name, group in trainings.items():
        mean = np.mean([training.accuracy for training in group])
        if mean < GOAL:
            print(f"Note: the mean test accuracy of {name} is below {100 * GOAL:g} %.")


def _summary(results: Sequence[tuple[float, float, float]]) -> list[str]:
    accuracies, seconds, rates = (np.array(column) for column in zip(*results, strict=True))
    percents = [f"{100 * value:.2f} %" for value in (accuracies.mean(), accuracies.min(), accuracies.max())]
    return [*percents, format_duration(float(np.median(seconds))), f"{np.median(rates):,.0f}"]


def draw(figure: "Figure", trainings: dict[str, list[Training]], peer_rates: Sequence[float] = ()) -> None:
    """Loss curves of the first backend's nets, and every backend's speed."""
    name, group = next(iter(trainings.items()))
    accuracy = np.mean([training.accuracy for training in group])
    _figure.title(figure, f"Digits: {100 * accuracy:.1f} % of the test images read right")
    losses, speed = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
    _draw_losses(losses, name, group)
    _draw_speed(speed, trainings, peer_rates)


def _draw_losses(axes: "Axes", name: str, group: list[Training]) -> None:
    for training in reversed(group):
        epochs = np.arange(1, len(training.history.loss) + 1)
        validation = np.array(training.history.val_loss)
        first = training is group[0]
        style = {"linewidth": 2.0, "alpha": 1.0} if first else {"linewidth": 0.9, "alpha": 0.4}
        labels = ["training", "validation"] if first else [None, None]
        axes.plot(epochs, training.history.loss, color=_figure.BLUE, label=labels[0], **style)
        axes.plot(epochs, validation, color=_figure.VERMILION, label=labels[1], **style)
        if first:
            best = int(validation.argmin())
            axes.plot(
                epochs[best], validation[best], "o", color=_figure.INK, markersize=6, label="weights kept", zorder=4
            )
    axes.set(xlabel="epoch", ylabel="cross-entropy + penalty (nats)", yscale="log")
    axes.set_title(
        f"Loss of seed 0 and, thin, of the others (backend {name})" if len(group) > 1 else f"Loss (backend {name})"
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _draw_speed(axes: "Axes", trainings: dict[str, list[Training]], peer_rates: Sequence[float]) -> None:
    rates = {name: [training.examples_per_second for training in group] for name, group in trainings.items()}
    bars = {f"fastmlp\n{name}": (np.median(values), _figure.BACKEND_COLOURS[name]) for name, values in rates.items()}
    if peer_rates:
        bars["scikit-learn\nMLPClassifier"] = (np.median(peer_rates), _figure.GREY)
    for place, (height, colour) in enumerate(bars.values()):
        drawn = axes.bar(place, height / 1e3, color=colour, width=0.62)
        axes.bar_label(drawn, [f"{height / 1e3:,.0f}"], padding=3)
    axes.set_xticks(range(len(bars)), bars)
    axes.set(ylabel="training examples per second (thousands)", title="Speed of fit, validation included")
    axes.grid(False, axis="x")
    axes.margins(y=0.12)
