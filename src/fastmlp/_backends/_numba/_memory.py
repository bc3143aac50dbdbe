"""Memory as kernels see it: pointers that count elements, as C's do, and structs.

``p + i``, ``p[i]`` and ``p[i] = x`` mean what they do in C, ``s.field`` what C writes ``s->field``, and a null pointer
is false. ``p[i]`` of a struct is the pointer to it.
"""

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba.core import types
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import AttributeTemplate

from fastmlp._backends._numba._compiler import (
    Primitive,
    lowering_registry,
    operation,
    primitive,
    typing_registry,
)

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)
INT16 = ir.IntType(16)
BYTE = ir.IntType(8)
SCALARS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int64: INT64,
    types.int32: INT32,
    types.uint64: INT64,
    types.uint32: INT32,
    types.int8: BYTE,
}


class Struct(types.Type):  # type: ignore[misc]
    """Fields one after the other, aligned as C does; ``trailing`` is the array behind them. The name tells structs
    apart, also those for different reals."""

    def __init__(self, name: str, fields: dict[str, Any], trailing: tuple[str, Any] | None = None) -> None:
        self.fields = fields
        self.trailing = trailing
        super().__init__(name)

    def place_of(self, field: str) -> int:
        return list(self.fields).index(field)


class Pointer(types.Type):  # type: ignore[misc]
    def __init__(self, target: Any) -> None:
        self.target = target
        super().__init__(f"Pointer({target})")


def _memory_type(target: Any) -> Any:
    """What lies at a pointer, as LLVM sees it."""
    if isinstance(target, Struct):
        return ir.LiteralStructType([_memory_type(field) for field in target.fields.values()])
    return _memory_type(target.target).as_pointer() if isinstance(target, Pointer) else SCALARS[target]


@register_default(Pointer)
class _PointerModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, pointer: Pointer) -> None:
        super().__init__(manager, pointer, _memory_type(pointer))


def _is_index(index: Any) -> bool:
    return isinstance(index, types.Integer)


def _as_int64(builder: ir.IRBuilder, index: Any) -> Any:
    return builder.sext(index, INT64) if index.type.width < 64 else index


@operation(operator.add, operator.iadd)
def _add(pointer: Any, index: Any) -> Any:
    if isinstance(pointer, Pointer) and _is_index(index):
        return pointer, lambda builder, p, i: builder.gep(p, [_as_int64(builder, i)])
    return None


@operation(operator.getitem)
def _getitem(pointer: Any, index: Any) -> Any:
    if not isinstance(pointer, Pointer) or not _is_index(index):
        return None
    if isinstance(pointer.target, Struct):
        return pointer, lambda builder, p, i: builder.gep(p, [_as_int64(builder, i)])
    return pointer.target, lambda builder, p, i: builder.load(builder.gep(p, [_as_int64(builder, i)]))


@operation(operator.setitem)
def _setitem(pointer: Any, index: Any, value: Any) -> Any:
    if not isinstance(pointer, Pointer) or not _is_index(index):
        return None
    convert = conversion(value, pointer.target)

    def emit(builder: ir.IRBuilder, p: Any, i: Any, x: Any) -> Any:
        builder.store(convert(builder, x), builder.gep(p, [_as_int64(builder, i)]))

    return types.void, emit


@operation(bool)
def _is_not_null(pointer: Any) -> Any:
    if isinstance(pointer, Pointer):
        return types.boolean, lambda builder, p: builder.icmp_unsigned("!=", p, ir.Constant(p.type, None))
    return None


def conversion(given: Any, wanted: Any) -> Any:
    """A function (builder, value) that converts a scalar as C's assignment does."""
    if given == wanted:
        return lambda builder, x: x
    to = _memory_type(wanted)
    if isinstance(wanted, Pointer):
        if isinstance(given, Pointer):
            return lambda builder, x: builder.bitcast(x, to)
        return lambda builder, x: builder.inttoptr(x, to)
    if isinstance(wanted, types.Float):
        if isinstance(given, types.Float):
            narrower = wanted.bitwidth < given.bitwidth
            return lambda builder, x: builder.fptrunc(x, to) if narrower else builder.fpext(x, to)
        if given.signed:
            return lambda builder, x: builder.sitofp(x, to)
        return lambda builder, x: builder.uitofp(x, to)
    if isinstance(given, types.Float):
        return lambda builder, x: builder.fptosi(x, to)
    if wanted.bitwidth < given.bitwidth:
        return lambda builder, x: builder.trunc(x, to)
    if wanted.bitwidth == given.bitwidth:
        return lambda builder, x: x
    return lambda builder, x: builder.sext(x, to) if given.signed else builder.zext(x, to)


def real_of(like: Any) -> Any:
    """The type of the reals that a value is of or leads to."""
    if isinstance(like, Pointer):
        return like.target
    return getattr(like, "element", like)


@primitive
def as_real(x: Any, like: Any) -> Any:
    """A scalar in the dtype of ``like``: C's (real)x."""
    convert = conversion(x, real_of(like))
    return real_of(like), lambda builder, value, _: convert(builder, value)


@primitive
def as_double(x: Any) -> Any:
    convert = conversion(x, types.float64)
    return types.float64, convert


@primitive
def as_integer(x: Any) -> Any:
    convert = conversion(x, types.int64)
    return types.int64, convert


@primitive
def as_address(pointer: Any) -> Any:
    return types.int64, lambda builder, p: builder.ptrtoint(p, INT64)


@primitive
def pick(condition: Any, yes: Any, no: Any) -> Any:
    """condition ? yes : no, where these are module constants: Numba gives a name that is assigned one the type of its
    value."""
    return (yes, lambda builder, c, x, y: builder.select(c, x, y)) if yes == no else None


@primitive
def null_like(pointer: Any) -> Any:
    return pointer, lambda builder, p: ir.Constant(p.type, None)


@primitive
def is_set(pointer: Any) -> Any:
    """Whether a pointer is not null."""
    return types.boolean, lambda builder, p: builder.icmp_unsigned("!=", p, ir.Constant(p.type, None))


def _read_as(target: Any) -> Any:
    def define(place: Any) -> Any:
        def emit(builder: ir.IRBuilder, p: Any) -> Any:
            return builder.load(builder.bitcast(p, _memory_type(target).as_pointer()))

        return target, emit

    return primitive(define)


float32_at = _read_as(types.float32)
float64_at = _read_as(types.float64)
int64_at = _read_as(types.int64)


@primitive
def reals_at(place: Any, like: Any) -> Any:
    """A pointer to reals of the dtype of ``like``."""
    wanted = Pointer(real_of(like))
    convert = conversion(place, wanted)
    return wanted, lambda builder, p, _: convert(builder, p)


@primitive
def doubles_at(place: Any) -> Any:
    wanted = Pointer(types.float64)
    return wanted, conversion(place, wanted)


@primitive
def integers_at(place: Any) -> Any:
    wanted = Pointer(types.int64)
    return wanted, conversion(place, wanted)


@primitive
def size_of_real(like: Any) -> Any:
    size = real_of(like).bitwidth // 8
    return types.int64, lambda builder, _: INT64(size)


@primitive
def copy_reals(to: Any, source: Any, n: Any) -> Any:
    """C's memcpy, of n elements."""
    size = to.target.bitwidth // 8

    def emit(builder: ir.IRBuilder, p: Any, q: Any, count: Any) -> Any:
        pointer = BYTE.as_pointer()
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, INT64])
        n_bytes = builder.mul(count, INT64(size))
        builder.call(memcpy, [builder.bitcast(p, pointer), builder.bitcast(q, pointer), n_bytes, ir.IntType(1)(0)])

    return types.void, emit


def _field_pointer(builder: ir.IRBuilder, struct: Struct, p: Any, field: str) -> Any:
    return builder.gep(p, [INT32(0), INT32(struct.place_of(field))])


@typing_registry.register_attr
class _Fields(AttributeTemplate):  # type: ignore[misc]
    key = Pointer

    def generic_resolve(self, pointer: Pointer, field: str) -> Any:
        struct = pointer.target
        if not isinstance(struct, Struct):
            return None
        if struct.trailing and field == struct.trailing[0]:
            return Pointer(struct.trailing[1])
        return struct.fields.get(field)


@lowering_registry.lower_getattr_generic(Pointer)
def _get_field(context: Any, builder: ir.IRBuilder, pointer: Pointer, p: Any, field: str) -> Any:
    struct = pointer.target
    if struct.trailing and field == struct.trailing[0]:
        behind = builder.gep(p, [INT32(1)])
        return builder.bitcast(behind, _memory_type(struct.trailing[1]).as_pointer())
    return builder.load(_field_pointer(builder, struct, p, field))


@lowering_registry.lower_setattr_generic(Pointer)
def _set_field(context: Any, builder: ir.IRBuilder, sig: Any, values: Any, field: str) -> None:
    p, x = values
    struct = sig.args[0].target
    x = conversion(sig.args[1], struct.fields[field])(builder, x)
    builder.store(x, _field_pointer(builder, struct, p, field))


def constructor(struct_of: Callable[[Any], Struct], like: str) -> Any:
    """A primitive that makes a struct on the stack of its kernel, given every field by name.

    ``struct_of(real)`` is the type; the field ``like`` tells the dtype. Given nothing but that, by position, the
    fields are left unset.
    """
    parameters = tuple(struct_of(types.float32).fields)

    def define(*given: Any) -> Any:
        is_unset = len(given) == 1 < len(parameters)
        struct = struct_of(real_of(given[0 if is_unset else parameters.index(like)]))
        conversions = [] if is_unset else [conversion(*pair) for pair in zip(given, struct.fields.values())]

        def emit(builder: ir.IRBuilder, *values: Any) -> Any:
            with builder.goto_entry_block():
                p = builder.alloca(_memory_type(struct))
            for field, convert, x in zip(parameters, conversions, values):
                builder.store(convert(builder, x), _field_pointer(builder, struct, p, field))
            return p

        return Pointer(struct), emit

    return Primitive(define, parameters)


@primitive
def local_copy(pointer: Any) -> Any:
    """A struct on the stack of its kernel, which no store through another pointer changes."""

    def emit(builder: ir.IRBuilder, p: Any) -> Any:
        with builder.goto_entry_block():
            copy = builder.alloca(_memory_type(pointer.target))
        builder.store(builder.load(p), copy)
        return copy

    return pointer, emit


def array_constructor(struct_of: Callable[[Any], Struct], count: int) -> Any:
    """A primitive that makes so many structs, unset, on the stack of its kernel; what it is given tells the dtype."""

    def define(like: Any) -> Any:
        struct = struct_of(real_of(like))

        def emit(builder: ir.IRBuilder, _: Any) -> Any:
            with builder.goto_entry_block():
                return builder.alloca(_memory_type(struct), count)

        return Pointer(struct), emit

    return Primitive(define)
