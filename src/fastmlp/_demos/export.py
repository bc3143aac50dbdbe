"""A trained net taken elsewhere, as C, ONNX and a module of PyTorch: the same numbers, and the time of one example."""

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._bench._rounds import Timer, stopwatch, time_in_rounds
from fastmlp._demos import _figure
from fastmlp._demos._compiled_c import CompiledNet, CompileError, find_compiler, self_test
from fastmlp._demos._table import format_duration, format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

LAYER_SIZES = (17, 64, 64, 6)
NAME = "policy"
N_EXAMPLES, N_COMPARED = 2048, 200
EPOCHS, QUICK_EPOCHS = 30, 2
SECONDS, QUICK_SECONDS = 0.3, 0.01
# float32, sums of up to 64 terms in other orders.
TOLERANCE = 1e-5


class Way(NamedTuple):
    """The outputs of a batch, and what times so many calls with one example."""

    outputs: Callable[[Array], Array]
    timer: Timer


def make_network(epochs: int, backend: str | None = None) -> fastmlp.MLP:
    """A tanh net of 17 observations and 6 actions that imitates a rule: the kind that controls a simulated robot."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_EXAMPLES, LAYER_SIZES[0]), dtype=np.float32)
    y = np.tanh(X @ rng.standard_normal((LAYER_SIZES[0], LAYER_SIZES[-1])) / 2)
    net = fastmlp.MLP(LAYER_SIZES, activation="tanh", output_activation="tanh", rng=0, backend=backend, n_threads=1)
    net.fit(X, y, epochs=epochs, batch_size=64)
    return net


def observations() -> Array:
    """Standard normal, (200, 17)."""
    return np.random.default_rng(1).standard_normal((N_COMPARED, LAYER_SIZES[0]), dtype=np.float32)


def ways(net: fastmlp.MLP, folder: Path) -> dict[str, Way]:
    """How the net can be computed here, by name; what is missing is left out, and a line says so."""
    x = observations()[0]
    found = {f"fastmlp, backend {net.backend}": Way(net.forward, stopwatch(partial(net.forward, x)))}
    for name, make in (("C", in_c), ("onnxruntime", in_onnxruntime), ("PyTorch", in_pytorch)):
        try:
            found |= make(net, folder, x)
        except (CompileError, ImportError) as error:
            print(f"Without {name}: {error}")
    return found


def in_c(net: fastmlp.MLP, folder: Path, x: Array) -> dict[str, Way]:
    """The exported C, after its self-test, called from C."""
    compiler = find_compiler()
    path = folder / f"{NAME}.c"
    net.export_c(path, NAME)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        copy.write_text(path.read_text())
        print(f"{path}, {path.stat().st_size:,} bytes; its self-test says: {self_test(copy, NAME, compiler)}")
        compiled = CompiledNet(copy, NAME, LAYER_SIZES[-1], net.dtype, compiler)
    timer = stopwatch_in_c(compiled, x)
    return {f"C99, {compiler} -O3 -march=native, called from C": Way(compiled, timer)}


def stopwatch_in_c(compiled: CompiledNet, x: Array) -> Timer:
    """Times calls within one loop in C."""

    def seconds(n: int) -> float:
        return stopwatch(partial(compiled.repeat, n, x))(1)

    return seconds


def in_onnxruntime(net: fastmlp.MLP, folder: Path, x: Array) -> dict[str, Way]:
    """The ONNX file in onnxruntime, on one thread."""
    path = folder / f"{NAME}.onnx"
    net.to_onnx(path)
    print(f"{path}, {path.stat().st_size:,} bytes")
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError("pip install onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(X: Array) -> Array:
        return np.asarray(session.run(["Y"], {"X": X})[0])

    return {"onnxruntime": Way(run, stopwatch(partial(run, x[None])))}


def in_pytorch(net: fastmlp.MLP, folder: Path, x: Array) -> dict[str, Way]:
    """The module of PyTorch, on one thread."""
    module = fastmlp.interop.to_torch(net)
    import torch

    torch.set_num_threads(1)

    def run(X: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(X)).numpy())

    return {"PyTorch": Way(run, stopwatch(partial(run, x)))}


def agreement(actual: Array, expected: Array) -> str:
    """Whether outputs are the same bits, or how far they are apart; AssertionError where that is too far."""
    if actual.tobytes() == expected.tobytes():
        return "same bits"
    difference = float(np.max(np.abs(actual - expected)))
    if not difference < TOLERANCE:
        raise AssertionError(f"outputs differ by {difference:.1e}")
    return f"within {difference:.0e}"


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Train, export, compare every way there is here, and time one example."""
    output.mkdir(parents=True, exist_ok=True)
    net = make_network(QUICK_EPOCHS if quick else EPOCHS, backend)
    print(f"A trained net, {'-'.join(map(str, LAYER_SIZES))}, tanh, float32, taken elsewhere")
    X = observations()
    expected = net.forward(X)
    found = ways(net, output)
    agreements = {name: agreement(way.outputs(X), expected) for name, way in found.items()}
    seconds = time_in_rounds({name: way.timer for name, way in found.items()}, QUICK_SECONDS if quick else SECONDS)
    print(f"\nOutputs for {N_COMPARED} examples beside fastmlp's, and the time of one example on one thread")
    rows = [[name, agreements[name], format_duration(seconds[name])] for name in found]
    print(format_table(["", "outputs", "time"], rows))
    print()
    _figure.write(output / "export.png", lambda figure: draw(figure, seconds), (8.0, 3.2))


def draw(figure: "Figure", seconds: dict[str, float]) -> None:
    """The times, one below the other."""
    _figure.title(figure, f"One example of a {'-'.join(map(str, LAYER_SIZES))} net, elsewhere")
    axes = figure.subplots()
    for place, value in enumerate(seconds.values()):
        axes.plot(1e6 * value, -place, "o", color=_figure.BLUE if place < 2 else _figure.GREY, markersize=8)
        axes.annotate(format_duration(value), (1e6 * value, -place), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks([-place for place in range(len(seconds))], [text.replace(", ", ",\n", 1) for text in seconds])
    axes.set(xscale="log", xlabel="time per example (µs)", ylim=(-len(seconds) + 0.5, 0.5))
    axes.margins(x=0.25)
