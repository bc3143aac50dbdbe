"""A network in the ONNX format (https://onnx.ai), written without the onnx package.

A file is one message of Protocol Buffers. A field of a message is its number and wire type, then a number of variable
length, four bytes, or a length and bytes. The numbers of the fields are those of onnx.proto.
"""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from fastmlp._activations import LEAKY_RELU_SLOPE
from fastmlp._version import __version__

# Old enough for every engine of the last years to read. GELU has an operator of its own from 20 on.
OPSET, IR_VERSION = 17, 8
ELEMENT_TYPES = {"float32": 1, "float64": 11}
MOST_BYTES = 2**31 - 2**20  # of parameters: a message of Protocol Buffers holds fewer than 2**31 bytes
BATCH = "n"

Field = int | float | str | bytes

# Of an activation, one after the other: operator, inputs, attributes. Inputs are "z", results of steps before under the
# operator's name, or constants.
_Step = tuple[str, tuple[str | float, ...], dict[str, int | float]]
_HALF_Z_TIMES: list[_Step] = [("Add", ("Erf", 1.0), {}), ("Mul", ("z", "Add"), {}), ("Mul", ("Mul", 0.5), {})]
RECIPES: dict[str, list[_Step]] = {
    "identity": [],
    "relu": [("Relu", ("z",), {})],
    "leaky_relu": [("LeakyRelu", ("z",), {"alpha": LEAKY_RELU_SLOPE})],
    "elu": [("Elu", ("z",), {"alpha": 1.0})],
    "softplus": [("Softplus", ("z",), {})],
    "sigmoid": [("Sigmoid", ("z",), {})],
    "tanh": [("Tanh", ("z",), {})],
    "gelu": [("Div", ("z", 2.0**0.5), {}), ("Erf", ("Div",), {}), *_HALF_Z_TIMES],
    "silu": [("Sigmoid", ("z",), {}), ("Mul", ("z", "Sigmoid"), {})],
    "exp": [("Exp", ("z",), {})],
    "softmax": [("Softmax", ("z",), {"axis": -1})],
}
# onnxruntime has no Elu, Softplus and Erf in double: the first two are made of others, erf is computed in float. An
# attribute is float, too: for LeakyRelu's slope that is not enough.
RECIPES_FLOAT64 = RECIPES | {
    "leaky_relu": [("Mul", ("z", LEAKY_RELU_SLOPE), {}), ("Max", ("z", "Mul"), {})],
    "elu": [
        ("Relu", ("z",), {}),
        ("Sub", ("z", "Relu"), {}),
        ("Exp", ("Sub",), {}),
        ("Sub", ("Exp", 1.0), {}),
        ("Add", ("Relu", "Sub"), {}),
    ],
    "softplus": [
        ("Relu", ("z",), {}),
        ("Abs", ("z",), {}),
        ("Neg", ("Abs",), {}),
        ("Exp", ("Neg",), {}),
        ("Add", ("Exp", 1.0), {}),
        ("Log", ("Add",), {}),
        ("Add", ("Relu", "Log"), {}),
    ],
    "gelu": [
        ("Div", ("z", 2.0**0.5), {}),
        ("Cast", ("Div",), {"to": ELEMENT_TYPES["float32"]}),
        ("Erf", ("Cast",), {}),
        ("Cast", ("Erf",), {"to": ELEMENT_TYPES["float64"]}),
        ("Add", ("Cast", 1.0), {}),
        *_HALF_Z_TIMES[1:],
    ],
}


def onnx_model(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], activations: Sequence[str], batch: int | str = BATCH
) -> bytes:
    """The file's content: from input "X" (n, n_0) to output "Y" (n, n_L).

    ``layers`` are pairs W_l, b_l. ``batch`` is the number of examples, or the name of one that is not fixed.
    """
    dtype = layers[0][0].dtype
    if (n_bytes := sum(W.nbytes + b.nbytes for W, b in layers)) > MOST_BYTES:
        raise ValueError(f"the parameters take {n_bytes} bytes; a file of ONNX holds {MOST_BYTES}")
    recipes = RECIPES if dtype == np.float32 else RECIPES_FLOAT64
    nodes: list[bytes] = []
    constants: dict[str, np.ndarray] = {}
    tensor = "X"
    for number, ((W, b), activation) in enumerate(zip(layers, activations, strict=True), start=1):
        weights, bias = f"layer{number}.weight", f"layer{number}.bias"
        constants |= {weights: W, bias: b}
        gemm: _Step = ("Gemm", (tensor, weights, bias), {"transB": 1})
        results: dict[str, str] = {}
        for place, (operator, inputs, attributes) in enumerate([gemm, *recipes[activation]]):
            constants |= {str(value): np.array(value, dtype) for value in inputs if isinstance(value, float)}
            is_output = number == len(layers) and place == len(recipes[activation])
            tensor = "Y" if is_output else f"layer{number}.{place}.{operator}"
            nodes.append(_node(operator, [results.get(str(value), str(value)) for value in inputs], tensor, attributes))
            results["z" if place == 0 else operator] = tensor
    tensors = [_tensor(name, array) for name, array in constants.items()]
    shapes = (("X", layers[0][0].shape[1]), ("Y", layers[-1][0].shape[0]))
    graph_input, graph_output = (_value_info(name, dtype, [batch, size]) for name, size in shapes)
    graph = _message(
        *((1, node) for node in nodes),
        (2, "fastmlp"),
        *((5, tensor) for tensor in tensors),
        (11, graph_input),
        (12, graph_output),
    )
    return _message((1, IR_VERSION), (2, "fastmlp"), (3, __version__), (7, graph), (8, _message((1, ""), (2, OPSET))))


def _node(operator: str, inputs: Sequence[str], output: str, attributes: dict[str, int | float]) -> bytes:
    return _message(
        *((1, name) for name in inputs),
        (2, output),
        (3, output),
        (4, operator),
        *((5, _attribute(name, value)) for name, value in attributes.items()),
    )


def _attribute(name: str, value: int | float) -> bytes:
    """Of type FLOAT (1) or INT (2)."""
    if isinstance(value, int):
        return _message((1, name), (3, value), (20, 2))
    return _message((1, name), (2, value), (20, 1))


def _tensor(name: str, array: np.ndarray) -> bytes:
    data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    return _message(*((1, size) for size in array.shape), (2, ELEMENT_TYPES[array.dtype.name]), (8, name), (9, data))


def _value_info(name: str, dtype: np.dtype, sizes: Iterable[int | str]) -> bytes:
    """A name, an element type and a shape, in which a text stands for a size that is not fixed."""
    shape = _message(*((1, _message((2 if isinstance(size, str) else 1, size))) for size in sizes))
    return _message((1, name), (2, _message((1, _message((1, ELEMENT_TYPES[dtype.name]), (2, shape))))))


# --- Protocol Buffers ---


def _message(*fields: tuple[int, Field]) -> bytes:
    return b"".join(map(_field, *zip(*fields)))


def _field(number: int, value: Field) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as one of 64 bits."""
    value %= 2**64
    groups = []
    while value >= 128:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
