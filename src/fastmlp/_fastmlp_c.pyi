"""The extension module that csrc/build_fastmlp.py makes of csrc/calls.h."""

from typing import Any

lib: Any
ffi: Any
