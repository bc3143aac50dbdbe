"""Compiled kernels on disk: one object file for each dtype and processor. A wheel brings some: _ship.py.

The name of a file carries a hash of everything the kernels were made from, so that no upgrade runs stale ones.
Nothing here raises: where no folder can be written, or a file is damaged, kernels are compiled again.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from fastmlp._backends._numba._target import Target

_HERE = Path(__file__).parent
_SHIPPED = _HERE / "objects"
_OWN_FOLDER = _HERE / "__pycache__"
_PACKAGE = _HERE.parent.parent
# What the kernels take from the rest of the package.
_OTHER_SOURCES = ("_activations.py", "_losses.py", "_update.py", "_backends/_plan.py", "_backends/_derivative_plan.py")
_DIGEST_BYTES = hashlib.sha256().digest_size


def load(dtype: str, target: Target) -> bytes | None:
    """The object kept for a dtype (behind the name of a part that is compiled by itself) and a target, if there is a
    sound one."""
    with suppress(OSError):
        for path in _places(dtype, target):
            with suppress(OSError):
                content = path.read_bytes()
                digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
                if hashlib.sha256(code).digest() == digest:
                    return code
    return None


def keep(dtype: str, target: Target, code: bytes) -> None:
    """Keep an object in the first folder that can be written."""
    with suppress(OSError):
        if _sources_digest() != _first_digest():
            return  # edited while this process ran: the code may be of either
        name = _file_name(dtype, target, _first_digest())
        for folder in _folders():
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder / name, code)
                if folder == _OWN_FOLDER:  # others may serve several versions
                    for other in folder.glob(f"{_prefix(dtype, target)}*.o"):
                        if other.name != name:
                            other.unlink()
                return


def ship(folder: Path, dtype: str, target: Target, code: bytes) -> None:
    """Put an object into the folder that a wheel brings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _shipped_name(dtype, target, _first_digest())
    _write(path, code)
    path.chmod(0o644)


def _write(path: Path, code: bytes) -> None:
    """Behind its digest, whole or not at all, whatever other processes do."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _places(dtype: str, target: Target) -> Iterator[Path]:
    """Where an object may be found, best first."""
    yield _SHIPPED / _shipped_name(dtype, target, _first_digest())
    name = _file_name(dtype, target, _first_digest())
    for folder in _folders():
        yield folder / name


def _folders() -> Iterator[Path]:
    """Where objects may be kept, best first."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
        return
    yield _OWN_FOLDER
    with suppress(RuntimeError):  # there may be no home
        yield _user_folder() / "fastmlp"


def _user_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home())
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _prefix(dtype: str, target: Target) -> str:
    return f"numba-{dtype}-{target.isa}-{target.cpu}-"


def _file_name(dtype: str, target: Target, sources: bytes) -> str:
    return _shipped_name(dtype, target, sources, version("numba"), version("llvmlite"))


def _shipped_name(dtype: str, target: Target, sources: bytes, *versions: str) -> str:
    """A wheel's objects may be from another Numba than there is: they were tried with it when the wheel was made."""
    made_from = hashlib.sha256(sources)
    for part in (*versions, *map(str, target)):
        made_from.update(f"\0{part}".encode())
    return f"{_prefix(dtype, target)}{made_from.hexdigest()[:24]}.o"


def _sources_digest() -> bytes:
    digest = hashlib.sha256()
    for path in (*sorted(_HERE.glob("*.py")), *(_PACKAGE / name for name in _OTHER_SOURCES)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


@cache
def _first_digest() -> bytes:
    """Of the sources as they were before this process imported them."""
    return _sources_digest()
