"""Files: networks in the safetensors format (https://huggingface.co/docs/safetensors), written and read here.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors one after another.
Everything in a file is checked before it is believed, and nothing is allocated beyond the file's own size.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._checks import check_architecture
from fastmlp._version import __version__

FORMAT = "fastmlp"
FORMAT_VERSION = 1
LENGTH_BYTES = 8
# So that the tensors start aligned, as the format asks.
ALIGNMENT = 8
DTYPE_NAMES = {"float32": "F32", "float64": "F64"}
Tensors = tuple[list[np.ndarray], list[np.ndarray]]


def save(
    path: str | os.PathLike[str],
    architecture: Architecture,
    weights: tuple[np.ndarray, ...],
    biases: tuple[np.ndarray, ...],
) -> None:
    """Write a network; an older file of that name is replaced once the new one is complete."""
    dtype = DTYPE_NAMES[architecture.dtype.name]
    stored = architecture.dtype.newbyteorder("<")
    entries: dict[str, Any] = {"__metadata__": _metadata(architecture)}
    pieces = []
    position = 0
    for key, array in _named(weights, biases).items():
        data = array.astype(stored).tobytes()
        entries[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, position + len(data)]}
        position += len(data)
        pieces.append(data)
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    _write_whole(path, [len(header).to_bytes(LENGTH_BYTES, "little"), header, *pieces])


def _named(weights: tuple[np.ndarray, ...], biases: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    named = {}
    for layer, (weight, bias) in enumerate(zip(weights, biases), start=1):
        named[f"layer{layer}.weight"] = weight
        named[f"layer{layer}.bias"] = bias
    return named


def _metadata(architecture: Architecture) -> dict[str, str]:
    """Strings alone, as the format asks; the architecture is JSON within."""
    description = {
        "layer_sizes": architecture.layer_sizes,
        "activation": architecture.activations,
        "output_activation": architecture.output_activation,
        "loss": architecture.loss,
        "l1": architecture.l1,
        "l2": architecture.l2,
        "dropout": architecture.dropout,
        "dtype": architecture.dtype.name,
    }
    return {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "fastmlp_version": __version__,
        "architecture": json.dumps(description),
    }


def _write_whole(path: str | os.PathLike[str], pieces: list[bytes]) -> None:
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.writelines(pieces)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> tuple[Architecture, list[np.ndarray], list[np.ndarray]]:
    """The architecture, the weights and the biases in a file.

    Raises ValueError, naming the path, if the file is not what `save` writes.
    """
    content = Path(path).read_bytes()
    try:
        header, data = _split(content)
        architecture = _read_architecture(header.pop("__metadata__", None))
        tensors = _read_tensors(header, data, architecture)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {error}") from error
    return architecture, tensors[0], tensors[1]


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and data of a file."""
    if len(content) < LENGTH_BYTES:
        raise ValueError(f"it has {len(content)} bytes, fewer than the {LENGTH_BYTES} a safetensors file starts with")
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if length > len(content) - LENGTH_BYTES:
        raise ValueError(
            f"its header would have {length} bytes, but only {len(content) - LENGTH_BYTES} follow: "
            "it is truncated, or no safetensors file"
        )
    header = _parse(content[LENGTH_BYTES : LENGTH_BYTES + length], "header")
    return header, memoryview(content)[LENGTH_BYTES + length :]


def _parse(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key occurs twice")
        return result

    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {what} is no JSON that makes sense ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is no JSON object")
    return value


def _read_architecture(metadata: Any) -> Architecture:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError(f"it is no file of {FORMAT}: the header's __metadata__ has no format {FORMAT!r}")
    version = metadata.get("format_version")
    if not isinstance(version, str) or not version.isdecimal() or len(version) > 9 or int(version) < 1:
        raise ValueError(f"its format_version is {version!r}; expected a number")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"it has format version {version}, written by fastmlp {metadata.get('fastmlp_version')}; fastmlp "
            f"{__version__} reads versions up to {FORMAT_VERSION}"
        )
    text = metadata.get("architecture")
    if not isinstance(text, str):
        raise ValueError("its __metadata__ has no architecture")
    description = _parse(text, "architecture")
    expected = {"layer_sizes", "activation", "output_activation", "loss", "l1", "l2", "dropout", "dtype"}
    if description.keys() != expected:
        odd = ", ".join(sorted(description.keys() ^ expected))
        raise ValueError(f"its architecture lacks or should not have: {odd}")
    return check_architecture(**description)


def _read_tensors(entries: dict[str, Any], data: memoryview, architecture: Architecture) -> Tensors:
    """Weights and biases, copied out of the file's data."""
    shapes = _expected_shapes(architecture)
    if entries.keys() != shapes.keys():
        missing, extra = sorted(shapes.keys() - entries.keys()), sorted(entries.keys() - shapes.keys())
        words = [f"{word} {', '.join(names[:3])}" for word, names in (("lacks", missing), ("also has", extra)) if names]
        raise ValueError(f"it {' and '.join(words)}; its layers are {list(architecture.layer_sizes)}")
    spans = {name: _check_entry(name, entries[name], shapes[name], architecture.dtype) for name in shapes}
    _check_spans(spans, len(data))
    little = architecture.dtype.newbyteorder("<")
    arrays = {}
    for name, (begin, end) in spans.items():
        stored = np.frombuffer(data[begin:end], dtype=little)
        arrays[name] = stored.reshape(shapes[name]).astype(architecture.dtype)
    names = list(shapes)
    return [arrays[name] for name in names[::2]], [arrays[name] for name in names[1::2]]


def _expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (n_in, n_out) in enumerate(zip(architecture.layer_sizes, architecture.layer_sizes[1:]), start=1):
        shapes[f"layer{layer}.weight"] = (n_out, n_in)
        shapes[f"layer{layer}.bias"] = (n_out,)
    return shapes


def _check_entry(name: str, entry: Any, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Where a tensor lies in the data, its description being right."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    if entry["dtype"] != DTYPE_NAMES[dtype.name]:
        raise ValueError(f"{name} has dtype {entry['dtype']!r}; its architecture says {dtype.name}")
    if entry["shape"] != list(shape) or not all(type(size) is int for size in entry["shape"]):
        raise ValueError(f"{name} has shape {entry['shape']!r}; expected {list(shape)}")
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise ValueError(f"{name} has data_offsets {offsets!r}; expected two whole numbers")
    n_bytes = dtype.itemsize
    for size in shape:
        n_bytes *= size
    if offsets[1] - offsets[0] != n_bytes:
        raise ValueError(f"{name} has data_offsets {offsets}; its shape needs {n_bytes} bytes")
    return offsets[0], offsets[1]


def _check_spans(spans: dict[str, tuple[int, int]], n_bytes: int) -> None:
    """Raise ValueError unless the tensors fill the data without gap or overlap."""
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise ValueError(f"{name} starts at byte {begin} of the data; expected {position}")
        position = end
    if position != n_bytes:
        raise ValueError(
            f"its tensors need {position} bytes of data; the file has {n_bytes}: it is truncated or damaged"
        )
