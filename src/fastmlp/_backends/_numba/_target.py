"""The processor that kernels are compiled for: its instruction set, as far as FASTMLP_ISA lets it be used.

Needs llvmlite but not Numba, which takes far longer to import.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm

LIMITS = ("baseline", "avx2", "avx512")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
_X86 = platform.machine().lower() in ("x86_64", "amd64")


class Target(NamedTuple):
    """What LLVM and the kernels need to know of the processor."""

    isa: str
    vector_bytes: int
    has_fma: bool
    cpu: str
    features: str  # as LLVM takes them: "+avx2,-avx512f,..."


def limit() -> str:
    """The most that may be used: FASTMLP_ISA, or everything."""
    name = os.environ.get("FASTMLP_ISA") or LIMITS[-1]
    if name not in LIMITS:
        raise ValueError(f"FASTMLP_ISA is {name!r}; expected one of {', '.join(LIMITS)}")
    return name


@cache
def find_target(isa_limit: str) -> Target:
    """The best instruction set of this processor up to ``isa_limit``."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        features = dict(llvm.get_host_cpu_features())
    except RuntimeError:  # LLVM cannot tell on this platform
        features = {}
    cpu = llvm.get_host_cpu_name()
    if not _X86:
        return Target("baseline", 16, platform.machine().lower() in ("aarch64", "arm64"), cpu, _flatten(features))
    if isa_limit == "avx512" and all(features.get(name) for name in _AVX512):
        return Target("avx512", 64, True, cpu, _flatten(features))
    features = {name: on and not name.startswith(("avx512", "avx10", "evex512")) for name, on in features.items()}
    if isa_limit != "baseline" and features.get("avx2") and features.get("fma"):
        return Target("avx2", 32, True, cpu, _flatten(features))
    return Target("baseline", 16, False, "x86-64", "")


_current: list[Target] = []


@contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Lets `current_target` be ``target``; for one thread at a time."""
    _current.append(target)
    try:
        yield
    finally:
        _current.pop()


def current_target() -> Target:
    """The target of the kernels that are being compiled."""
    return _current[-1]


def _flatten(features: dict[str, bool]) -> str:
    return ",".join(("+" if on else "-") + name for name, on in sorted(features.items()))


def target_machine(target: Target) -> Any:
    """A new LLVM target machine whose code runs in this process."""
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )
