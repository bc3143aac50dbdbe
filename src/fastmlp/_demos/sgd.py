"""One net and one data set by batch gradient descent, mini-batches and single examples: the noisy estimate wins."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_duration, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float32]

N_EXAMPLES = 2048
LAYER_SIZES = (2, 32, 32, 1)


class Way(NamedTuple):
    """A way to descend: examples per update (None: all), its learning rate, how many updates."""

    name: str
    batch_size: int | None
    rate: float
    n_updates: int


# Each rate is the largest of 0.01, 0.02, 0.05, 0.1 ... with which three seeds of three descend without relapses.
WAYS = (
    Way("batch gradient descent", None, 1.0, 500),
    Way("mini-batches of 32", 32, 0.2, 30 * N_EXAMPLES // 32),
    Way("batch size 1", 1, 0.02, 6 * N_EXAMPLES),
)
COLOURS = dict(zip([way.name for way in WAYS], (_figure.BLUE, _figure.GREEN, _figure.ORANGE), strict=True))
GOAL = 0.1


class Descent(NamedTuple):
    """What one way did: at some updates the loss over all data, and the seconds of training until then."""

    way: Way
    updates: NDArray[np.int64]
    losses: NDArray[np.float64]
    seconds: NDArray[np.float64]
    accuracy: float
    estimates: NDArray[np.float64]  # the loss of each update's own batch


def make_data(n: int = N_EXAMPLES, seed: int = 0) -> tuple[Array, Array]:
    """Two interleaved spirals with noise: points (n, 2) and their spiral (n, 1), in float32 like the net."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    along = np.sqrt(rng.uniform(0.02, 1.0, n))
    angle = 2.5 * np.pi * along + np.pi * y
    points = 2.0 * along[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    X = points + rng.normal(0.0, 0.15, (n, 2))
    return X.astype(np.float32), y[:, None].astype(np.float32)


def descend(way: Way, X: Array, y: Array, backend: str | None = None, seed: int = 0) -> Descent:
    """Train one way from the same weights as every other; the clock stands still while the loss is taken."""
    net = fastmlp.MLP(LAYER_SIZES, output_activation="sigmoid", rng=seed, backend=backend)
    optimizer = fastmlp.SGD(lr=way.rate)
    size = way.batch_size or len(X)
    checkpoints = np.unique(np.geomspace(1, way.n_updates, 50).astype(np.int64))
    order = passes(len(X), way.n_updates * size, seed)
    losses, seconds, estimates = [net.loss(X, y)], [0.0], []
    for first, last in zip([0, *checkpoints[:-1]], checkpoints, strict=True):
        started = time.perf_counter()
        rows = order[first * size : last * size]
        history = net.fit(X[rows], y[rows], optimizer=optimizer, batch_size=size, shuffle=False, record="steps")
        seconds.append(seconds[-1] + time.perf_counter() - started)
        losses.append(net.loss(X, y))
        estimates.append(np.asarray(history.step_loss, dtype=np.float64))
    updates = np.concatenate([[0], checkpoints])
    return Descent(way, updates, np.array(losses), np.array(seconds), net.accuracy(X, y), np.concatenate(estimates))


def passes(n: int, n_rows: int, seed: int) -> NDArray[np.int64]:
    """The first ``n_rows`` row numbers of one random order of ``n`` examples after the other."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(math.ceil(n_rows / n))]
    return np.concatenate(orders)[:n_rows]


def first_reaching(descent: Descent, goal: float) -> tuple[int, float] | None:
    """Updates and seconds at the first checkpoint whose loss is at most ``goal``, or None."""
    below = np.flatnonzero(descent.losses <= goal)
    return (int(descent.updates[below[0]]), float(descent.seconds[below[0]])) if below.size else None


def warm_up(X: Array, y: Array, backend: str | None) -> None:
    """Have a backend that compiles at first use do so outside the clock."""
    descend(Way("warm-up", None, 0.1, 1), X, y, backend)
    descend(Way("warm-up", 1, 0.1, 1), X, y, backend)


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print what each way reached and when; draw loss against updates and against time."""
    X, y = make_data()
    ways = [way._replace(n_updates=way.n_updates // 10) for way in WAYS] if quick else WAYS
    warm_up(X, y, backend)
    descents = [descend(way, X, y, backend) for way in ways]
    sizes = "-".join(map(str, LAYER_SIZES))
    print(f"Two noisy spirals, {len(X)} examples; net {sizes}, relu and sigmoid, cross-entropy, plain SGD")
    print("Same data and same first weights for each; loss over all data\n")
    rows = []
    for descent in descents:
        reached = first_reaching(descent, GOAL)
        rows.append(
            [
                descent.way.name,
                f"{descent.way.rate:g}",
                f"{descent.way.n_updates:,}",
                f"{descent.way.n_updates * (descent.way.batch_size or len(X)) / len(X):,.0f}",
                format_duration(descent.seconds[-1]),
                f"{descent.losses[-1]:.4f}",
                f"{100 * descent.accuracy:.1f} %",
                f"{reached[0]:,} updates, {format_duration(reached[1])}" if reached else "not reached",
            ]
        )
    header = ["way", "rate", "updates", "epochs", "time", "loss", "accuracy", f"loss <= {GOAL} after"]
    print(format_table(header, rows))
    print()
    _figure.write(output / "sgd.png", lambda figure: draw(figure, descents), (12.0, 5.0))


def draw(figure: "Figure", descents: list[Descent]) -> None:
    """Loss against updates, with each update's own noisy estimate, and against time."""
    _figure.title(figure, "The noisy estimate that works well: same net, same data, same start")
    by_update, by_time = figure.subplots(1, 2, sharey=True)
    for descent in descents:
        colour = COLOURS[descent.way.name]
        if descent.way.batch_size:
            # As many dots in each decade, or the last would be a solid block.
            steps = np.unique(np.geomspace(1, len(descent.estimates), 400).astype(int))
            by_update.plot(steps, descent.estimates[steps - 1], ".", color=colour, markersize=2.5, alpha=0.45, zorder=1)
        label = f"{descent.way.name} (rate {descent.way.rate:g})"
        by_update.plot(descent.updates[1:], descent.losses[1:], color=colour, label=label)
        by_time.plot(1e3 * descent.seconds[1:], descent.losses[1:], color=colour)
    by_update.plot([], [], ".", color=_figure.GREY, markersize=4, label="loss of an update's own batch")
    by_update.set(title="Against updates", xlabel="updates", ylabel="cross-entropy over all data (nats)")
    by_time.set(title="Against time", xlabel="time in training (ms)")
    for axes in (by_update, by_time):
        axes.set(xscale="log", yscale="log", ylim=(0.008, 2.5))
    _figure.legend_below(figure, by_update, columns=4)
