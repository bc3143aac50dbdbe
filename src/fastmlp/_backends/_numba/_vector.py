"""Vectors of one instruction set and one dtype: types, loads, and the few operations that Python has no operator for.

As csrc/vector.h. A comparison gives an integer vector, all ones or zero in each lane. A scalar beside a vector is
rounded to the vector's element and stands in every lane. ``like`` is anything that tells the dtype: a scalar of it,
a vector, or a pointer.
"""

import operator
from functools import partial
from typing import Any

import llvmlite.ir as ir
from numba.core import types
from numba.core.datamodel import models, register_default

from fastmlp._backends._numba._compiler import inline, operation, primitive
from fastmlp._backends._numba._memory import BYTE, INT32, INT64, SCALARS, Pointer, conversion, real_of
from fastmlp._backends._numba._target import current_target

_BIT = ir.IntType(1)


class Vector(types.Type):  # type: ignore[misc]
    """VECTOR_BYTES of the current target, or as many lanes as given, of one element type."""

    def __init__(self, element: Any, lanes: int = 0) -> None:
        self.element = element
        self.lanes = lanes or current_target().vector_bytes * 8 // element.bitwidth
        self.llvm = ir.VectorType(SCALARS[element], self.lanes)
        super().__init__(f"Vector({element}, {self.lanes})")

    @property
    def is_real(self) -> bool:
        return isinstance(self.element, types.Float)

    @property
    def integers(self) -> "Vector":
        """What csrc/vector.h calls ivector."""
        return Vector(types.int32 if self.element.bitwidth == 32 else types.int64, self.lanes)

    @property
    def naturals(self) -> "Vector":
        """What csrc/elementary.h calls nvector."""
        return Vector(types.uint32 if self.element.bitwidth == 32 else types.uint64, self.lanes)

    @property
    def reals(self) -> "Vector":
        return Vector(types.float32 if self.element.bitwidth == 32 else types.float64, self.lanes)


def _vector_like(like: Any) -> Vector:
    return like if isinstance(like, Vector) else Vector(real_of(like))


def _line_of(real: Any) -> Vector:
    """64 bytes, whatever the target: LLVM makes one or several vectors of it."""
    return Vector(real, 512 // real.bitwidth)


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


def spread(builder: ir.IRBuilder, x: Any, vector: Any) -> Any:
    """A scalar in every lane, as LLVM IR."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, x, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, vector.count), None))


def call_intrinsic(builder: ir.IRBuilder, name: str, *operands: Any) -> Any:
    """An LLVM intrinsic on operands of one type."""
    kind = operands[0].type
    element, lanes = (kind.element, f"v{kind.count}") if isinstance(kind, ir.VectorType) else (kind, "")
    name += f".{lanes}{'f32' if isinstance(element, ir.FloatType) else 'f64'}"
    function = builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind] * len(operands)))
    return builder.call(function, operands)


def emit_multiply_add(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the target has FMA."""
    if current_target().has_fma:
        return call_intrinsic(builder, "llvm.fma", a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


@inline
def smaller(a: int, b: int) -> int:
    return a if a < b else b


@inline
def whole_vectors(n: int, like: Any) -> int:
    return (n + lanes(like) - 1) // lanes(like)


@inline
def part_of(n: int, parts: int, i: int, unit: int) -> tuple[int, int]:
    """Part i of n things: equal parts of whole units."""
    if parts == 1:
        return 0, n  # divisions take 10 to 20 cycles each
    units = (n + unit - 1) // unit
    return smaller(n, units * i // parts * unit), smaller(n, units * (i + 1) // parts * unit)


# ---- lanes


@primitive
def lanes(like: Any) -> Any:
    """LANES"""
    count = Vector(real_of(like)).lanes
    return types.int64, lambda builder, _: INT64(count)


@primitive
def line_lanes(like: Any) -> Any:
    """LINE_LANES"""
    count = 512 // real_of(like).bitwidth
    return types.int64, lambda builder, _: INT64(count)


@primitive
def is_single(like: Any) -> Any:
    """REAL_BITS == 32"""
    single = real_of(like) == types.float32
    return types.boolean, lambda builder, _: _BIT(single)


@primitive
def mantissa_bits(like: Any) -> Any:
    """MANTISSA_BITS"""
    count = 23 if real_of(like) in (types.float32, types.int32, types.uint32) else 52
    return types.int64, lambda builder, _: INT64(count)


@primitive
def has_fma() -> Any:
    """HAS_FMA"""
    present = current_target().has_fma
    return types.boolean, lambda builder: _BIT(present)


def _number(written: Any) -> float:
    """A number, or one in C's hexadecimal notation."""
    return float.fromhex(written.rstrip("f")) if isinstance(written, str) else float(written)


def constant(single: Any, double: Any) -> Any:
    """A primitive: c(like) is the vector of a constant that differs with the dtype."""

    def define(like: Any) -> Any:
        vector = _vector_like(like)
        value = _number(single if vector.element == types.float32 else double)
        return vector, lambda builder, _: ir.Constant(vector.llvm, [value] * vector.lanes)

    return primitive(define)


def _horner(builder: ir.IRBuilder, x: Any, coefficients: list[Any]) -> Any:
    """Coefficients from the highest degree down."""
    total = coefficients[0]
    for coefficient in coefficients[1:]:
        total = emit_multiply_add(builder, total, x, coefficient)
    return total


def polynomial(single: tuple[str, ...], double: tuple[str, ...]) -> Any:
    """A primitive: p(x). A long polynomial goes in two parts side by side, high x^4 + low or high x^8 + low."""

    def define(x: Any) -> Any:
        written = single if x.element == types.float32 else double
        coefficients = [ir.Constant(x.llvm, [_number(one)] * x.lanes) for one in written]
        count = len(coefficients)
        n_high = count - (8 if count > 16 else 4)

        def emit(builder: ir.IRBuilder, value: Any) -> Any:
            if count <= 6:
                return _horner(builder, value, coefficients)
            square = builder.fmul(value, value)
            fourth = builder.fmul(square, square)
            power = builder.fmul(fourth, fourth) if count > 16 else fourth
            high = _horner(builder, value, coefficients[:n_high])
            return emit_multiply_add(builder, high, power, _horner(builder, value, coefficients[n_high:]))

        return x, emit

    return primitive(define)


# ---- memory


def _pointer_to_vector(builder: ir.IRBuilder, p: Any, vector: Vector) -> Any:
    return builder.bitcast(p, vector.llvm.as_pointer())


def _load(vector: Vector, alignment: int) -> Any:
    def emit(builder: ir.IRBuilder, p: Any) -> Any:
        return builder.load(_pointer_to_vector(builder, p, vector), align=alignment)

    return vector, emit


def _store(vector: Vector, alignment: int) -> Any:
    def emit(builder: ir.IRBuilder, p: Any, x: Any) -> Any:
        builder.store(x, _pointer_to_vector(builder, p, vector), align=alignment)

    return types.void, emit


@primitive
def load(pointer: Any) -> Any:
    return _load(Vector(pointer.target), current_target().vector_bytes)


@primitive
def load_loose(pointer: Any) -> Any:
    return _load(Vector(pointer.target), pointer.target.bitwidth // 8)


@primitive
def load_part(pointer: Any, n: Any) -> Any:
    """The first n lanes from memory, zero in the others: nothing beyond is read."""
    vector = Vector(pointer.target)

    def emit(builder: ir.IRBuilder, p: Any, count: Any) -> Any:
        numbers = ir.Constant(ir.VectorType(INT64, vector.lanes), list(range(vector.lanes)))
        inside = builder.icmp_signed("<", numbers, spread(builder, count, numbers.type))
        kind = ir.FunctionType(vector.llvm, [vector.llvm.as_pointer(), INT32, inside.type, vector.llvm])
        name = f"llvm.masked.load.v{vector.lanes}f{pointer.target.bitwidth}.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        alignment = INT32(pointer.target.bitwidth // 8)
        return builder.call(function, [_pointer_to_vector(builder, p, vector), alignment, inside, vector.llvm(None)])

    return vector, emit


@primitive
def load_line(pointer: Any) -> Any:
    return _load(_line_of(pointer.target), 64)


@primitive
def store(pointer: Any, vector: Any) -> Any:
    return _store(vector, current_target().vector_bytes) if vector == Vector(pointer.target) else None


@primitive
def store_loose(pointer: Any, vector: Any) -> Any:
    return _store(vector, pointer.target.bitwidth // 8) if vector == Vector(pointer.target) else None


@primitive
def prefetch(pointer: Any) -> Any:
    return types.void, emit_prefetch


@primitive
def prefetch_for_later(pointer: Any) -> Any:
    """Into the second cache."""
    return types.void, partial(emit_prefetch, locality=2)


def emit_prefetch(builder: ir.IRBuilder, p: Any, locality: int = 3) -> Any:
    pointer = BYTE.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
    builder.call(function, [builder.bitcast(p, pointer), INT32(0), INT32(locality), INT32(1)])  # read, data


# ---- lines


@primitive
def line_of(x: Any, like: Any) -> Any:
    """A line with x, rounded to the dtype of ``like``, in every element."""
    line = _line_of(real_of(like))
    convert = conversion(x, line.element)
    return line, lambda builder, value, _: spread(builder, convert(builder, value), line.llvm)


@primitive
def line_buffer(like: Any) -> Any:
    """A place for a line on the stack of its kernel, all zero."""
    line = _line_of(real_of(like))

    def emit(builder: ir.IRBuilder, _: Any) -> Any:
        with builder.goto_entry_block():
            p = builder.alloca(line.llvm)
            p.align = 64
        builder.store(ir.Constant(line.llvm, None), p, align=64)
        return builder.bitcast(p, SCALARS[line.element].as_pointer())

    return Pointer(line.element), emit


@primitive
def line_sum(line: Any) -> Any:
    """The sum of a line: the upper half is added to the lower half until one element is left."""

    def emit(builder: ir.IRBuilder, total: Any) -> Any:
        undefined = ir.Constant(total.type, ir.Undefined)
        width = line.lanes // 2
        while width:
            halves = [
                builder.shuffle_vector(total, undefined, ir.Constant(ir.VectorType(INT32, width), list(which)))
                for which in (range(width), range(width, 2 * width))
            ]
            total = builder.fadd(*halves)
            undefined = ir.Constant(total.type, ir.Undefined)
            width //= 2
        return builder.extract_element(total, INT32(0))

    return line.element, emit


# ---- vectors from scalars and bits


@primitive
def splat(x: Any, like: Any) -> Any:
    """x in every lane, of the dtype of ``like``."""
    vector = _vector_like(like)
    convert = conversion(x, vector.element)
    return vector, lambda builder, value, _: spread(builder, convert(builder, value), vector.llvm)


@primitive
def splat_integer(x: Any, like: Any) -> Any:
    vector = Vector(real_of(like)).integers
    convert = conversion(x, vector.element)
    return vector, lambda builder, value, _: spread(builder, convert(builder, value), vector.llvm)


@primitive
def lane_numbers(like: Any) -> Any:
    """0, 1, 2, ..."""
    vector = Vector(real_of(like)).integers
    return vector, lambda builder, _: ir.Constant(vector.llvm, list(range(vector.lanes)))


@primitive
def bits_of(x: Any) -> Any:
    return x.integers, lambda builder, value: builder.bitcast(value, x.integers.llvm)


@primitive
def naturals_of(x: Any) -> Any:
    """The bits as unsigned integers."""
    return x.naturals, lambda builder, value: builder.bitcast(value, x.naturals.llvm)


@primitive
def from_bits(x: Any) -> Any:
    return x.reals, lambda builder, value: builder.bitcast(value, x.reals.llvm)


@primitive
def largest_lane(x: Any) -> Any:
    """The largest lane, compared from the first on."""

    def emit(builder: ir.IRBuilder, value: Any) -> Any:
        top = builder.extract_element(value, INT32(0))
        for i in range(1, x.lanes):
            lane = builder.extract_element(value, INT32(i))
            top = builder.select(builder.fcmp_ordered(">", lane, top), lane, top)
        return top

    return x.element, emit


# ---- operators


def _operands(a: Any, b: Any) -> Any:
    """The vector type of an operation, and what brings both operands to it."""
    vector = a if isinstance(a, Vector) else b
    if not isinstance(vector, Vector):
        return None

    def convert(given: Any) -> Any:
        if given == vector:
            return lambda builder, x: x
        if not isinstance(given, types.Number):
            return None
        to_element = conversion(given, vector.element)
        return lambda builder, x: spread(builder, to_element(builder, x), vector.llvm)

    left, right = convert(a), convert(b)
    return (vector, left, right) if left and right else None


def _arithmetic(real_name: str | None, integer_name: str | None, *operators: Any) -> None:
    def define(a: Any, b: Any) -> Any:
        found = _operands(a, b)
        if found is None:
            return None
        vector, left, right = found
        name = real_name if vector.is_real else integer_name
        if name is None:
            return None
        return vector, lambda builder, x, y: getattr(builder, name)(left(builder, x), right(builder, y))

    operation(*operators)(define)


_arithmetic("fadd", "add", operator.add, operator.iadd)
_arithmetic("fsub", "sub", operator.sub, operator.isub)
_arithmetic("fmul", "mul", operator.mul, operator.imul)
_arithmetic("fdiv", None, operator.truediv, operator.itruediv)
_arithmetic(None, "and_", operator.and_, operator.iand)
_arithmetic(None, "or_", operator.or_, operator.ior)
_arithmetic(None, "xor", operator.xor, operator.ixor)
_arithmetic(None, "shl", operator.lshift)


@operation(operator.rshift)
def _shift_right(a: Any, b: Any) -> Any:
    found = _operands(a, b)
    if found is None or found[0].is_real:
        return None
    vector, left, right = found

    def emit(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
        shift = builder.ashr if vector.element.signed else builder.lshr
        return shift(left(builder, x), right(builder, y))

    return vector, emit


def _comparison(sign: str, compare: Any) -> None:
    def define(a: Any, b: Any) -> Any:
        found = _operands(a, b)
        if found is None:
            return None
        vector, left, right = found

        def emit(builder: ir.IRBuilder, x: Any, y: Any) -> Any:
            if vector.is_real:
                # != alone is true of NaN
                by = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
            else:
                by = builder.icmp_signed if vector.element.signed else builder.icmp_unsigned
            return builder.sext(by(sign, left(builder, x), right(builder, y)), vector.integers.llvm)

        return vector.integers, emit

    operation(compare)(define)


_comparison("<", operator.lt)
_comparison("<=", operator.le)
_comparison(">", operator.gt)
_comparison(">=", operator.ge)
_comparison("==", operator.eq)
_comparison("!=", operator.ne)


@operation(operator.neg)
def _negative(a: Any) -> Any:
    if not isinstance(a, Vector):
        return None
    return a, lambda builder, x: builder.fneg(x) if a.is_real else builder.neg(x)


@operation(operator.invert)
def _inverse(a: Any) -> Any:
    if not isinstance(a, Vector) or a.is_real:
        return None
    return a, lambda builder, x: builder.not_(x)


# ---- what Python has no operator for


@primitive
def multiply_add(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the target has FMA. Of vectors, or of scalars of one dtype."""
    return (a, emit_multiply_add) if a == b == c else None


@primitive
def square_root(x: Any) -> Any:
    return x, lambda builder, value: call_intrinsic(builder, "llvm.sqrt", value)


@primitive
def choose(condition: Any, yes: Any, no: Any) -> Any:
    """Lane by lane: condition ? yes : no. A condition is what a comparison of two vectors gives."""
    if yes != no or condition != yes.integers:
        return None

    def emit(builder: ir.IRBuilder, c: Any, x: Any, y: Any) -> Any:
        return builder.select(builder.icmp_signed("<", c, ir.Constant(c.type, None)), x, y)

    return yes, emit


@primitive
def apart(x: Any) -> Any:
    """The same vector, which LLVM does not know to be what was loaded.

    Of ``store(p, choose(condition, y, load(p)))`` it makes a masked store: about 10 cycles on a Zen 3 under AVX2.
    """
    return x, lambda builder, value: call_intrinsic(builder, "llvm.arithmetic.fence", value)


@inline
def at_most(x: Any, bound: Any) -> Any:
    """The order of operands decides what a NaN in x becomes: here, as in at_least, it stays."""
    return choose(x > bound, bound, x)


@inline
def at_least(x: Any, bound: Any) -> Any:
    return choose(x < bound, bound, x)


@primitive
def absolute(x: Any) -> Any:
    return x, lambda builder, value: call_intrinsic(builder, "llvm.fabs", value)


@primitive
def with_sign_of(magnitude: Any, sign: Any) -> Any:
    """The magnitude of one, the sign of the other."""
    return magnitude, lambda builder, x, y: call_intrinsic(builder, "llvm.copysign", x, y)


def _zip(builder: ir.IRBuilder, a: Any, b: Any) -> list[Any]:
    """a0 b0 a1 b1 ... of the lower, and of the upper, halves of two vectors."""
    lanes = a.type.count
    order = [half * lanes // 2 + i // 2 + i % 2 * lanes for half in range(2) for i in range(lanes)]
    masks = [ir.Constant(ir.VectorType(INT32, lanes), part) for part in (order[:lanes], order[lanes:])]
    return [builder.shuffle_vector(a, b, mask) for mask in masks]


def _transpose(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """Rows become columns: each round of zips moves one more bit of the lane's number into the row's."""
    half = len(rows) // 2
    for _ in range(len(rows).bit_length() - 1):
        rows = [zipped for i in range(half) for zipped in _zip(builder, rows[i], rows[i + half])]
    return rows


@primitive
def transpose_block(source: Any, source_row: Any, count: Any, to: Any, to_row: Any) -> Any:
    """Brings as many rows as there are lanes, one vector of each, into columns; rows from ``count`` on are zero."""
    vector = Vector(source.target)
    alignment = current_target().vector_bytes

    def emit(builder: ir.IRBuilder, p: Any, p_row: Any, n: Any, q: Any, q_row: Any) -> None:
        rows = []
        for i in range(vector.lanes):
            exists = builder.icmp_signed("<", INT64(i), n)
            place = builder.gep(p, [builder.select(exists, builder.mul(p_row, INT64(i)), INT64(0))])
            row = builder.load(_pointer_to_vector(builder, place, vector), align=alignment)
            rows.append(builder.select(exists, row, ir.Constant(vector.llvm, None)))
        for i, row in enumerate(_transpose(builder, rows)):
            place = builder.gep(q, [builder.mul(q_row, INT64(i))])
            builder.store(row, _pointer_to_vector(builder, place, vector), align=alignment)

    return types.void, emit


def _columns_primitive(share: int) -> Any:
    @primitive
    def store_columns(source: Any, source_row: Any, to: Any) -> Any:
        """The first of the columns, one in ``share``, of as many rows as there are lanes. LLVM leaves out the zips that
        no column needs."""
        vector = Vector(source.target)
        alignment = current_target().vector_bytes

        def emit(builder: ir.IRBuilder, p: Any, p_row: Any, q: Any) -> None:
            places = [builder.gep(p, [builder.mul(p_row, INT64(i))]) for i in range(vector.lanes)]
            rows = [builder.load(_pointer_to_vector(builder, place, vector), align=alignment) for place in places]
            for i, column in enumerate(_transpose(builder, rows)[: vector.lanes // share]):
                place = builder.gep(q, [INT64(i * vector.lanes)])
                builder.store(column, _pointer_to_vector(builder, place, vector), align=alignment)

        return types.void, emit

    return store_columns


store_all_columns, store_half_of_columns, store_quarter_of_columns = map(_columns_primitive, (1, 2, 4))
