"""The safetensors container (https://huggingface.co/docs/safetensors): named tensors beside named strings.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors one after another.
Everything in a file is checked before it is believed, and nothing is allocated that its own size does not justify.
"""

import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

AnyPath = str | os.PathLike[str]

# Or its parts, to be written one after the other as one vector.
Tensor = np.ndarray | list[np.ndarray]

LENGTH_BYTES = 8
# So that the tensors start aligned, as the format asks.
ALIGNMENT = 8
DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "U8": np.dtype("u1")}
NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}
# Parsed JSON takes up to 42 times the memory of its text, so that only a large file may have a long header.
HEADER_BYTES = 2**17
HEADER_SHARE = 32
# The last tensor of a file that has one: the BLAKE2b hash of all bytes before it.
CHECKSUM = "checksum"
CHECKSUM_BYTES = 32
BLOCK_BYTES = 2**20
COPIED_BYTES = 2**22


class Entry(NamedTuple):
    """Where a tensor lies in the data, and what it is."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


# --- writing ---


def write(
    path: AnyPath,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    *,
    checksum: bool = False,
    previous: AnyPath | None = None,
) -> None:
    """Write a file whole or not at all, even where the machine loses its power.

    An older file of that name is replaced once the new one is complete, or becomes ``previous``.
    """
    target = Path(os.path.realpath(path))
    # Others may save to the same path now. A fit has its checkpoint to itself, and killed often it leaves one file.
    mine = "" if checksum else f".{os.getpid()}-{threading.get_ident()}"
    partial = target.with_name(f"{target.name}{mine}.partial")
    header = _header(metadata, tensors, checksum)
    try:
        with open(partial, "wb") as file:
            hashed = blake2b(digest_size=CHECKSUM_BYTES)
            for piece in _pieces(header, tensors):
                file.write(piece)
                if checksum:
                    hashed.update(piece)
            if checksum:
                file.write(hashed.digest())
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            _keep(target, Path(previous))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _keep(target: Path, previous: Path) -> None:
    """Give a file another name, too, so that there is always one under its own."""
    link = previous.with_name(f"{previous.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(target, link)
        os.replace(link, previous)
    except OSError:  # not every file system has hard links
        os.replace(target, previous)
    link.unlink(missing_ok=True)  # it is there still if both names meant the same file before


def _header(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], checksum: bool) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        parts = tensor if isinstance(tensor, list) else [tensor]
        shape = (sum(part.size for part in parts),) if isinstance(tensor, list) else tensor.shape
        end = position + sum(part.nbytes for part in parts)
        entries[name] = {"dtype": NAMES[parts[0].dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    if checksum:
        end = position + CHECKSUM_BYTES
        entries[CHECKSUM] = {"dtype": "U8", "shape": [CHECKSUM_BYTES], "data_offsets": [position, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    if len(header) > _longest_header(position):
        raise ValueError(f"the header of the file would take {len(header)} bytes: there are too many layers")
    return header


def _longest_header(n_bytes: int) -> int:
    return HEADER_BYTES + n_bytes // HEADER_SHARE


def _pieces(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(LENGTH_BYTES, "little")
    yield header
    for tensor in tensors.values():
        for array in tensor if isinstance(tensor, list) else [tensor]:
            for rows in _rows_of(array):
                yield _bytes_of(np.ascontiguousarray(rows, dtype=DTYPES[NAMES[array.dtype]]))


def _rows_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in views of some rows: weights lie in memory in another order, and are copied so many at a time."""
    rows = max(1, COPIED_BYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _bytes_of(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ---


class TensorFile:
    """An open file whose header has been found right."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        self._start = file.tell()
        self.metadata = _check_metadata(header.pop("__metadata__", {}))
        self.entries = {name: _check_entry(name, entry, size) for name, entry in header.items()}
        self._n_bytes = size - self._start

    def read(self, name: str) -> np.ndarray:
        """A new array with one of the tensors, in native byte order."""
        dtype, shape, begin, _ = self.entries[name]
        array = np.empty(shape, dtype)
        self._file.seek(self._start + begin)
        if self._file.readinto(_bytes_of(array)) != array.nbytes:
            raise ValueError("it became shorter while it was read")
        return array.astype(dtype.newbyteorder("="), copy=False)

    def read_into(self, target: np.ndarray, name: str) -> None:
        """Copy one of the tensors into an array of its shape, some rows at a time."""
        dtype, _, begin, _ = self.entries[name]
        self._file.seek(self._start + begin)
        for rows in _rows_of(target):
            block = np.empty(rows.shape, dtype)
            if self._file.readinto(_bytes_of(block)) != block.nbytes:
                raise ValueError("it became shorter while it was read")
            rows[...] = block

    def check_spans(self) -> None:
        """Raise ValueError unless the tensors fill the data without gap or overlap."""
        position = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1][2:]):
            if entry.begin != position:
                raise ValueError(f"{shown(name)} starts at byte {entry.begin} of the data; expected {position}")
            position = entry.end
        if position != self._n_bytes:
            raise ValueError(
                f"its tensors need {position} bytes of data; the file has {self._n_bytes}: it is truncated or damaged"
            )

    def check_sum(self) -> None:
        """Raise ValueError unless the file ends with the hash of all before."""
        last = max(self.entries.values(), key=lambda entry: entry.end, default=None)
        if CHECKSUM not in self.entries or self.entries[CHECKSUM] is not last:
            raise ValueError("it does not end with a checksum")
        hashed = blake2b(digest_size=CHECKSUM_BYTES)
        left = self._start + last.begin
        self._file.seek(0)
        while left and (block := self._file.read(min(left, BLOCK_BYTES))):
            hashed.update(block)
            left -= len(block)
        if self.read(CHECKSUM).tobytes() != hashed.digest():
            raise ValueError("its checksum is wrong: it is damaged")


@contextmanager
def opened(path: AnyPath) -> Iterator[TensorFile]:
    """A file to read from.

    Raises ValueError, naming the path, for whatever is wrong with its content.
    """
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise ValueError("it is no regular file")
        with open(name, "rb") as file:
            yield TensorFile(file)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {short(str(error))}") from error


def _read_header(file: BufferedReader, size: int) -> dict[str, Any]:
    if size < LENGTH_BYTES:
        raise ValueError(f"it has {size} bytes, fewer than the {LENGTH_BYTES} a safetensors file starts with")
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    left = size - LENGTH_BYTES
    if length > left:
        raise ValueError(
            f"its header would have {length} bytes, but only {left} follow: it is truncated, or no safetensors file"
        )
    if length > _longest_header(left - length):
        raise ValueError(f"its header has {length} bytes, too many for the {left - length} of its tensors")
    return parse(file.read(length), "header")


def parse(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys, and without NaN and infinity, which are no JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key occurs twice")
        return result

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        decoded = text if isinstance(text, str) else text.decode()
        value = json.loads(decoded, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {what} is no JSON that makes sense ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {what} is no JSON object")
    return value


def shown(value: Any) -> str:
    """What a file says, short enough for a message."""
    return short(repr(value), 80)


def short(text: str, length: int = 400) -> str:
    """The beginning of a text that a stranger may have written."""
    return text if len(text) <= length else f"{text[:length]}..."


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise ValueError("the header's __metadata__ is no JSON object")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"{shown(name)} in the header's __metadata__ is {shown(value)}; expected a string")
    return metadata


def _check_entry(name: str, entry: Any, size: int) -> Entry:
    """The description of a tensor, its shape and its place agreeing."""
    called = shown(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{called} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{called} has dtype {shown(code)}; expected one of {', '.join(DTYPES)}")
    if not _are_sizes(shape, size) or len(shape) > 2:
        raise ValueError(f"{called} has shape {shown(shape)}; expected one or two whole numbers")
    if not _are_sizes(offsets, size) or len(offsets) != 2:
        raise ValueError(f"{called} has data_offsets {shown(offsets)}; expected two places in the file")
    n_bytes = DTYPES[code].itemsize
    for length in shape:
        n_bytes *= length
    if offsets[1] - offsets[0] != n_bytes:
        raise ValueError(f"{called} has data_offsets {offsets}; its shape {shape} needs {n_bytes} bytes")
    return Entry(DTYPES[code], tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any, size: int) -> bool:
    """Whether this is a list of whole numbers that a file of ``size`` bytes can mean."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= size for value in values)
