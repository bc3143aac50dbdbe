"""Many small nets at once: an ensemble beside a loop of fits, what its spread says, a search for a learning rate."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_duration, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (1, 16, 1)
N_MEMBERS, N_EXAMPLES, EPOCHS = 200, 120, 300
GRID = np.linspace(-3.0, 3.0, 241)
SEEN = (-1.5, 1.5)  # the examples lie within
RATES = (1e-4, 1e-3, 1e-2, 1e-1)


class Study(NamedTuple):
    """An ensemble trained, the fits of a loop beside it, and how long both took."""

    ensemble: fastmlp.MLPEnsemble
    seconds: float
    seconds_of_loop: float
    same_bits: bool


def examples(n: int = N_EXAMPLES) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """X (n, 1) within SEEN, and sin(3 x) with a little noise (n,)."""
    rng = np.random.default_rng(0)
    X = rng.uniform(*SEEN, (n, 1)).astype(np.float32)
    return X, (np.sin(3.0 * X[:, 0]) + 0.1 * rng.standard_normal(n)).astype(np.float32)


def study(n_members: int, epochs: int, backend: str | None) -> Study:
    """Train an ensemble, and every one of its members by a fit of its own, each on a resample of the examples."""
    X, y = examples()
    # The bootstrap: how often each member sees each example.
    weight = np.random.default_rng(1).multinomial(len(X), np.full(len(X), 1.0 / len(X)), n_members)
    settings: dict[str, Any] = {"activation": "tanh", "backend": backend}
    start = time.perf_counter()
    ensemble = fastmlp.MLPEnsemble(SIZES, n_members, rng=range(n_members), **settings)
    ensemble.fit(X, y, optimizer=fastmlp.Adam(lr=0.01), epochs=epochs, sample_weight=weight)
    middle = time.perf_counter()
    parameters = []
    for member in range(n_members):
        net = fastmlp.MLP(SIZES, rng=member, **settings)
        net.fit(X, y, optimizer=fastmlp.Adam(lr=0.01), epochs=epochs, sample_weight=weight[member])
        parameters.append(net.parameters)
    end = time.perf_counter()
    same = np.array(parameters).tobytes() == ensemble.parameters.tobytes()
    return Study(ensemble, middle - start, end - middle, same)


def search(epochs: int, backend: str | None, per_rate: int = 16) -> dict[float, NDArray[np.float64]]:
    """The losses on examples held back, of some members for each learning rate of RATES, all trained in one fit."""
    X, y = examples(2 * N_EXAMPLES)
    ensemble = fastmlp.MLPEnsemble(SIZES, per_rate * len(RATES), activation="tanh", rng=0, backend=backend)
    rates = np.repeat(RATES, per_rate)
    ensemble.fit(X[::2], y[::2], optimizer=[fastmlp.Adam(lr=rate) for rate in rates], epochs=epochs)
    return dict(zip(RATES, ensemble.loss(X[1::2], y[1::2]).reshape(len(RATES), per_rate), strict=True))


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print the times, the spread inside and outside of the examples, the losses by learning rate; draw the nets."""
    n_members, epochs = (32, 60) if quick else (N_MEMBERS, EPOCHS)
    study(1, 1, backend)  # compiles what is not compiled yet
    result = study(n_members, epochs, backend)
    layers = "-".join(map(str, SIZES))
    print(f"{n_members} nets {layers} on {N_EXAMPLES} examples, {epochs} epochs, backend {result.ensemble.backend}\n")
    taken = {"one ensemble": result.seconds, "a loop of fits": result.seconds_of_loop}
    rows = [[name, format_duration(seconds), format_duration(seconds / n_members)] for name, seconds in taken.items()]
    print(format_table(["", "time", "per net"], rows))
    print(f"\nThe ensemble is {result.seconds_of_loop / result.seconds:.1f} times as fast.")
    print(f"Parameters of both: {'the same bits' if result.same_bits else 'DIFFERENT'}\n")
    spread = result.ensemble.spread(GRID[:, None])[:, 0]
    inside = (GRID >= SEEN[0]) & (GRID <= SEEN[1])
    print(f"Spread of the members where there are examples: {spread[inside].mean():.3f}")
    print(f"Spread where there are none:                    {spread[~inside].mean():.3f}\n")
    losses = search(epochs, backend)
    rows = [[f"{rate:g}", f"{np.median(each):.4f}", f"{each.min():.4f}"] for rate, each in losses.items()]
    print("Losses on examples held back, 16 nets for each learning rate of Adam, trained in one fit:")
    print(format_table(["learning rate", "median", "best"], rows))
    print()
    _figure.write(output / "ensemble.png", lambda figure: draw(figure, result.ensemble), (9.0, 4.8))


def draw(figure: "Figure", ensemble: fastmlp.MLPEnsemble) -> None:
    """The examples, some members, and the mean with two spreads on either side."""
    _figure.title(figure, f"{len(ensemble)} nets agree where they have seen examples")
    X, y = examples()
    axes = figure.subplots()
    outputs = ensemble.forward(GRID[:, None])[..., 0]
    mean, spread = ensemble.mean(GRID[:, None])[:, 0], ensemble.spread(GRID[:, None])[:, 0]
    low, high = mean - 2 * spread, mean + 2 * spread
    axes.fill_between(GRID, low, high, color=_figure.BLUE, alpha=0.2, label="mean ± 2 spreads")
    axes.plot(GRID, outputs[:12].T, color=_figure.GREY, linewidth=0.6)
    axes.plot(GRID, mean, color=_figure.BLUE, linewidth=2.0, label="mean")
    axes.plot(X[:, 0], y, ".", color=_figure.VERMILION, label="examples")
    axes.set(xlabel="$x$", ylabel=r"$\hat{y}$", ylim=(-4.0, 4.0))
    _figure.legend_below(figure, axes, columns=3)
