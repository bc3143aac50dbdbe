"""Packages that only the demos need: imported when a demo asks for one, with one clear line when it is missing."""

import importlib
from types import ModuleType

INSTALL_COMMAND = 'pip install "fastmlp[demo]"'


class MissingExtra(ImportError):
    """A package of the demo extra is not installed; the message names the command that installs it."""


def require(module: str, package: str) -> ModuleType:
    """Import ``module``, part of ``package``, or raise MissingExtra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{package} is needed here and cannot be imported: {INSTALL_COMMAND}") from error
