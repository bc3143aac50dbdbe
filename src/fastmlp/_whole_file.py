"""Files that are written whole or not at all."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

AnyPath = str | os.PathLike[str]


def write_whole(
    path: AnyPath,
    pieces: Iterable[bytes | memoryview],
    *,
    partial: str | None = None,
    previous: AnyPath | None = None,
) -> None:
    """Write a file from its pieces, whole or not at all, even where the machine loses its power.

    An older file of that name is replaced once the new one is complete, or becomes ``previous``. What is not complete
    has the ending ``partial``, by default one that no other thread or process uses.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f"{target.name}.{partial or f'{os.getpid()}-{threading.get_ident()}.partial'}")
    try:
        with open(unfinished, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            _keep(target, Path(previous))
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
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


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
