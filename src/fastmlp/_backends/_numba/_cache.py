"""Compiled kernels on disk: one object file for each dtype and processor.

The name of a file carries a hash of everything the kernels were made from, so that no upgrade runs stale ones.
Nothing here raises: where no folder can be written, or a file is damaged, kernels are compiled again.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from fastmlp._backends._numba._target import Target

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parent.parent
# What the kernels take from the rest of the package.
_OTHER_SOURCES = ("_activations.py", "_losses.py", "_update.py", "_backends/_plan.py")
_DIGEST_BYTES = hashlib.sha256().digest_size


def load(dtype: str, target: Target) -> bytes | None:
    """The object kept for a dtype and a target, if there is a sound one."""
    for folder in _folders():
        with suppress(OSError):
            content = (folder / _file_name(dtype, target)).read_bytes()
            digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(code).digest() == digest:
                return code
    return None


def keep(dtype: str, target: Target, code: bytes) -> None:
    """Keep an object in the first folder that can be written, in place of those of older sources."""
    for folder in _folders():
        with suppress(OSError):
            name = _file_name(dtype, target)
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / name, hashlib.sha256(code).digest() + code)
            for other in folder.glob(f"{_prefix(dtype, target)}*.o"):
                if other.name != name:
                    other.unlink()
            return


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, whatever other processes do."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _folders() -> Iterator[Path]:
    """Where objects may be kept, best first."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen)
        return
    yield _HERE / "__pycache__"
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


def _file_name(dtype: str, target: Target) -> str:
    """Raises OSError where the sources cannot be read."""
    made_from = hashlib.sha256()
    for path in (*sorted(_HERE.glob("*.py")), *(_PACKAGE / name for name in _OTHER_SOURCES)):
        made_from.update(path.name.encode() + path.read_bytes())
    for part in (version("numba"), version("llvmlite"), *map(str, target)):
        made_from.update(f"\0{part}".encode())
    return f"{_prefix(dtype, target)}{made_from.hexdigest()[:24]}.o"
