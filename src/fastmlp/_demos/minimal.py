"""The smallest model that learns: y_hat = theta, one target, squared error, gradient descent."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 2.0
START = 0.0
RATES = {0.1: "converges", 0.5: "exact in one step", 0.9: "oscillates, converges", 1.1: "diverges"}
COLOURS = dict(zip(RATES, (_figure.BLUE, _figure.GREEN, _figure.ORANGE, _figure.VERMILION), strict=True))
N_STEPS = 12


def network(theta: float, backend: str | None = None) -> fastmlp.MLP:
    """The model y_hat = theta: one linear neuron whose only input is 0, so that its bias is all there is."""
    net = fastmlp.MLP([1, 1], output_activation="identity", dtype="float64", rng=0, backend=backend)
    net.set_weights([np.zeros((1, 1))], [np.array([theta])])
    return net


def descend(
    rate: float, n_steps: int = N_STEPS, start: float = START, backend: str | None = None
) -> NDArray[np.float64]:
    """theta_0 .. theta_n of gradient descent on (theta - 2)^2, shape (n_steps + 1,)."""
    net = network(start, backend)
    optimizer = fastmlp.SGD(lr=rate)
    thetas = [start]
    for _ in range(n_steps):
        optimizer.step(net, np.zeros((1, 1)), np.array([TARGET]))
        thetas.append(float(net.biases[0][0]))
    return np.array(thetas)


def closed_form(rate: float, n_steps: int = N_STEPS, start: float = START) -> NDArray[np.float64]:
    """theta_n = 2 + (theta_0 - 2) (1 - 2a)^n for n = 0 .. n_steps, shape (n_steps + 1,)."""
    factors = np.float64(1.0 - 2.0 * rate) ** np.arange(n_steps + 1)
    return np.asarray(TARGET + (start - TARGET) * factors, dtype=np.float64)


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print and draw the sequences of the four learning rates, and their distance from the closed form."""
    sequences = {rate: descend(rate, backend=backend) for rate in RATES}
    print(f"Model y_hat = theta, target {TARGET:g}, loss (theta - {TARGET:g})^2, theta_0 = {START:g}")
    print(f"theta_(n+1) = theta_n - a 2 (theta_n - {TARGET:g}), so theta_n = 2 + (theta_0 - 2) (1 - 2a)^n\n")
    rows = [[str(n), *(f"{sequence[n]:.6f}" for sequence in sequences.values())] for n in range(N_STEPS + 1)]
    print(format_table(["n", *(f"a = {rate:g}" for rate in RATES)], rows))
    print()
    rows = []
    for rate, behaviour in RATES.items():
        distance = np.abs(sequences[rate] - closed_form(rate)).max()
        rows.append([f"{rate:g}", f"{1 - 2 * rate:+.1f}", f"{distance:.1e}", behaviour])
    print(format_table(["a", "1 - 2a", "max |theta_n - closed form|", "behaviour"], rows))
    print()
    _figure.write(output / "minimal.png", lambda figure: draw(figure, sequences), (12.5, 5.8))


def draw(figure: "Figure", sequences: dict[float, NDArray[np.float64]]) -> None:
    """Each sequence beside its closed form, and all distances from the target on a logarithmic scale."""
    _figure.title(figure, r"The model $\hat{y} = \theta$ by gradient descent: the learning rate $a$ decides")
    panels = figure.subplot_mosaic([[0, 1, "distance"], [2, 3, "distance"]], width_ratios=[1.0, 1.0, 1.25])
    steps = np.arange(N_STEPS + 1)
    for place, (rate, sequence) in enumerate(sequences.items()):
        axes, colour = panels[place], COLOURS[rate]
        axes.axhline(TARGET, color=_figure.INK, linewidth=1.0, linestyle="--", zorder=1)
        axes.plot(steps, sequence, ".-", color=colour, linewidth=1.4)
        axes.plot(steps, closed_form(rate), "o", color=colour, markersize=9, fillstyle="none")
        axes.set(title=f"a = {rate:g}: {RATES[rate]}", xlabel="step $n$", ylabel=r"$\theta_n$")
        if np.abs(sequence).max() < 4.0:
            axes.set_ylim(-0.4, 4.4)
    distance = panels["distance"]
    for rate, sequence in sequences.items():
        error = np.abs(sequence - TARGET)
        distance.plot(
            steps[error > 0],
            error[error > 0],
            "s--" if rate == 0.9 else ".-",  # it has the same distances as 0.1
            color=COLOURS[rate],
            markersize=9 if error.min() == 0 else 5,
            zorder=2.5 if error.min() == 0 else 2,
            label=f"a = {rate:g}" + (" (0 from step 1 on)" if error.min() == 0 else ""),
        )
    distance.plot([], [], "o", color=_figure.GREY, markersize=9, fillstyle="none", label="closed form")
    distance.plot([], [], "--", color=_figure.INK, linewidth=1.0, label="target 2")
    distance.set(title="Distance from the target", xlabel="step $n$", ylabel=r"$|\theta_n - 2|$", yscale="log")
    ticks = [0.2, 0.5, 1, 2, 5, 10, 20]
    distance.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    distance.set_yticks([], minor=True)
    _figure.legend_below(figure, distance, columns=6)
