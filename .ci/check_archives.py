"""Checks what the sdist and the wheel carry: ``check_archives.py SDIST WHEEL``."""

import sys
import tarfile
import zipfile
from pathlib import PurePosixPath


def missing(names: set[str], expected: set[str]) -> str:
    return ", ".join(sorted(expected - names)) or "nothing"


def check_sdist(path: str) -> None:
    with tarfile.open(path) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    sources = {name for name in names if name.startswith("csrc/") and name.endswith((".c", ".h"))}
    assert len(sources) > 5, f"{path} carries only {sources} of csrc/"
    expected = {"pyproject.toml", "setup.py", "conftest.py", "README.md", "LICENSE", "CHANGELOG.md"}
    expected |= {"csrc/build_fastmlp.py", "src/fastmlp/py.typed", "tests/conftest.py", "benches/conftest.py"}
    assert expected <= names, f"{path} lacks {missing(names, expected)}"
    check_stray(path, names)


def check_wheel(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    folders = {name.split("/")[0] for name in names}
    package, metadata = sorted(folders)
    assert package == "fastmlp", folders
    assert metadata.endswith(".dist-info"), folders
    expected = {"fastmlp/__init__.py", "fastmlp/py.typed"}
    assert expected <= names, f"{path} lacks {missing(names, expected)}"
    code = {name for name in names if name.endswith((".py", ".pyi", "/py.typed"))}
    objects = {name for name in names if name.startswith("fastmlp/_backends/_numba/objects/")}
    assert len(objects) == (4 if path.endswith("x86_64.whl") else 0), f"{path} brings these kernels of Numba: {objects}"
    other = [name for name in names - code - objects if not name.startswith(metadata)]
    extensions = {name.split(".")[0] for name in other}
    assert len(other) == 2 and extensions == {"fastmlp/_bound_call", "fastmlp/_fastmlp_c"}, other
    check_stray(path, names - objects)


def check_stray(path: str, names: set[str]) -> None:
    stray = [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".o", ".png", ".so~"))]
    assert not stray, f"{path} carries stray files: {stray}"


check_sdist(sys.argv[1])
check_wheel(sys.argv[2])
