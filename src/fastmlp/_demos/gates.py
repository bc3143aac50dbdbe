"""Logic gates as single sigmoid neurons with weights set by hand, and XOR as a two-layer composition of them."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp._demos import _figure
from fastmlp._demos._table import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


class Gate(NamedTuple):
    """A neuron y_hat = sigmoid(w . x + b) and the truth table it is meant to have, in the order of INPUTS."""

    weights: tuple[float, float]
    bias: float
    truth: tuple[int, int, int, int]


# Each bias puts the line w . x + b = 0 halfway between the inputs it has to separate; 20 makes the sigmoid steep.
GATES = {
    "AND": Gate((20.0, 20.0), -30.0, (0, 0, 0, 1)),
    "OR": Gate((20.0, 20.0), -10.0, (0, 1, 1, 1)),
    "NAND": Gate((-20.0, -20.0), 30.0, (1, 1, 1, 0)),
}
XOR_TRUTH = (0, 1, 1, 0)

# XOR = AND(OR, NAND): the rows of W1 are OR and NAND, W2 is AND.
XOR_W1 = np.array([GATES["OR"].weights, GATES["NAND"].weights])
XOR_B1 = np.array([GATES["OR"].bias, GATES["NAND"].bias])
XOR_W2 = np.array([GATES["AND"].weights])
XOR_B2 = np.array([GATES["AND"].bias])


def gate_network(name: str, backend: str | None = None) -> fastmlp.MLP:
    """The gate ``name`` as a net of one neuron."""
    gate = GATES[name]
    net = fastmlp.MLP([2, 1], output_activation="sigmoid", rng=0, backend=backend)
    net.set_weights([np.array([gate.weights])], [np.array([gate.bias])])
    return net


def xor_network(backend: str | None = None) -> fastmlp.MLP:
    """XOR as sigmoid(W2 sigmoid(W1 x + b1) + b2)."""
    net = fastmlp.MLP([2, 2, 1], activation="sigmoid", output_activation="sigmoid", rng=0, backend=backend)
    net.set_weights([XOR_W1, XOR_W2], [XOR_B1, XOR_B2])
    return net


def networks(backend: str | None = None) -> dict[str, tuple[fastmlp.MLP, tuple[int, ...]]]:
    """Every gate by name, XOR last: its net and its truth table."""
    nets: dict[str, tuple[fastmlp.MLP, tuple[int, ...]]]
    nets = {name: (gate_network(name, backend), gate.truth) for name, gate in GATES.items()}
    return nets | {"XOR": (xor_network(backend), XOR_TRUTH)}


def outputs(net: fastmlp.MLP) -> NDArray[np.float64]:
    """y_hat of the four inputs, shape (4,)."""
    return np.asarray(net.forward(INPUTS), dtype=np.float64)[:, 0]


def run(output: Path, backend: str | None, quick: bool) -> None:
    """Print the truth tables and the matrices of XOR; draw each gate over the plane."""
    nets = networks(backend)
    print("Single neurons: y_hat = sigmoid(w1 x1 + w2 x2 + b)")
    rows = [[name, *(f"{w:g}" for w in gate.weights), f"{gate.bias:g}"] for name, gate in GATES.items()]
    print(format_table(["gate", "w1", "w2", "b"], rows))
    print("\nXOR = AND(OR, NAND): y_hat = sigmoid(W2 sigmoid(W1 x + b1) + b2)")
    for name, matrix in (("W1", XOR_W1), ("b1", XOR_B1), ("W2", XOR_W2), ("b2", XOR_B2)):
        print(f"  {name} = {matrix.tolist()}")
    print("\nTruth tables: y_hat, and the gate's value")
    columns = [
        [f"{y:.5f} {value}" for y, value in zip(outputs(net), truth, strict=True)] for net, truth in nets.values()
    ]
    names = [f"{x1:.0f}  {x2:.0f}" for x1, x2 in INPUTS]
    print(format_table(["x1 x2", *nets], [list(row) for row in zip(names, *columns, strict=True)]))
    for name, (net, truth) in nets.items():
        if not np.array_equal(net.predict(INPUTS), truth):
            raise AssertionError(f"the weights of {name} do not give its truth table")
    _figure.write(output / "gates.png", lambda figure: draw(figure, nets), (12.0, 3.7))


def draw(figure: "Figure", nets: dict[str, tuple[fastmlp.MLP, tuple[int, ...]]]) -> None:
    """y_hat of each gate over the plane."""
    _figure.title(figure, "Logic gates as sigmoid neurons with weights set by hand; XOR = AND(OR, NAND)")
    panels = figure.subplots(1, len(nets), sharey=True)
    for axes, (name, (net, truth)) in zip(panels, nets.items(), strict=True):
        surface = _figure.draw_decision(axes, net, INPUTS, np.array(truth))
        axes.set_title(f"{name}: one neuron" if name in GATES else f"{name}: three neurons")
    panels[0].set_ylabel("input $x_2$")
    figure.colorbar(surface, ax=panels, label=r"output $\hat{y}$", ticks=[0, 0.5, 1], pad=0.015)
    _figure.legend_below(figure, panels[0], columns=3)
