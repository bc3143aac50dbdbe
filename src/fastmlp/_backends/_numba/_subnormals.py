"""Subnormal numbers count as zero inside the kernels: some processors take 100 times longer over them."""

import platform
from typing import Any

import llvmlite.ir as ir
from numba.core import types

from fastmlp._backends._numba._compiler import primitive
from fastmlp._backends._numba._memory import BYTE, INT32, INT64

_FLUSH = {"x86": 0x8040, "aarch64": 1 << 24}  # MXCSR: results and operands; FPCR: both


def processor() -> str:
    """The processor's kind, where kernels know its control registers and instructions."""
    machine = platform.machine().lower()
    return {"x86_64": "x86", "amd64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}.get(machine, "")


def _read_mode(builder: ir.IRBuilder) -> Any:
    if processor() == "aarch64":
        read = builder.module.declare_intrinsic("llvm.aarch64.get.fpcr", (), ir.FunctionType(INT64, []))
        return builder.call(read, [])
    with builder.goto_entry_block():
        place = builder.alloca(INT32)
    signature = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])
    read = builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", (), signature)
    builder.call(read, [builder.bitcast(place, BYTE.as_pointer())])
    return builder.zext(builder.load(place), INT64)


def _write_mode(builder: ir.IRBuilder, mode: Any) -> None:
    if processor() == "aarch64":
        signature = ir.FunctionType(ir.VoidType(), [INT64])
        write = builder.module.declare_intrinsic("llvm.aarch64.set.fpcr", (), signature)
        builder.call(write, [mode])
        return
    with builder.goto_entry_block():
        place = builder.alloca(INT32)
    builder.store(builder.trunc(mode, INT32), place)
    signature = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])
    write = builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", (), signature)
    builder.call(write, [builder.bitcast(place, BYTE.as_pointer())])


@primitive
def flush_subnormals() -> Any:
    """Subnormal numbers count as zero from here on; returns the mode for restore_mode."""
    known = processor()

    def emit(builder: ir.IRBuilder) -> Any:
        if not known:
            return INT64(0)
        before = _read_mode(builder)
        _write_mode(builder, builder.or_(before, INT64(_FLUSH[known])))
        return before

    return types.int64, emit


@primitive
def restore_mode(before: Any) -> Any:
    def emit(builder: ir.IRBuilder, mode: Any) -> None:
        if processor():
            _write_mode(builder, mode)

    return types.void, emit
