"""CompiledNet as Numba sees it: an address of its record, from which compiled code reads what to call, and with what.

The code of a function that takes a net as an argument holds no address, so Numba can keep it on disk. One that has a
net as a global holds the address of its record: Numba is told so, and does not keep it. Shapes are checked in compiled
code, everything else at compile time.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba.core import errors, types
from numba.core.imputils import lower_constant
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_builtin,
    models,
    overload_attribute,
    overload_method,
    register_jitable,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import make_array
from numba.np.numpy_support import from_dtype

from fastmlp._jit._function import RECORD, CompiledNet
from fastmlp._version import __version__

# Nets whose address is in compiled code. They stay, as Numba keeps the arrays that are globals.
_constants: list[CompiledNet] = []


class CompiledNetType(types.Type):  # type: ignore[misc]
    """Tells sizes and dtype. The version keeps Numba from running what it compiled for the record of another one."""

    def __init__(self, n_inputs: int, n_outputs: int, real: Any) -> None:
        self.n_inputs = n_inputs
        self.n_outputs = n_outputs
        self.real = real
        super().__init__(f"fastmlp.CompiledNet({n_inputs}, {n_outputs}, {real}, version {__version__})")


@register_model(CompiledNetType)
class _Model(models.OpaqueModel):  # type: ignore[misc]
    """The address of the record."""


@typeof_impl.register(CompiledNet)
def _typeof(net: CompiledNet, _: Any) -> CompiledNetType:
    return CompiledNetType(net.n_inputs, net.n_outputs, from_dtype(net.dtype))


@unbox(CompiledNetType)
def _unbox(_: CompiledNetType, net: Any, c: Any) -> Any:
    """Whoever calls compiled code holds the net meanwhile."""
    number = c.pyapi.object_getattr_string(net, "_record_address")
    address = c.pyapi.long_as_voidptr(number)
    c.pyapi.decref(number)
    return NativeValue(address, is_error=c.pyapi.c_api_error())


@lower_constant(CompiledNetType)
def _constant(context: Any, builder: ir.IRBuilder, _: CompiledNetType, net: CompiledNet) -> Any:
    _constants.append(net)
    return context.add_dynamic_addr(builder, net._record_address, info="compiled net")


@overload_attribute(CompiledNetType, "n_inputs")
def _n_inputs(net: Any) -> Callable[[Any], int]:
    n: int = net.n_inputs

    def n_inputs(net: Any) -> int:
        return n

    return n_inputs


@overload_attribute(CompiledNetType, "n_outputs")
def _n_outputs(net: Any) -> Callable[[Any], int]:
    n: int = net.n_outputs

    def n_outputs(net: Any) -> int:
        return n

    return n_outputs


# ---- what is checked


def _require_array(net: CompiledNetType, name: str, given: Any, ndim: int, is_written: bool = False) -> None:
    """At compile time: all but the shape."""
    is_array = isinstance(given, types.Array) and given.aligned and given.ndim == ndim and given.dtype == net.real
    if is_array and not (is_written and not given.mutable):
        return
    wanted = f"a {'writable ' if is_written else ''}{net.real} array of {ndim} dimension{'s' if ndim > 1 else ''}"
    raise errors.TypingError(f"{name} is {given}; this compiled net takes {wanted}")


@register_jitable
def _is_contiguous(array: Any) -> bool:
    step = array.itemsize
    for axis in range(array.ndim - 1, -1, -1):
        if array.shape[axis] > 1 and array.strides[axis] != step:
            return False
        step *= array.shape[axis]
    return True


def _message(name: str, shape: str) -> str:
    return f"{name} has the wrong shape, or is not contiguous; expected {shape}"


# ---- calls


def _call(entry: str) -> Any:
    """An intrinsic f(net, *arrays and numbers) that calls what the record has under ``entry``, and checks nothing."""

    def define(typing_context: Any, net: Any, arguments: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            record = builder.bitcast(values[0], ir.IntType(64).as_pointer())
            places = [builder.gep(record, [ir.IntType(32)(RECORD.index(name))]) for name in (entry, "parameters")]
            function, parameters = map(builder.load, places)
            passed = [parameters]
            for number, kind in enumerate(sig.args[1]):
                value = builder.extract_value(values[1], number)
                if isinstance(kind, types.Array):
                    value = builder.ptrtoint(make_array(kind)(context, builder, value).data, ir.IntType(64))
                passed.append(value)
            signature = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(passed))
            builder.call(builder.inttoptr(function, signature.as_pointer()), passed)
            return context.get_dummy_value()

        return types.void(net, arguments), emit

    return intrinsic(define)


_call_forward, _call_forward_batch, _call_value_and_jacobian = map(_call, RECORD[:3])


@overload_method(CompiledNetType, "__call__")
def _forward(net: Any, x: Any, out: Any) -> Callable[..., None]:
    _require_array(net, "x", x, 1)
    _require_array(net, "out", out, 1, is_written=True)
    n_inputs, n_outputs = net.n_inputs, net.n_outputs
    wrong_x, wrong_out = _message("x", f"({n_inputs},)"), _message("out", f"({n_outputs},)")

    def forward(net: Any, x: Any, out: Any) -> None:
        if x.shape[0] != n_inputs or not _is_contiguous(x):
            raise ValueError(wrong_x)
        if out.shape[0] != n_outputs or not _is_contiguous(out):
            raise ValueError(wrong_out)
        _call_forward(net, (x, out))

    return forward


@lower_builtin(CompiledNetType, CompiledNetType, types.Array, types.Array)
def _lower_call(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
    """Typing takes a call of a net for one of its method, lowering does not."""
    return context.get_function((CompiledNetType, "__call__"), sig)(builder, values)


@overload_method(CompiledNetType, "batch")
def _forward_batch(net: Any, X: Any, out: Any) -> Callable[..., None]:
    _require_array(net, "X", X, 2)
    _require_array(net, "out", out, 2, is_written=True)
    n_inputs, n_outputs = net.n_inputs, net.n_outputs
    wrong_X, wrong_out = _message("X", f"(n, {n_inputs})"), _message("out", f"(n, {n_outputs}), n as X has")

    def forward_batch(net: Any, X: Any, out: Any) -> None:
        if X.shape[1] != n_inputs or not _is_contiguous(X):
            raise ValueError(wrong_X)
        if out.shape[0] != X.shape[0] or out.shape[1] != n_outputs or not _is_contiguous(out):
            raise ValueError(wrong_out)
        _call_forward_batch(net, (X, X.shape[0], out))

    return forward_batch


@overload_method(CompiledNetType, "value_and_jacobian")
def _value_and_jacobian(net: Any, x: Any, out: Any, J: Any) -> Callable[..., None]:
    _require_array(net, "x", x, 1)
    _require_array(net, "out", out, 1, is_written=True)
    _require_array(net, "J", J, 2, is_written=True)
    n_inputs, n_outputs = net.n_inputs, net.n_outputs
    wrong_x, wrong_out = _message("x", f"({n_inputs},)"), _message("out", f"({n_outputs},)")
    wrong_J = _message("J", f"({n_outputs}, {n_inputs})")

    def value_and_jacobian(net: Any, x: Any, out: Any, J: Any) -> None:
        if x.shape[0] != n_inputs or not _is_contiguous(x):
            raise ValueError(wrong_x)
        if out.shape[0] != n_outputs or not _is_contiguous(out):
            raise ValueError(wrong_out)
        if J.shape[0] != n_outputs or J.shape[1] != n_inputs or not _is_contiguous(J):
            raise ValueError(wrong_J)
        _call_value_and_jacobian(net, (x, out, J))

    return value_and_jacobian
