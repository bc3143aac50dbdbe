"""What all pictures share: style, colours, and how one is written, or left out where matplotlib is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._demos._extras import MissingExtra, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.image import AxesImage

    from fastmlp import MLP

# Okabe and Ito's palette: distinguishable with any colour vision, and in grey.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#AA4499"
INK, GREY, PALE = "#222222", "#888888", "#DDDDDD"
BACKEND_COLOURS = {"c": BLUE, "numba": ORANGE, "numpy": GREEN}

STYLE = {
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ECECEC",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "mathtext.fontset": "dejavusans",
}


def write(path: Path, draw: Callable[["Figure"], None], size: tuple[float, float]) -> bool:
    """Let ``draw`` fill a figure of ``size`` inches and write it as a PNG; say so, and whether it was written."""
    try:
        matplotlib = require("matplotlib", "matplotlib")
        # A figure of its own, not pyplot's: no window system, no global state, Agg for PNG.
        figure_class = require("matplotlib.figure", "matplotlib").Figure
    except MissingExtra as missing:
        print(f"No picture: {missing}")
        return False
    with matplotlib.rc_context(STYLE):
        figure = figure_class(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.04)
        draw(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    print(f"Picture: {path}")
    return True


def title(figure: "Figure", text: str) -> None:
    """The figure's title, at its left edge like those of the axes."""
    figure.suptitle(text, x=0.012, ha="left")


def legend_below(figure: "FigureBase", axes: "Axes", columns: int) -> None:
    """One legend, that of ``axes``, under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_decision(axes: "Axes", net: "MLP", points: NDArray[Any], classes: NDArray[np.int64]) -> "AxesImage":
    """y_hat of a net of two inputs and one sigmoid output over the plane, its boundary y_hat = 1/2, and the data."""
    low, high = points.min() - 0.5, points.max() + 0.5
    ticks = np.linspace(low, high, 161)
    x1, x2 = np.meshgrid(ticks, ticks)
    y_hat = np.asarray(net.forward(np.column_stack([x1.ravel(), x2.ravel()]))).reshape(x1.shape)
    colours = require("matplotlib.colors", "matplotlib")
    fading = colours.LinearSegmentedColormap.from_list("decision", ["#EBAE82", "#FFFFFF", "#7FB8D8"])
    extent = (low, high, low, high)
    surface = axes.imshow(
        y_hat, extent=extent, origin="lower", cmap=fading, vmin=0.0, vmax=1.0, interpolation="bilinear"
    )
    axes.contour(x1, x2, y_hat, levels=[0.5], colors=INK, linewidths=1.4)
    axes.plot([], [], color=INK, linewidth=1.4, label=r"decision boundary, $\hat{y} = 1/2$")
    for value, colour, marker in ((0, VERMILION, "s"), (1, BLUE, "o")):
        chosen = points[classes == value]
        axes.plot(
            chosen[:, 0],
            chosen[:, 1],
            marker,
            color=colour,
            markersize=9,
            markeredgecolor="white",
            markeredgewidth=1.4,
            label=f"target {value}",
            zorder=3,
        )
    axes.set(aspect="equal", xlim=(low, high), ylim=(low, high), xticks=[0, 1], yticks=[0, 1], xlabel="input $x_1$")
    axes.grid(False)
    return surface
