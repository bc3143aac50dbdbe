"""Gradient descent on f(x) = 4 x1^2 + x2^2: its gradient checked three ways, and what the learning rate does.

f is the loss of a linear neuron. With the inputs in NEURON_INPUTS, targets 0 and weights x it is
mean((x . u_i)^2) = 4 x1^2 + x2^2, so backpropagation has to give the gradient too.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Vector = NDArray[np.float64]

CHECKED_POINTS = ((0.0, 5.0), (1.0, 1.0), (1.25, 0.0))
START = (1.25, 4.5)
# x1 shrinks by 1 - 8a a step and x2 by 1 - 2a: 0.2 makes both 0.6 in size, above 0.25 x1 grows.
RATES = {0.02: "small", 0.2: "good", 0.26: "too large"}
COLOURS = dict(zip(RATES, (_figure.BLUE, _figure.GREEN, _figure.VERMILION), strict=True))
N_STEPS = 14
X1_RANGE, X2_RANGE = (-4.6, 5.4), (-3.2, 6.8)  # of the picture

# In opposite pairs, so that the bias, which f does not have, gets no gradient and stays 0.
NEURON_INPUTS = np.sqrt([[8.0, 0.0], [8.0, 0.0], [0.0, 2.0], [0.0, 2.0]]) * [[1.0], [-1.0], [1.0], [-1.0]]
NEURON_TARGETS = np.zeros(4)


def value(x: Vector) -> float:
    """f(x), x of shape (2,)."""
    return float(4.0 * x[0] ** 2 + x[1] ** 2)


def gradient(x: Vector) -> Vector:
    """The gradient <8 x1, 2 x2>, shape (2,)."""
    return np.array([8.0 * x[0], 2.0 * x[1]])


def finite_differences(x: Vector, step: float = 1e-5) -> Vector:
    """The gradient by central differences, shape (2,)."""
    shifts = step * np.eye(2)
    return np.array([(value(x + shift) - value(x - shift)) / (2.0 * step) for shift in shifts])


def network(x: Vector, backend: str | None = None) -> fastmlp.MLP:
    """The linear neuron with weights ``x`` whose loss on NEURON_INPUTS is f(x)."""
    net = fastmlp.MLP([2, 1], output_activation="identity", dtype="float64", rng=0, backend=backend)
    net.set_weights([x[None, :]], [np.zeros(1)])
    return net


def backpropagation(x: Vector, backend: str | None = None) -> tuple[float, Vector]:
    """f(x) and its gradient, shape (2,), as loss and gradient of the neuron."""
    loss, gradients = network(x, backend).loss_and_gradients(NEURON_INPUTS, NEURON_TARGETS)
    return loss, np.asarray(gradients.weights[0], dtype=np.float64)[0].copy()


def descend(rate: float, n_steps: int = N_STEPS, backend: str | None = None) -> NDArray[np.float64]:
    """The points that gradient descent visits from START, shape (n_steps + 1, 2)."""
    net = network(np.array(START), backend)
    optimizer = fastmlp.SGD(lr=rate)
    path = [np.array(START)]
    for _ in range(n_steps):
        optimizer.step(net, NEURON_INPUTS, NEURON_TARGETS)
        path.append(np.array(net.weights[0][0]))
    return np.array(path)


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print the gradients and the paths' ends; draw both over the level curves."""
    print("f(x) = 4 x1^2 + x2^2, gradient <8 x1, 2 x2>\n")
    rows = []
    for point in CHECKED_POINTS:
        x = np.array(point)
        vectors = (gradient(x), finite_differences(x), backpropagation(x, backend)[1])
        rows.append([_pair(x), f"{value(x):g}", *map(_pair, vectors)])
    print(format_table(["x", "f(x)", "formula", "finite differences", "backpropagation"], rows))
    paths = {rate: descend(rate, backend=backend) for rate in RATES}
    print(f"\nGradient descent from {_pair(np.array(START))}, {N_STEPS} steps")
    rows = [
        [
            f"{rate:g}  {name}",
            f"{1 - 8 * rate:+.2f}",
            f"{1 - 2 * rate:+.2f}",
            _pair(paths[rate][-1]),
            f"{value(paths[rate][-1]):.3g}",
        ]
        for rate, name in RATES.items()
    ]
    print(format_table(["learning rate a", "1 - 8a", "1 - 2a", "last x", "f there"], rows))
    print()
    _figure.write(output / "descent.png", lambda figure: draw(figure, paths), (12.0, 7.0))


def _pair(x: Vector) -> str:
    return f"({x[0] + 0.0:.4g}, {x[1] + 0.0:.4g})"


def draw(figure: "Figure", paths: dict[float, NDArray[np.float64]]) -> None:
    """Level curves with gradients at the checked points, and with the paths."""
    _figure.title(figure, r"Gradient descent on $f(x) = 4 x_1^2 + x_2^2$")
    gradients, descents = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_gradients(gradients)
    _draw_level_curves(descents)
    for rate, path in paths.items():
        descents.plot(
            path[:, 0],
            path[:, 1],
            "o-",
            color=COLOURS[rate],
            markersize=4,
            linewidth=1.4,
            label=f"path for a = {rate:g}: {RATES[rate]}",
        )
    descents.plot(*START, "o", color=_figure.INK, markersize=8, label="start", zorder=4)
    descents.plot(0.0, 0.0, "*", color=_figure.INK, markersize=13, markeredgecolor="white", label="minimum", zorder=4)
    descents.set_title(f"{N_STEPS} steps with three learning rates $a$")
    for axes in (gradients, descents):
        axes.set(aspect="equal", xlim=X1_RANGE, ylim=X2_RANGE, xlabel="$x_1$")
    gradients.set_ylabel("$x_2$")
    handles, labels = gradients.get_legend_handles_labels()
    more_handles, more_labels = descents.get_legend_handles_labels()
    figure.legend(handles + more_handles, labels + more_labels, loc="outside lower center", ncols=4)


def _draw_gradients(axes: "Axes") -> None:
    _draw_level_curves(axes)
    angles = np.linspace(0.0, 2.0 * np.pi, 361)
    for point in CHECKED_POINTS:
        x = np.array(point)
        radius = np.sqrt(value(x))
        axes.plot(radius / 2.0 * np.cos(angles), radius * np.sin(angles), color=_figure.PURPLE, linewidth=1.3)
        tip = x + 0.14 * gradient(x)
        axes.annotate(
            "",
            tip,
            x,
            arrowprops={"arrowstyle": "-|>", "color": _figure.ORANGE, "linewidth": 2.0, "shrinkA": 0, "shrinkB": 0},
        )
        axes.annotate(f"gradient {_pair(gradient(x))}", tip, (6, 2), textcoords="offset points")
        axes.plot(*point, "o", color=_figure.INK, markersize=6)
    axes.plot([], [], color=_figure.PURPLE, linewidth=1.3, label="level curve through a point")
    axes.plot([], [], color=_figure.ORANGE, linewidth=2.0, label="gradient there (length × 0.14)")
    axes.set_title("Gradients are perpendicular to the level curves")


def _draw_level_curves(axes: "Axes") -> None:
    x1, x2 = np.meshgrid(np.linspace(*X1_RANGE, 241), np.linspace(*X2_RANGE, 241))
    heights = 4.0 * x1**2 + x2**2
    levels = np.arange(1.0, 12.0) ** 2
    curves = axes.contour(x1, x2, heights, levels=levels, colors=_figure.PALE, linewidths=1.0)
    # Where no path runs: at 225 degrees of the ellipse x1 = r/2 cos t, x2 = r sin t.
    places = [(-0.354 * r, -0.707 * r) for r in (2.0, 3.0, 4.0)]
    axes.clabel(curves, levels=[4.0, 9.0, 16.0], manual=places, fmt="f = %g", fontsize=8, colors=_figure.GREY)
    axes.grid(False)
