"""What kernels are compiled for: the processor's instruction set, as far as FASTMLP_ISA lets it be used. All processors
that have one run the same code, which is no slower than code for one of them alone (AVX2 on Zen 3: -1 to +4 %).

Needs llvmlite but not Numba, which takes far longer to import.
"""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm

LIMITS = ("baseline", "avx2", "avx512")
# What LLVM's x86-64-v3 and -v4 have beside what every x86-64 has, by its names; and what is needed of it.
_V3 = (
    *("avx", "avx2", "bmi", "bmi2", "crc32", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sahf"),
    *("sse3", "sse4.1", "sse4.2", "ssse3", "xsave"),
)
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")
_X86 = platform.machine().lower() in ("x86_64", "amd64")


class Target(NamedTuple):
    """What LLVM and the kernels need to know of the processor."""

    isa: str
    vector_bytes: int
    has_fma: bool
    cpu: str
    features: str  # as LLVM takes them: "-movbe,..."


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
    if not _X86:
        flat = ",".join(("+" if on else "-") + name for name, on in sorted(features.items()))
        has_fma = platform.machine().lower() in ("aarch64", "arm64")
        return Target("baseline", 16, has_fma, llvm.get_host_cpu_name(), flat)
    there = {name for name, on in features.items() if on}
    if isa_limit == "avx512" and there.issuperset(_AVX512):
        return _avx512(there)
    if isa_limit != "baseline" and there.issuperset(_AVX2):
        return _avx2(there)
    return Target("baseline", 16, False, "x86-64", "")


def shipped_targets() -> list[Target]:
    """Those whose code a wheel brings: what nearly all processors with their instruction sets are."""
    return [_avx2(_V3), _avx512(_V4)] if _X86 else []


def _avx2(features: Iterable[str]) -> Target:
    return Target("avx2", 32, True, "x86-64-v3", _without(_V3, features))


def _avx512(features: Iterable[str]) -> Target:
    # prefer-256-bit is LLVM's advice on some processors, and never among what one has
    return Target("avx512", 64, True, "x86-64-v4", _without((*_V4, "prefer-256-bit"), features))


def _without(names: Iterable[str], features: Iterable[str]) -> str:
    """The names that are not among a processor's features, as LLVM takes them."""
    return ",".join(f"-{name}" for name in names if name not in features)


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


def target_machine(target: Target) -> Any:
    """A new LLVM target machine whose code runs in this process."""
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )
