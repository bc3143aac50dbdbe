"""Networks from and to PyTorch. Nothing here imports torch but `to_torch`.

Modules of torch.nn are known by the names of their classes, exactly: what a subclass computes nobody knows.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp._activations import LEAKY_RELU_SLOPE
from fastmlp._losses import OUTPUT_OF_LOSS
from fastmlp._mlp import MLP
from fastmlp._numbers import check_flag

__all__ = ["from_torch", "to_torch"]


class _Activation(NamedTuple):
    """The module of an activation: its class, the settings it must have, and what makes it."""

    class_name: str
    requires: tuple[tuple[str, Callable[[Any], bool], str], ...] = ()
    settings: dict[str, Any] = {}


_ALONG_ROWS = ("dim", lambda dim: dim in (-1, 1), "-1, along the outputs")
_ACTIVATIONS = {
    "relu": _Activation("ReLU"),
    "leaky_relu": _Activation(
        "LeakyReLU", (("negative_slope", lambda slope: slope == LEAKY_RELU_SLOPE, f"{LEAKY_RELU_SLOPE}"),)
    ),
    "elu": _Activation("ELU", (("alpha", lambda alpha: alpha == 1, "1"),)),
    "softplus": _Activation(
        "Softplus",
        (("beta", lambda beta: beta == 1, "1"), ("threshold", lambda bound: bound >= 20, "at least 20")),
        {"threshold": 40},  # where log(1 + exp(x)) is x in float64, too
    ),
    "sigmoid": _Activation("Sigmoid"),
    "tanh": _Activation("Tanh"),
    "gelu": _Activation("GELU", (("approximate", lambda kind: kind == "none", "'none', the exact function"),)),
    "silu": _Activation("SiLU"),
    "softmax": _Activation("Softmax", (_ALONG_ROWS,), {"dim": -1}),
}
_LOG_SOFTMAX = "LogSoftmax"
_NAME_OF_CLASS = {activation.class_name: name for name, activation in _ACTIVATIONS.items()} | {_LOG_SOFTMAX: "softmax"}
_TRANSPARENT = ("Identity", "Flatten")
_DTYPES = {"torch.float32": "float32", "torch.float64": "float64"}
_TAKEN = ", ".join(["Sequential", "Linear", *_NAME_OF_CLASS, "Dropout", *_TRANSPARENT])


class _Layer:
    """A Linear with what follows it."""

    def __init__(self, path: str, linear: Any) -> None:
        self.path, self.linear = path, linear
        self.activation = "identity"
        self.dropout: float | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        n_out, n_in = self.linear.weight.shape
        return int(n_in), int(n_out)


def from_torch(
    module: Any,
    *,
    loss: str | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> MLP:
    """A network with the layers and parameters of a module of PyTorch, copied.

    Parameters
    ----------
    module : torch.nn.Sequential or torch.nn.Linear
        Linear layers, each followed by at most one activation and then at most one Dropout; Sequentials may be nested.
        Activations: ReLU, LeakyReLU(0.01), ELU(1), Softplus, Sigmoid, Tanh, GELU (exact), SiLU, Identity, and
        Softmax or LogSoftmax for last; after either `MLP.forward` gives probabilities. A Linear without bias gets
        one of zeros. Flatten and Identity are passed over.
    loss : str, optional
        As for `MLP`. Where no activation follows the last Linear it decides on the output activation, since losses of
        PyTorch often take logits: softmax for cross_entropy (CrossEntropyLoss), sigmoid for bce (BCEWithLogitsLoss),
        exp for poisson (PoissonNLLLoss), identity for others.
    backend, n_threads, rng
        As for `MLP`.

    Returns
    -------
    MLP
        Of the parameters' dtype, float32 or float64.

    Raises
    ------
    TypeError, ValueError
        If a module, its setting or its place has no counterpart here; the message names it.
    """
    layers = _layers_of(module)
    dtype = _common_dtype(layers)
    *hidden, last = layers
    output = last.activation
    if output == "identity" and isinstance(loss, str):
        output = OUTPUT_OF_LOSS.get(loss, output)
    net = MLP(
        [layers[0].sizes[0], *(layer.sizes[1] for layer in layers)],
        activation=[layer.activation for layer in hidden],
        output_activation=output,
        loss=loss,
        initializer="zeros",
        dropout=[layer.dropout or 0.0 for layer in hidden],
        dtype=dtype,
        rng=rng,
        backend=backend,
        n_threads=n_threads,
    )
    for layer, weights, biases in zip(layers, net.weights, net.biases):
        weights[...] = _array(layer.linear.weight)
        if layer.linear.bias is not None:
            biases[...] = _array(layer.linear.bias)
    return net


def to_torch(net: MLP, *, like: Any = None, logits: bool = False) -> Any:
    """A module of PyTorch with the layers and parameters of a network, copied.

    Parameters
    ----------
    net : MLP
    like : torch.nn.Sequential, optional
        A module such as `from_torch` takes. The result is a copy of it with the network's parameters, in which
        modules, and so the entries of ``state_dict()``, keep their names. It must have the network's layers; its last
        activation is its own.
    logits : bool, default False
        Whether to leave out the output activation, as CrossEntropyLoss and BCEWithLogitsLoss want it.

    Returns
    -------
    torch.nn.Sequential
        Linear, activation and Dropout, as far as the layer has them, one after the other: the parameters are called
        ``0.weight``, ``0.bias``, ``2.weight``, and so on.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ValueError
        If ``like`` has other layers, or the output activation is exp, for which torch.nn has no module.
    """
    if not isinstance(net, MLP):
        raise TypeError(f"net is a {type(net).__name__}; expected an MLP")
    logits = check_flag("logits", logits)
    if like is not None:
        return _filled_copy(like, net, logits)
    try:
        import torch
    except ImportError as error:
        raise ImportError("to_torch needs PyTorch, which cannot be imported: pip install torch") from error
    if net.output_activation == "exp" and not logits:
        raise ValueError("torch.nn has no module for the output activation exp; logits=True leaves it out")
    modules: list[Any] = []
    activations = (*net.activations, "identity" if logits else net.output_activation)
    for weights, biases, name, rate in zip(net.weights, net.biases, activations, (*net.dropout, 0.0)):
        n_out, n_in = weights.shape
        linear = torch.nn.utils.skip_init(torch.nn.Linear, n_in, n_out, dtype=getattr(torch, net.dtype.name))
        _fill(linear, weights, biases)
        modules.append(linear)
        if name != "identity":
            activation = _ACTIVATIONS[name]
            modules.append(getattr(torch.nn, activation.class_name)(**activation.settings))
        if rate:
            modules.append(torch.nn.Dropout(rate))
    return torch.nn.Sequential(*modules)


def _filled_copy(like: Any, net: MLP, logits: bool) -> Any:
    if logits:
        raise ValueError("logits is True and like is given, whose last activation is its own; expected one of them")
    layers = _layers_of(like)
    shapes = [layer.sizes for layer in layers]
    expected = list(zip(net.layer_sizes, net.layer_sizes[1:]))
    if shapes != expected:
        raise ValueError(f"like has the layers {shapes} (inputs, outputs); this network has {expected}")
    for layer, activation in zip(layers, net.activations):
        if layer.activation != activation:
            raise ValueError(f"like has {layer.activation} after {layer.path}; this network has {activation}")
    for layer, biases in zip(layers, net.biases):
        if layer.linear.bias is None and biases.any():
            raise ValueError(f"like has no bias in {layer.path}; this network's is not zero")
    filled = copy.deepcopy(like)
    for layer, weights, biases in zip(_layers_of(filled), net.weights, net.biases):
        _fill(layer.linear, weights, biases)
    return filled


def _fill(linear: Any, weights: np.ndarray, biases: np.ndarray) -> None:
    """Copy the parameters of a layer into a Linear, whatever its dtype and device."""
    pairs = [(linear.weight, weights)] + ([] if linear.bias is None else [(linear.bias, biases)])
    for parameter, values in pairs:
        target = parameter.detach()  # shares the memory, and lets it be written
        target.copy_(target.new_tensor(values, dtype=target.dtype))


def _array(parameter: Any) -> np.ndarray:
    array: np.ndarray = parameter.detach().cpu().numpy()
    return array


# --- reading a module ---


def _leaves(path: str, module: Any) -> Iterator[tuple[str, Any]]:
    """The modules that compute something, in their order, with their names in state_dict."""
    where = f"module {path!r}" if path else "module"
    if type(module).__module__.split(".")[0] != "torch":
        raise TypeError(f"{where} is a {type(module).__name__}; expected a module of torch.nn: {_TAKEN}")
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        if getattr(module, hooks, None):
            raise ValueError(f"{where} has hooks, which may change what it computes")
    if type(module).__name__ == "Sequential":
        for name, child in module.named_children():
            yield from _leaves(f"{path}.{name}" if path else name, child)
    else:
        yield path, module


def _layers_of(module: Any) -> list[_Layer]:
    layers: list[_Layer] = []
    for path, leaf in _leaves("", module):
        where, kind = f"module {path!r}" if path else "module", type(leaf).__name__
        if kind == "Linear":
            layers.append(_Layer(where, leaf))
        elif kind in _NAME_OF_CLASS:
            _add_activation(layers, where, leaf)
        elif kind == "Dropout":
            _add_dropout(layers, where, leaf)
        elif kind == "Flatten" and (leaf.start_dim, leaf.end_dim) != (1, -1):
            raise ValueError(f"{where} is Flatten({leaf.start_dim}, {leaf.end_dim}); expected Flatten(1, -1)")
        elif kind not in _TRANSPARENT:
            raise TypeError(f"{where} is {kind}, which has no counterpart here; expected {_TAKEN}")
    if not layers:
        raise ValueError("module has no Linear")
    if layers[-1].dropout:
        raise ValueError("module ends with Dropout; expected it after hidden layers alone")
    for before, after in zip(layers, layers[1:]):
        if before.activation == "softmax":
            raise ValueError(f"{before.path} is followed by a softmax; expected it after the last Linear alone")
        if before.sizes[1] != after.sizes[0]:
            raise ValueError(f"{after.path} takes {after.sizes[0]} features; the layer before gives {before.sizes[1]}")
    return layers


def _add_activation(layers: Sequence[_Layer], where: str, leaf: Any) -> None:
    kind = type(leaf).__name__
    name = _NAME_OF_CLASS[kind]
    if not layers:
        raise ValueError(f"{where} is {kind} before any Linear; expected it after one")
    if layers[-1].activation != "identity" or layers[-1].dropout:
        raise ValueError(f"{where} is {kind}; expected one activation after a Linear, and Dropout after that")
    for setting, is_right, expected in _ACTIVATIONS[name].requires:
        if not is_right(value := getattr(leaf, setting)):
            raise ValueError(f"{where} is {kind} with {setting}={value!r}; expected {expected}")
    layers[-1].activation = name


def _add_dropout(layers: Sequence[_Layer], where: str, leaf: Any) -> None:
    if not leaf.p:
        return
    if not layers:
        raise ValueError(f"{where} is Dropout of the inputs; expected it after hidden layers alone")
    if layers[-1].dropout:
        raise ValueError(f"{where} is a second Dropout in a row; expected one")
    layers[-1].dropout = float(leaf.p)


def _common_dtype(layers: Sequence[_Layer]) -> str:
    parameters = [(layer.path, value) for layer in layers for value in (layer.linear.weight, layer.linear.bias)]
    dtypes = {path: str(value.dtype) for path, value in parameters if value is not None}
    for path, dtype in dtypes.items():
        if dtype not in _DTYPES or dtype != next(iter(dtypes.values())):
            raise ValueError(f"{path} has dtype {dtype}; expected float32 or float64, one for all")
    return _DTYPES[next(iter(dtypes.values()))]
