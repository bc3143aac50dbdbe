"""One net as machine code of its own: every size, offset and activation is a constant, so that a call has nothing to
choose. For _jit, which calls it from compiled code; the engine's kernels (_network.py) serve every net.

The sums are those of csrc/README.md, and so the outputs are the same bits. What is computed lives on the stack: calls
allocate nothing and may run side by side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import llvmlite.ir as ir
from numba.core import cgutils, types

from fastmlp._activations import ACTIVATION_CODES, DERIVATIVE_FROM_INPUT
from fastmlp._architecture import Architecture
from fastmlp._backends._numba._activation import FUNCTIONS
from fastmlp._backends._numba._compiler import compiling, declare, kernel, link
from fastmlp._backends._numba._loss import softmax_row
from fastmlp._backends._numba._memory import BYTE, INT64, SCALARS, Pointer
from fastmlp._backends._numba._structs import IDENTITY, SOFTMAX, Reals
from fastmlp._backends._numba._subnormals import flush_subnormals, restore_mode
from fastmlp._backends._numba._target import Target, find_target, limit, target_machine
from fastmlp._backends._numba._tile_code import MAX_TILE_VECTORS
from fastmlp._backends._numba._vector import (
    Vector,
    emit_multiply_add,
    line_lanes,
    line_of,
    line_sum,
    load_line,
    multiply_add,
    spread,
)
from fastmlp._layout import LINE_BYTES, Layout

FORWARD, FORWARD_BATCH, VALUE_AND_JACOBIAN = NAMES = "forward", "forward_batch", "value_and_jacobian"

# Examples that go through the net together. More of them would use each weight more often, and take more of the stack.
BATCH_ROWS = 12
# Of the stack, for a forward pass, and as much again for a Jacobian. Threads have 512 KB and more.
MOST_SCRATCH_BYTES = 128 * 1024
# Multiply-adds of a tile, and vectors of a loop, that are written out before the loop turns.
UNROLLED_PRODUCTS = 16


@kernel
def softmax_mean(probabilities: Reals, row: Reals, n: int) -> float:
    """sum_j p_j row_j: what softmax's derivative subtracts from each of a row."""
    total = line_of(0, probabilities)
    for j in range(0, n, line_lanes(probabilities)):
        total = multiply_add(load_line(probabilities + j), load_line(row + j), total)
    return line_sum(total)


@kernel
def begin() -> int:
    return flush_subnormals()


@kernel
def end(mode: int) -> None:
    restore_mode(mode)


def code_for(architecture: Architecture) -> "SpecializedCode":
    """The machine code for an architecture; nets that differ in what training alone reads share it."""
    return _code_for(
        replace(architecture, loss="", l1=0.0, l2=0.0, dropout=(0.0,) * len(architecture.activations)),
        find_target(limit()),
    )


@lru_cache(maxsize=64)
def _code_for(architecture: Architecture, target: Target) -> "SpecializedCode":
    return SpecializedCode(architecture, target)


class SpecializedCode:
    """The machine code for one architecture; ``addresses`` has its functions by name while this object lives.

    forward(parameters, x, out), forward_batch(parameters, X, n, out), value_and_jacobian(parameters, x, out, J): every
    array is contiguous, of the net's dtype, and comes as its address; parameters are an arena of the net's layout.
    """

    def __init__(self, architecture: Architecture, target: Target) -> None:
        code = machine_code(architecture, target)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(target))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self.addresses = {name: self._engine.get_function_address(name) for name in NAMES}


def machine_code(architecture: Architecture, target: Target) -> bytes:
    """The object that SpecializedCode loads."""
    with compiling(target):
        emitter = _Emitter(architecture, Layout(architecture.layer_sizes, architecture.dtype))
        emitter.emit()
        return link([str(emitter.module)], emitter.libraries, set(NAMES), target)


class _Layer(NamedTuple):
    """Sizes count elements; ``parameters`` is where the layer's matrix begins in the arena."""

    n_in: int
    n_out: int
    leading: int
    parameters: int
    activation: int
    derivative_from_input: bool


class _Matrix(NamedTuple):
    """Rows in memory, so many elements apart."""

    start: Any
    leading: int


def _even_parts(n: int, most: int) -> list[tuple[int, int]]:
    """n things in as few parts as can be, none of more than ``most``: (size, how many of it), the larger first."""
    parts = -(-n // most)
    size, larger = divmod(n, parts)
    return [(each, count) for each, count in ((size + 1, larger), (size, parts - larger)) if count and each]


class _Emitter:
    """Writes the three functions into ``module``, and gathers the ``libraries`` of the kernels they call."""

    builder: Any

    def __init__(self, architecture: Architecture, layout: Layout) -> None:
        self.module = ir.Module("specialized")
        self.libraries: list[Any] = []
        self._declared: dict[Any, Any] = {}
        self.real = getattr(types, architecture.dtype.name)
        self.vector = Vector(self.real)
        self.lanes = self.vector.lanes
        self.vector_bytes = self.lanes * self.real.bitwidth // 8
        self.registers = 32 if self.vector_bytes == 64 else 16
        self.line = LINE_BYTES * 8 // self.real.bitwidth
        names = (*architecture.activations, architecture.output_activation)
        self.layers = [
            _Layer(n_in, n_out, leading, offset, ACTIVATION_CODES[name], name in DERIVATIVE_FROM_INPUT)
            for n_in, n_out, leading, offset, name in zip(
                layout.layer_sizes, layout.layer_sizes[1:], layout.leading, layout.offsets, names
            )
        ]
        self.n_in, self.n_out = layout.layer_sizes[0], layout.layer_sizes[-1]
        self.widest = max(layout.leading)
        self.batch_rows = min(BATCH_ROWS, self._most(2 * self.widest))

    def _most(self, elements: int) -> int:
        """How many times so many elements the scratch can hold."""
        return MOST_SCRATCH_BYTES * 8 // self.real.bitwidth // elements

    # ---- the three functions

    def emit(self) -> None:
        if not self._most(2 * self.widest + sum(layer.leading for layer in self.layers)):
            widest = max(layer.n_out for layer in self.layers)
            raise ValueError(
                f"a layer of {widest} units is too wide for jit(), whose calls work on the stack, in "
                f"{MOST_SCRATCH_BYTES >> 10} KB; forward has no such limit"
            )
        reals = SCALARS[self.real].as_pointer()
        rows = [self._forward_rows(count) for count in sorted({1, self.batch_rows})]
        one, several = rows[0], rows[-1]
        with self._function(FORWARD, [reals] * 3) as arguments, self._flushing():
            self.builder.call(one, arguments)
        with self._function(FORWARD_BATCH, [reals, reals, INT64, reals]) as (parameters, x, n, out), self._flushing():
            whole = self.builder.sdiv(n, INT64(self.batch_rows))
            self._each(parameters, x, out, several, self.batch_rows, INT64(0), whole)
            self._each(parameters, x, out, one, 1, self.builder.mul(whole, INT64(self.batch_rows)), n)
        with self._function(VALUE_AND_JACOBIAN, [reals] * 4) as arguments, self._flushing():
            self._value_and_jacobian(*arguments)

    @contextmanager
    def _function(self, name: str, arguments: list[Any]) -> Iterator[Any]:
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        yield function.args
        self.builder.ret_void()

    @contextmanager
    def _flushing(self) -> Iterator[None]:
        mode = self._call(begin, ())
        yield
        self._call(end, (types.int64,), mode)

    def _forward_rows(self, rows: int) -> Any:
        """A function (parameters, X, out) that takes so many examples through the net."""
        name = f"rows_{rows}"
        reals = SCALARS[self.real].as_pointer()
        with self._function(name, [reals] * 3) as (parameters, x, out):
            self._forward(rows, parameters, _Matrix(x, self.n_in), out, None)
        function = self.module.get_global(name)
        function.attributes.add("noinline")
        return function

    def _each(self, parameters: Any, x: Any, out: Any, function: Any, rows: int, first: Any, end: Any) -> None:
        """Calls ``function``, which takes so many rows, for places first ... end - 1, counted in its rows."""
        with cgutils.for_range_slice(self.builder, first, end, INT64(1)) as (i, _):
            places = [self._moved(p, self._times(i, rows * n)) for p, n in ((x, self.n_in), (out, self.n_out))]
            self.builder.call(function, [parameters, *places])

    # ---- forward

    def _forward(self, rows: int, parameters: Any, x: _Matrix, out: Any, factors: "list[Any] | None") -> Any:
        """y_hat of some examples into ``out``. With ``factors``, a place for each layer, f'(z) is kept there, but for
        softmax; returns where the last layer's outputs are."""
        buffers = [self._scratch(rows * self.widest) for _ in range(2)]
        for number, layer in enumerate(self.layers):
            z = _Matrix(buffers[number % 2], layer.leading)
            weights = self._moved(parameters, INT64(layer.parameters))
            bias = self._moved(weights, INT64(layer.n_in * layer.leading))
            vectors = -(-layer.n_out // self.lanes)
            self._product(rows, layer.n_in, vectors, x, _Matrix(weights, layer.leading), bias, z)
            self._activate(rows, vectors, layer, z, factors[number] if factors else None)
            x = z
        with self._range(rows) as i:
            to, source = (self._moved(p, self._times(i, n)) for p, n in ((out, self.n_out), x))
            self._copy(to, source, self.n_out)
        return x.start

    def _activate(self, rows: int, vectors: int, layer: _Layer, z: _Matrix, factor: Any) -> None:
        if layer.activation == SOFTMAX:
            with self._range(rows) as i:
                row = self._moved(z.start, self._times(i, z.leading))
                self._call(softmax_row, (Pointer(self.real), types.int64), row, INT64(layer.n_out))
            return
        function, derivative = FUNCTIONS[layer.activation]
        if layer.activation == IDENTITY and factor is None:
            return
        with self._range(rows) as i, self._range(vectors) as j:
            at = self.builder.add(self._times(i, z.leading), self._times(j, self.lanes))
            place = self._moved(z.start, at)
            before = self._load(place)
            output = self._call(function, (self.vector,), before)
            self._store(output, place)
            if factor is not None:
                told_by = before if layer.derivative_from_input else output
                self._store(self._call(derivative, (self.vector,), told_by), self._moved(factor, at))

    # ---- the Jacobian

    def _value_and_jacobian(self, parameters: Any, x: Any, out: Any, jacobian: Any) -> None:
        """In the direction that takes the fewer products: forward from every input, or back from every output, which
        goes by whole vectors of outputs. Both end with rows of inputs by columns of outputs."""
        factors = [self._scratch(layer.leading) for layer in self.layers]
        outputs = self._forward(1, parameters, _Matrix(x, self.n_in), out, factors)
        padded = -(-self.n_out // self.lanes) * self.lanes
        forward = self.n_in * sum(layer.n_in * layer.leading for layer in self.layers[1:])
        backward = padded * sum(layer.n_in * layer.n_out for layer in self.layers[:-1])
        vectors = min(padded // self.lanes, 2, self._most(2 * self.lanes * max(layer.n_in for layer in self.layers)))
        if vectors == 0 or forward <= backward:
            self._jacobian_forward(parameters, factors, outputs, jacobian)
            return
        first = 0
        for size, count in _even_parts(padded // self.lanes, vectors):
            with self._range(count) as part:
                column = self.builder.add(self._times(part, size * self.lanes), INT64(first))
                self._jacobian_backward(parameters, factors, outputs, jacobian, column, size)
            first += size * count * self.lanes

    def _jacobian_forward(self, parameters: Any, factors: list[Any], outputs: Any, jacobian: Any) -> None:
        most = min(BATCH_ROWS, self._most(2 * self.widest))
        buffers = [self._scratch(min(most, self.n_in) * self.widest) for _ in range(2)]
        first = 0
        for rows, count in _even_parts(self.n_in, most):
            with self._range(count) as part:
                unit = self.builder.add(self._times(part, rows), INT64(first))
                layer = self.layers[0]
                at = self.builder.add(self._times(unit, layer.leading), INT64(layer.parameters))
                source = _Matrix(self._moved(parameters, at), layer.leading)
                tangent = _Matrix(buffers[0], layer.leading)
                self._chain(rows, 0, source, factors, outputs, tangent)
                for number, layer in enumerate(self.layers[1:], 1):
                    weights = _Matrix(self._moved(parameters, INT64(layer.parameters)), layer.leading)
                    following = _Matrix(buffers[number % 2], layer.leading)
                    # Softmax reads whole lines, which must not hold what was on the stack before.
                    group = self.line if layer.activation == SOFTMAX else self.lanes
                    vectors = -(-layer.n_out // group) * group // self.lanes
                    self._product(rows, layer.n_in, vectors, tangent, weights, None, following)
                    self._chain(rows, number, following, factors, outputs, following)
                    tangent = following
                self._transposed(rows, INT64(self.n_out), tangent, self._moved(jacobian, unit))
            first += rows * count

    def _chain(self, rows: int, number: int, d: _Matrix, factors: list[Any], outputs: Any, to: _Matrix) -> None:
        """Rows of derivatives of a layer's z become those of its outputs."""
        layer = self.layers[number]
        with self._range(rows) as i:
            source, place = (self._moved(m.start, self._times(i, m.leading)) for m in (d, to))
            self._chain_row(number, source, place, factors, outputs, INT64(0), -(-layer.n_out // self.lanes))

    def _chain_row(
        self, number: int, d: Any, to: Any, factors: list[Any], outputs: Any, column: Any, vectors: int
    ) -> None:
        """Some vectors, from a column on, of one row; ``d`` leads to the whole row."""
        layer = self.layers[number]
        mean = None
        if layer.activation == SOFTMAX:
            pointer = Pointer(self.real)
            total = self._call(softmax_mean, (pointer, pointer, types.int64), outputs, d, INT64(layer.n_out))
            mean = spread(self.builder, total, self.vector.llvm)
        with self._range(vectors) as j:
            at = self.builder.add(column, self._times(j, self.lanes))
            value = self._load(self._moved(d, at))
            if mean is not None:
                value = self.builder.fsub(value, mean)
            slope = self._load(self._moved(outputs if mean is not None else factors[number], at))
            self._store(self.builder.fmul(value, slope), self._moved(to, self._times(j, self.lanes)))

    def _jacobian_backward(
        self, parameters: Any, factors: list[Any], outputs: Any, jacobian: Any, column: Any, vectors: int
    ) -> None:
        """Some vectors of outputs, from a column on: their derivatives by each layer's outputs, layer by layer back.
        Rows are units, so that products are those of forward with the roles of weights and inputs exchanged."""
        width = vectors * self.lanes
        buffers = [self._scratch(max(layer.n_in for layer in self.layers) * width) for _ in range(2)]
        last = len(self.layers) - 1
        layer = self.layers[last]
        weights = self._moved(parameters, INT64(layer.parameters))
        d = _Matrix(buffers[0], width)
        with self._range(layer.n_in) as i:
            row = self._moved(d.start, self._times(i, width))
            source = self._moved(weights, self._times(i, layer.leading))
            self._chain_row(last, source, row, factors, outputs, column, vectors)
            self._scale_row(last - 1, i, row, vectors, factors)
        for number in range(last - 1, -1, -1):
            layer = self.layers[number]
            weights = _Matrix(self._moved(parameters, INT64(layer.parameters)), layer.leading)
            below = _Matrix(buffers[(last - number) % 2], width)
            self._product(layer.n_in, layer.n_out, vectors, weights, d, None, below)
            if number:
                with self._range(layer.n_in) as i:
                    self._scale_row(number - 1, i, self._moved(below.start, self._times(i, width)), vectors, factors)
            d = below
        left = self.builder.sub(INT64(self.n_out), column)
        columns = self.builder.select(self.builder.icmp_signed("<", left, INT64(width)), left, INT64(width))
        self._transposed(self.n_in, columns, d, self._moved(jacobian, self._times(column, self.n_in)))

    def _scale_row(self, number: int, unit: Any, row: Any, vectors: int, factors: list[Any]) -> None:
        """A unit's row times its f'(z); nothing for the inputs, of number -1."""
        if number < 0:
            return
        factor = spread(self.builder, self.builder.load(self._moved(factors[number], unit)), self.vector.llvm)
        for j in range(vectors):
            place = self._moved(row, INT64(j * self.lanes))
            self._store(self.builder.fmul(self._load(place), factor), place)

    def _transposed(self, rows: int, columns: Any, d: _Matrix, jacobian: Any) -> None:
        """Rows of inputs into columns of the Jacobian."""
        with self._range(rows) as i, cgutils.for_range(self.builder, columns) as loop:
            value = self.builder.load(self._moved(d.start, self.builder.add(self._times(i, d.leading), loop.index)))
            self.builder.store(value, self._moved(jacobian, self.builder.add(self._times(loop.index, self.n_in), i)))

    # ---- the product, as in _tile.py

    def _product(self, rows: int, depth: int, vectors: int, a: _Matrix, b: _Matrix, start: Any, c: _Matrix) -> None:
        """c[i][j] = start[j] + sum_k a[i][k] b[k][j], tile by tile; without ``start`` from +0."""
        column = 0
        for width, column_count in _even_parts(vectors, self._tile_vectors(rows)):
            with self._range(column_count) as part:
                at = self.builder.add(self._times(part, width * self.lanes), INT64(column))
                starts = None if start is None else self._moved(start, at)
                row = 0
                for height, row_count in _even_parts(rows, self._tile_rows(width)):
                    with self._range(row_count) as number:
                        i = self.builder.add(self._times(number, height), INT64(row))
                        self._tile(
                            height,
                            width,
                            depth,
                            _Matrix(self._moved(a.start, self._times(i, a.leading)), a.leading),
                            _Matrix(self._moved(b.start, at), b.leading),
                            starts,
                            _Matrix(self._moved(c.start, self.builder.add(self._times(i, c.leading), at)), c.leading),
                        )
                    row += height * row_count
            column += width * column_count * self.lanes

    def _tile_rows(self, vectors: int) -> int:
        """The most rows of a tile of so many vectors: sums fill three quarters of the registers."""
        if vectors == 1:
            return 12
        return max(1, self.registers * 3 // 4 // vectors)

    def _tile_vectors(self, rows: int) -> int:
        """How wide tiles are: few rows want wide ones, since a core needs 8 to 10 dependent sums at once."""
        widest = 3 if self.registers == 32 else 2
        while widest < MAX_TILE_VECTORS and self._tile_rows(widest + 1) >= rows:
            widest += 1
        return widest

    def _tile(self, rows: int, vectors: int, depth: int, a: _Matrix, b: _Matrix, starts: Any, c: _Matrix) -> None:
        cells = [(i, j) for i in range(rows) for j in range(vectors)]
        sums = {cell: cgutils.alloca_once(self.builder, self.vector.llvm) for cell in cells}
        for (_, j), total in sums.items():
            value = ir.Constant(self.vector.llvm, None)
            if starts is not None:
                value = self._load(self._moved(starts, INT64(j * self.lanes)))
            self.builder.store(value, total)

        def step(k: Any) -> None:
            row = [
                self._load(self._moved(b.start, self.builder.add(self._times(k, b.leading), INT64(j * self.lanes))))
                for j in range(vectors)
            ]
            for i in range(rows):
                place = self._moved(a.start, self.builder.add(INT64(i * a.leading), k))
                x = spread(self.builder, self.builder.load(place), self.vector.llvm)
                for j in range(vectors):
                    total = emit_multiply_add(self.builder, x, row[j], self.builder.load(sums[i, j]))
                    self.builder.store(total, sums[i, j])

        unrolled = min(depth, max(1, UNROLLED_PRODUCTS // (rows * vectors)))
        with self._range(depth // unrolled) as turn:
            for k in range(unrolled):
                step(self.builder.add(self._times(turn, unrolled), INT64(k)))
        for k in range(depth - depth % unrolled, depth):
            step(INT64(k))
        for (i, j), total in sums.items():
            self._store(self.builder.load(total), self._moved(c.start, INT64(i * c.leading + j * self.lanes)))

    # ---- small things

    @contextmanager
    def _range(self, count: int) -> Iterator[Any]:
        """A loop; none around what is done once."""
        if count == 1:
            yield INT64(0)
        else:
            with cgutils.for_range(self.builder, INT64(count)) as loop:
                yield loop.index

    def _call(self, callee: Any, args: tuple[Any, ...], *values: Any) -> Any:
        """A call of a kernel."""
        key = (callee, args)
        if key not in self._declared:
            function, result = declare(self.module, callee, args)
            self.libraries.append(result.library)
            self._declared[key] = function
        return self.builder.call(self._declared[key], values)

    def _scratch(self, elements: int) -> Any:
        """A place on the stack, on a line."""
        whole = -(-elements // self.line) * self.line
        with self.builder.goto_entry_block():
            place = self.builder.alloca(SCALARS[self.real], whole)
            place.align = LINE_BYTES
        return place

    def _copy(self, to: Any, source: Any, n: int) -> None:
        pointer = BYTE.as_pointer()
        memcpy = self.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, INT64])
        n_bytes = INT64(n * self.real.bitwidth // 8)
        places = [self.builder.bitcast(place, pointer) for place in (to, source)]
        self.builder.call(memcpy, [*places, n_bytes, ir.IntType(1)(0)])

    def _times(self, i: Any, factor: int) -> Any:
        return self.builder.mul(i, INT64(factor))

    def _moved(self, pointer: Any, elements: Any) -> Any:
        return self.builder.gep(pointer, [elements])

    def _load(self, place: Any) -> Any:
        return self.builder.load(self.builder.bitcast(place, self.vector.llvm.as_pointer()), align=self.vector_bytes)

    def _store(self, value: Any, place: Any) -> None:
        self.builder.store(value, self.builder.bitcast(place, self.vector.llvm.as_pointer()), align=self.vector_bytes)
