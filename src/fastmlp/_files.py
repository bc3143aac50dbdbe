"""Files of networks: what the header says of the architecture, and which tensors there are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastmlp import _safetensors
from fastmlp._architecture import Architecture
from fastmlp._checks import check_architecture, check_name
from fastmlp._safetensors import TensorFile, shown
from fastmlp._version import __version__
from fastmlp._whole_file import AnyPath

FORMAT = "fastmlp"
CHECKPOINT = "fastmlp-checkpoint"
FORMAT_VERSION = 1
DTYPE_NAMES = ("float32", "float64")
Arrays = tuple[np.ndarray, ...]


def save(path: AnyPath, architecture: Architecture, weights: Arrays, biases: Arrays) -> None:
    """Write a network; an older file of that name is replaced once the new one is complete."""
    _safetensors.write(path, metadata(FORMAT, architecture), named(weights, biases))


def named(weights: Arrays, biases: Arrays) -> dict[str, np.ndarray]:
    """The parameters under their names in a file."""
    tensors = {}
    for layer, (weight, bias) in enumerate(zip(weights, biases), start=1):
        tensors[f"layer{layer}.weight"] = weight
        tensors[f"layer{layer}.bias"] = bias
    return tensors


def describe(architecture: Architecture) -> dict[str, Any]:
    """The arguments of `MLP` that make this architecture."""
    return {
        "layer_sizes": architecture.layer_sizes,
        "activation": architecture.activations,
        "output_activation": architecture.output_activation,
        "loss": architecture.loss,
        "l1": architecture.l1,
        "l2": architecture.l2,
        "dropout": architecture.dropout,
        "dtype": architecture.dtype.name,
    }


def metadata(kind: str, architecture: Architecture) -> dict[str, str]:
    """Strings alone, as the format asks; the architecture is JSON within."""
    return {
        "format": kind,
        "format_version": str(FORMAT_VERSION),
        "fastmlp_version": __version__,
        "architecture": json.dumps(describe(architecture)),
    }


@contextmanager
def opened(path: AnyPath) -> Iterator[tuple[Architecture, TensorFile]]:
    """The architecture in a file, and the file, which holds that architecture's parameters.

    Raises ValueError, naming the path, if the file is not what `save` or a Checkpoint writes.
    """
    with _safetensors.opened(path) as file:
        architecture = read_architecture(file, FORMAT, CHECKPOINT)
        checkpoint = file.metadata["format"] == CHECKPOINT
        _check_parameters(file, architecture, alone=not checkpoint)
        file.check_spans()
        if checkpoint:
            file.check_sum()
        yield architecture, file


def read_architecture(file: TensorFile, *kinds: str) -> Architecture:
    """What the header of a file of one of these ``kinds`` says."""
    found = file.metadata
    if found.get("format") not in kinds:
        raise ValueError(f"it is no file of fastmlp: the format in its __metadata__ is not {' or '.join(kinds)}")
    version = found.get("format_version", "")
    if not (version.isascii() and version.isdecimal() and len(version) <= 9 and int(version) >= 1):
        raise ValueError(f"its format_version is {shown(version)}; expected a number")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"it has format version {version}, written by fastmlp {shown(found.get('fastmlp_version'))}; fastmlp "
            f"{__version__} reads versions up to {FORMAT_VERSION}"
        )
    if "architecture" not in found:
        raise ValueError("its __metadata__ has no architecture")
    description = _safetensors.parse(found["architecture"], "architecture")
    expected = {"layer_sizes", "activation", "output_activation", "loss", "l1", "l2", "dropout", "dtype"}
    if description.keys() != expected:
        odd = ", ".join(sorted(description.keys() ^ expected))
        raise ValueError(f"its architecture lacks or should not have: {shown(odd)}")
    check_name("dtype", description["dtype"], DTYPE_NAMES)
    return check_architecture(**description)


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all parameters."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (n_in, n_out) in enumerate(zip(architecture.layer_sizes, architecture.layer_sizes[1:]), start=1):
        shapes[f"layer{layer}.weight"] = (n_out, n_in)
        shapes[f"layer{layer}.bias"] = (n_out,)
    return shapes


def _check_parameters(file: TensorFile, architecture: Architecture, alone: bool) -> None:
    """Raise ValueError unless the file has the architecture's parameters, ``alone`` or among others."""
    shapes = parameter_shapes(architecture)
    missing, extra = sorted(shapes.keys() - file.entries.keys()), sorted(file.entries.keys() - shapes.keys())
    found = ("lacks", missing), ("also has", extra if alone else [])
    words = [f"{word} {shown(', '.join(names[:3]))}" for word, names in found if names]
    if words:
        raise ValueError(f"it {' and '.join(words)}; its layers are {shown(list(architecture.layer_sizes))}")
    for name, shape in shapes.items():
        entry = file.entries[name]
        if entry.shape != shape:
            raise ValueError(f"{name} has shape {list(entry.shape)}; expected {shown(list(shape))}")
        if entry.dtype.newbyteorder("=") != architecture.dtype:
            raise ValueError(f"{name} has dtype {entry.dtype.name}; its architecture says {architecture.dtype.name}")
