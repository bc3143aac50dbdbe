"""The lecture, runnable: the table of demos. Each module computes in pure functions and shows in ``run``."""

from typing import NamedTuple


class Demo(NamedTuple):
    """A demo as the command line knows it: its module in this package, and what it shows in one line.

    The module has ``run(output, backend, quick)``: a folder for pictures, a backend or None, and whether
    to do less work.
    """

    module: str
    summary: str


DEMOS = {
    "gates": Demo("gates", "AND, OR, NAND as single neurons with weights set by hand, XOR as their composition"),
    "xor": Demo("xor", "the same two-layer net learns XOR from random weights; how many of 100 seeds succeed"),
    "minimal": Demo("minimal", "one parameter, one target: gradient descent against its closed form"),
    "descent": Demo("descent", "gradient descent on 4 x1^2 + x2^2: gradients, level curves, learning rates"),
    "sgd": Demo("sgd", "batch gradient descent, mini-batches and single examples: loss against updates and time"),
    "batching": Demo("batching", "one gradient computed four ways; time per example against batch size"),
    "export": Demo("export", "a trained net as C, ONNX and PyTorch: the same numbers, and the time of one example"),
    "digits": Demo("digits", "handwritten digits on every backend: accuracy, time, examples per second"),
    "njit": Demo("njit", "nets inside compiled loops: the Lorenz system integrated, a policy's rollouts"),
    "ensemble": Demo("ensemble", "many nets trained at once, beside a loop of fits: time, the same bits, spread"),
}
DEFAULT_DEMO = "digits"
