"""XOR learned from random weights by batch gradient descent; some seeds end where the gradient vanishes, unsolved."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
TARGETS = np.array([0, 1, 1, 0], dtype=np.int64)
LEARNING_RATE = 1.0
N_SEEDS, STEP_LIMIT = 100, 2000
QUICK_N_SEEDS, QUICK_STEP_LIMIT = 20, 1000
CHECK_EVERY = 10  # steps


class Attempt(NamedTuple):
    """One training from random weights: the net, whether it classifies all four points, the loss before each step."""

    seed: int
    net: fastmlp.MLP
    solved: bool
    losses: NDArray[np.float64]


def attempt(seed: int, step_limit: int, backend: str | None = None) -> Attempt:
    """Train a 2-2-1 sigmoid net until it classifies all four points, or for ``step_limit`` steps."""
    net = fastmlp.MLP([2, 2, 1], activation="sigmoid", output_activation="sigmoid", rng=seed, backend=backend)
    optimizer = fastmlp.SGD(lr=LEARNING_RATE)
    losses: list[float] = []
    while len(losses) < step_limit and not solves(net):
        losses += descend(net, optimizer, min(CHECK_EVERY, step_limit - len(losses)))
    return Attempt(seed, net, solves(net), np.array(losses))


def descend(net: fastmlp.MLP, optimizer: fastmlp.SGD, n_steps: int) -> list[float]:
    """Take steps of batch gradient descent; returns the loss before each."""
    history = net.fit(INPUTS, TARGETS, optimizer=optimizer, epochs=n_steps, batch_size=None, shuffle=False)
    return history.loss


def solves(net: fastmlp.MLP) -> bool:
    """Whether all four points are on their side of the boundary."""
    return bool(np.array_equal(net.predict(INPUTS), TARGETS))


def study(n_seeds: int, step_limit: int, backend: str | None = None) -> list[Attempt]:
    """An attempt for each of the seeds 0 .. n_seeds - 1."""
    return [attempt(seed, step_limit, backend) for seed in range(n_seeds)]


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print how many seeds succeed and how fast; draw one that did, one that did not, and every loss."""
    n_seeds, step_limit = (QUICK_N_SEEDS, QUICK_STEP_LIMIT) if quick else (N_SEEDS, STEP_LIMIT)
    attempts = study(n_seeds, step_limit, backend)
    solved = [attempt for attempt in attempts if attempt.solved]
    stuck = [attempt for attempt in attempts if not attempt.solved]
    print(f"2-2-1 sigmoid net, cross-entropy, batch gradient descent, learning rate {LEARNING_RATE:g}")
    print(f"{len(solved)} of {n_seeds} seeds classify all four points within {step_limit} steps")
    if solved:
        steps = np.array([len(attempt.losses) for attempt in solved])
        print(f"steps they took: fewest {steps.min()}, median {np.median(steps):.0f}, most {steps.max()}", end="")
        print(f" (looked at every {CHECK_EVERY} steps)")
    if stuck:
        print(f"{len(stuck)} are stuck: on a plateau of the loss, where the gradient all but vanishes and y_hat is")
        print("the mean of the targets that it cannot tell apart. Which seeds these are is luck.")
    print()
    shown = panels_of(solved, stuck, step_limit)
    rows = [
        [f"{x1:.0f}  {x2:.0f}", str(target), *(f"{float(net.forward(x)[0]):.3f}" for net in shown.values())]
        for x, (x1, x2), target in zip(INPUTS, INPUTS, TARGETS, strict=True)
    ]
    print(format_table(["x1 x2", "target", *shown], rows))
    print()
    _figure.write(output / "xor.png", lambda figure: draw(figure, attempts, shown), (11.5, 8.6))


def panels_of(solved: list[Attempt], stuck: list[Attempt], step_limit: int) -> dict[str, fastmlp.MLP]:
    """Nets worth a look, by what they show: the first that succeeds, then and later, and the first that does not."""
    shown = {}
    for attempt in solved[:1]:
        n_steps = len(attempt.losses)
        shown[f"Seed {attempt.seed}: solved after {n_steps} steps"] = attempt.net
        later = attempt.net.copy()
        descend(later, fastmlp.SGD(lr=LEARNING_RATE), step_limit - n_steps)
        shown[f"Seed {attempt.seed}: after {step_limit} steps"] = later
    for attempt in stuck[:1]:
        shown[f"Seed {attempt.seed}: stuck after {len(attempt.losses)} steps"] = attempt.net
    return shown


def draw(figure: "Figure", attempts: list[Attempt], shown: dict[str, fastmlp.MLP]) -> None:
    """The plane as the nets of ``shown`` classify it, and the loss of every attempt."""
    n_solved = sum(attempt.solved for attempt in attempts)
    _figure.title(figure, f"XOR from random weights: {n_solved} of {len(attempts)} seeds succeed")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1.0])
    planes = above.subplots(1, len(shown), squeeze=False)[0]
    for axes, (caption, net) in zip(planes, shown.items(), strict=True):
        surface = _figure.draw_decision(axes, net, INPUTS, TARGETS)
        axes.set(title=caption)
    planes[0].set_ylabel("input $x_2$")
    above.colorbar(surface, ax=planes, label=r"output $\hat{y}$", ticks=[0, 0.5, 1], pad=0.015, shrink=0.8)
    _figure.legend_below(above, planes[0], columns=3)
    losses = below.subplots()
    _draw_losses(losses, attempts)
    _figure.legend_below(below, losses, columns=4)


def _draw_losses(axes: "Axes", attempts: list[Attempt]) -> None:
    for wanted, colour, label in ((True, _figure.GREEN, "succeed"), (False, _figure.VERMILION, "get stuck")):
        chosen = [attempt.losses for attempt in attempts if attempt.solved is wanted]
        for curve in chosen:
            axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, linewidth=0.7, alpha=0.5)
            if wanted:
                axes.plot(len(curve), curve[-1], ".", color=colour, markersize=5)
        axes.plot([], [], color=colour, label=f"{len(chosen)} seeds that {label}")
    axes.axhline(np.log(2.0), color=_figure.INK, linestyle="--", linewidth=1.0, label="ln 2: all four points undecided")
    axes.axhline(
        np.log(2.0) / 2.0, color=_figure.INK, linestyle=":", linewidth=1.2, label="ln 2 / 2: two points undecided"
    )
    axes.set(title="Loss until all four points are right (dot)", xlabel="updates", ylabel="cross-entropy (nats)")
    axes.set(xscale="log", xlim=(10, None), ylim=(0.28, 0.74))
