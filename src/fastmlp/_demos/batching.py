"""What batching is worth: one gradient computed four ways, and time per example against batch size."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._backends._engine import Examples, Schedule
from fastmlp._demos import _figure
from fastmlp._demos._extras import MissingExtra, require
from fastmlp._demos._table import format_duration, format_table
from fastmlp._update import BETA1, BETA1_POWER, BETA2_POWER, N_SCALARS, UPDATE_CODES, Update

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Way = Callable[[fastmlp.MLP, Array, Array], Array]

LAYER_SIZES = (64, 100, 10)
N_COMPARED, QUICK_N_COMPARED = 256, 16
BATCH_SIZES = tuple(2**power for power in range(11))
# float32, sums of 256 terms in four different orders.
TOLERANCE = 1e-5
N_RUNS = 15
SECONDS_PER_TIMING, QUICK_SECONDS_PER_TIMING = 0.12, 0.005


def make_data(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Standard normal inputs (n, 64) in float32 and random classes (n,)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, LAYER_SIZES[0]), dtype=np.float32), rng.integers(0, LAYER_SIZES[-1], n)


def make_network(backend: str | None = None) -> fastmlp.MLP:
    """A relu and softmax net with cross-entropy, in float32, on one thread: batching is to be seen, not threads."""
    return fastmlp.MLP(LAYER_SIZES, output_activation="softmax", rng=0, backend=backend, n_threads=1)


def numpy_loop(net: fastmlp.MLP, X: Array, y: Array) -> Array:
    """The mean gradient, flat, as a student writes it: backpropagation with NumPy, one example after the other."""
    weights = [np.ascontiguousarray(W) for W in net.weights]
    biases = [np.array(b) for b in net.biases]
    dW_sums = [np.zeros_like(W) for W in weights]
    db_sums = [np.zeros_like(b) for b in biases]
    for x, target in zip(X, y, strict=True):
        activations = [x]
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            activations.append(np.maximum(W @ activations[-1] + b, 0.0))
        z = weights[-1] @ activations[-1] + biases[-1]
        p = np.exp(z - z.max())
        dz = p / p.sum()
        dz[target] -= 1.0
        for layer in reversed(range(len(weights))):
            dW_sums[layer] += np.outer(dz, activations[layer])
            db_sums[layer] += dz
            if layer > 0:
                dz = (weights[layer].T @ dz) * (activations[layer] > 0.0)
    return np.concatenate([sums.ravel() for pair in zip(dW_sums, db_sums, strict=True) for sums in pair]) / len(X)


def calls_per_example(net: fastmlp.MLP, X: Array, y: Array) -> Array:
    """The mean gradient, flat, by a call of loss_and_gradients for each example."""
    sums = [np.zeros_like(part) for pair in zip(net.weights, net.biases, strict=True) for part in pair]
    for i in range(len(X)):
        gradients = net.loss_and_gradients(X[i : i + 1], y[i : i + 1])[1]
        parts = [part for pair in zip(gradients.weights, gradients.biases, strict=True) for part in pair]
        for total, part in zip(sums, parts, strict=True):
            total += part
    return np.concatenate([total.ravel() for total in sums]) / len(X)


def loop_in_one_call(net: fastmlp.MLP, X: Array, y: Array) -> Array:
    """The mean gradient, flat, by a loop over single examples within one call of the backend.

    The loop is that of training with batch size 1. A learning rate of 0 leaves the weights alone, and a
    momentum of 1 makes the velocity v = 1 v + g the sum of the gradients.
    """
    scalars = np.zeros(N_SCALARS)
    scalars[[BETA1, BETA1_POWER, BETA2_POWER]] = 1.0
    velocity = net._layout.arena()
    update = Update(UPDATE_CODES["momentum"], scalars, velocity, np.empty(0, dtype=net.dtype))
    table = np.array([[0.0, 0.0, 0.0, 1.0]])  # learning rate 0; each step divides by its one row
    schedule = Schedule(order=None, batch_size=1, first_step=0, n_steps=len(X), table=table)
    net._engine.train(Examples(X, y, None), schedule, update, np.empty(len(X)), 0)
    return net._layout.flatten(velocity) / len(X)


def one_batched_call(net: fastmlp.MLP, X: Array, y: Array) -> Array:
    """The mean gradient, flat, by one call of loss_and_gradients for the whole batch."""
    return np.asarray(net.loss_and_gradients(X, y)[1].flat)


WAYS: dict[str, Way] = {
    "NumPy, a loop over single examples": numpy_loop,
    "fastmlp, a call for each example": calls_per_example,
    "fastmlp, a loop over single examples in one call": loop_in_one_call,
    "fastmlp, one batched call": one_batched_call,
}
LOOP, *_, BATCHED = WAYS


def largest_difference(net: fastmlp.MLP, X: Array, y: Array) -> float:
    """How far any of the four ways lies from the first, relative to the gradient's norm."""
    expected = numpy_loop(net, X, y)
    distances = [np.linalg.norm(way(net, X, y) - expected) for way in WAYS.values()]
    return float(max(distances) / np.linalg.norm(expected))


def seconds_per_call(call: Callable[..., object], *arguments: object, budget: float) -> float:
    """The best mean of N_RUNS runs that together take about ``budget`` seconds, after one call to warm up.

    Many short runs, because another process on the same core disturbs some of them.
    """
    call(*arguments)
    once = min(_seconds(call, arguments, 1) for _ in range(3))
    n_calls = max(1, int(budget / N_RUNS / once))
    return min(_seconds(call, arguments, n_calls) for _ in range(N_RUNS)) / n_calls


def _seconds(call: Callable[..., object], arguments: tuple[object, ...], n_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(n_calls):
        call(*arguments)
    return time.perf_counter() - started


def one_thread() -> AbstractContextManager[object]:
    """While open, NumPy's matrix products use one thread, where threadpoolctl (part of the extra) can see to it."""
    try:
        limits: AbstractContextManager[object] = require("threadpoolctl", "threadpoolctl").threadpool_limits(1)
    except MissingExtra:
        return nullcontext()
    return limits


def time_ways(net: fastmlp.MLP, X: Array, y: Array, budget: float) -> dict[str, float]:
    """Seconds per example of each of the four ways; raises AssertionError unless their results agree."""
    difference = largest_difference(net, X, y)
    if not difference < TOLERANCE:
        raise AssertionError(f"backend {net.backend}: the four ways differ by {difference:.1e} of the gradient")
    return {name: seconds_per_call(way, net, X, y, budget=budget) / len(X) for name, way in WAYS.items()}


def time_batch_sizes(net: fastmlp.MLP, X: Array, y: Array, budget: float) -> dict[int, float]:
    """Seconds per example of one loss_and_gradients, for each of BATCH_SIZES."""
    seconds = {}
    for size in BATCH_SIZES:
        seconds[size] = seconds_per_call(net.loss_and_gradients, X[:size], y[:size], budget=budget) / size
    return seconds


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print both comparisons for every backend, and draw them."""
    backends = [backend] if backend else list(fastmlp.available_backends())
    budget = QUICK_SECONDS_PER_TIMING if quick else SECONDS_PER_TIMING
    n_compared = QUICK_N_COMPARED if quick else N_COMPARED
    X, y = make_data(max(BATCH_SIZES))
    by_way, by_size = {}, {}
    with one_thread():
        for name in backends:
            net = make_network(name)
            by_way[name] = time_ways(net, X[:n_compared], y[:n_compared], budget)
            by_size[name] = time_batch_sizes(net, X, y, budget)
    fastest_loop = min(times[LOOP] for times in by_way.values())
    for times in by_way.values():
        times[LOOP] = fastest_loop  # the same computation each time
    sizes = "-".join(map(str, LAYER_SIZES))
    print(f"Loss and gradient of a {sizes} relu and softmax net, float32, one thread; time per example")
    print(
        f"\nThe same gradient of the same {n_compared} examples four ways; they agree within {TOLERANCE:g} of its norm."
    )
    print("The loop in one call is compiled in c and numba, and Python in numpy.")
    rows = [[way, *(format_duration(by_way[name][way]) for name in backends)] for way in WAYS]
    ratios = (by_way[name][LOOP] / by_way[name][BATCHED] for name in backends)
    rows.append(["batched call against NumPy loop", *(f"{ratio:.0f} x" for ratio in ratios)])
    print(format_table(["", *backends], rows))
    print("\nOne batched call, by batch size")
    rows = [[str(size), *(format_duration(by_size[name][size]) for name in backends)] for size in BATCH_SIZES]
    print(format_table(["batch size", *backends], rows))
    print()
    _figure.write(output / "batching.png", lambda figure: draw(figure, by_way, by_size, n_compared), (13.0, 5.0))


def draw(
    figure: "Figure", by_way: dict[str, dict[str, float]], by_size: dict[str, dict[int, float]], n_compared: int
) -> None:
    """Time per example: of the four ways, and against batch size."""
    sizes = "-".join(map(str, LAYER_SIZES))
    _figure.title(figure, f"What batching is worth: loss and gradient of a {sizes} net on one thread")
    ways, curves = figure.subplots(1, 2)
    _draw_ways(ways, by_way, n_compared)
    for name, seconds in by_size.items():
        microseconds = [1e6 * value for value in seconds.values()]
        curves.plot(
            list(seconds),
            microseconds,
            "o-",
            color=_figure.BACKEND_COLOURS[name],
            markersize=5,
            label=f"backend {name}",
        )
    loop = next(iter(by_way.values()))[LOOP]
    curves.axhline(
        1e6 * loop, color=_figure.GREY, linestyle="--", linewidth=1.4, label="NumPy, a loop over single examples"
    )
    curves.set_xscale("log", base=2)
    curves.set_xticks(BATCH_SIZES, [f"{size}" for size in BATCH_SIZES])
    curves.set(
        yscale="log",
        xlabel="batch size (examples)",
        ylabel="time per example (µs)",
        title="One batched call, by batch size",
    )
    _figure.legend_below(figure, curves, columns=4)


def _draw_ways(axes: "Axes", by_way: dict[str, dict[str, float]], n_compared: int) -> None:
    places = np.arange(len(WAYS))[::-1]
    shifts = np.linspace(0.2, -0.2, len(by_way)) if len(by_way) > 1 else [0.0]
    for shift, (name, seconds) in zip(shifts, by_way.items(), strict=True):
        colour = _figure.BACKEND_COLOURS[name]
        for place, (way, value) in zip(places, seconds.items(), strict=True):
            if way == LOOP and name != next(iter(by_way)):
                continue  # it does not use the backend
            row = place if way == LOOP else place + shift
            axes.plot(1e6 * value, row, "o", color=_figure.GREY if way == LOOP else colour, markersize=8)
            axes.annotate(
                format_duration(value),
                (1e6 * value, row),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
    axes.set_yticks(places, [way.replace(", ", ",\n") for way in WAYS])
    axes.set(
        xscale="log", xlabel="time per example (µs)", title=f"The same gradient of {n_compared} examples, four ways"
    )
    axes.set_ylim(-0.5, len(WAYS) - 0.5)
    axes.margins(x=0.18)
