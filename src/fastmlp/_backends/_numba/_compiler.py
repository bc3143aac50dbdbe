"""Numba as a front end: kernels are typed and lowered to LLVM IR one by one, linked into a single module, optimized
once and emitted as one object.

Numba's own dispatchers optimize and emit a function again inside each of its callers. Done once, the whole backend
compiles several times faster; and a process that finds the object on disk need not import Numba at all.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import Parameter, Signature
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numba.core.typed_passes as typed
import numba.core.untyped_passes as untyped
from numba.core import callconv, codegen, compiler, cpu, typing
from numba.core import types as types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.imputils import Registry as LoweringRegistry
from numba.core.typing.templates import AbstractTemplate, builtin_registry, signature
from numba.core.typing.templates import Registry as TypingRegistry

from fastmlp._backends._numba._target import Target, compiling_for, current_target, target_machine

typing_registry = TypingRegistry()
lowering_registry = LoweringRegistry("fastmlp")


class _Library(codegen.JITCodeLibrary):  # type: ignore[misc]
    """The IR of one function and the libraries of those it calls; nothing is optimized or emitted here."""

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__(owner, name)
        self.texts: list[str] = []

    def add_ir_module(self, ir_module: ir.Module) -> None:
        self.texts.append(str(ir_module))

    def finalize(self) -> None:
        self._finalized = True

    def add_linking_library(self, library: "_Library") -> None:
        self._linking_libraries.append(library)

    def with_callees(self, seen: "set[_Library]") -> "Iterator[_Library]":
        if self not in seen:
            seen.add(self)
            yield self
            for library in self._linking_libraries:
                yield from library.with_callees(seen)


class _Codegen(codegen.JITCPUCodegen):  # type: ignore[misc]
    _library_class = _Library


@cache
def _builtin_types() -> Any:
    """What Numba knows of integers, floats, tuples and ranges, without what it has as @overload: integrating those
    takes a second."""
    registry = TypingRegistry()
    registry.functions += [one for one in builtin_registry.functions if not hasattr(one, "_overload_func")]
    registry.attributes += [one for one in builtin_registry.attributes if not hasattr(one, "_overload_func")]
    for value, kind in builtin_registry.globals:
        if not any(hasattr(one, "_overload_func") for one in getattr(kind, "templates", ())):
            registry.globals.append((value, kind))
    return registry


class _CallConvention(callconv.BaseCallConv):  # type: ignore[misc]
    """Results come back as values. Numba's own also reports exceptions after each call, which kernels do not raise;
    all those branches take long to compile."""

    def _make_call_helper(self, builder: ir.IRBuilder) -> None:
        return None

    def get_function_type(self, restype: Any, argtypes: tuple[Any, ...]) -> ir.FunctionType:
        result = self.context.data_model_manager[restype].get_return_type()
        return ir.FunctionType(result, list(self._get_arg_packer(argtypes).argument_types))

    def decorate_function(self, fn: ir.Function, args: Any, fe_argtypes: Any, noalias: bool = False) -> None:
        """Nothing to say of arguments."""

    def get_arguments(self, func: ir.Function) -> Any:
        return func.args

    def return_value(self, builder: ir.IRBuilder, retval: Any) -> None:
        builder.ret(retval)

    def return_user_exc(self, builder: ir.IRBuilder, *args: Any, **kwargs: Any) -> None:
        builder.unreachable()

    def call(self, builder: ir.IRBuilder, callee: ir.Function, restype: Any, argtypes: Any, args: Any) -> Any:
        packed = self._get_arg_packer(argtypes).as_arguments(builder, args)
        return self.context.get_returned_value(builder, restype, builder.call(callee, packed))


class _TypingContext(typing.Context):  # type: ignore[misc]
    """Remembers what it has resolved: the few operations of kernels come again and again."""

    def __init__(self) -> None:
        self._resolved: dict[Any, Any] = {}
        super().__init__()

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        if kws:
            return super().resolve_function_type(func, args, kws)
        key = (func, tuple(args))
        if key not in self._resolved:
            found = super().resolve_function_type(func, args, kws)
            if found is None:
                return None
            self._resolved[key] = found
        return self._resolved[key]

    def _load_builtins(self) -> None:
        self.install_registry(_builtin_types())

    def load_additional_registries(self) -> None:
        self.install_registry(typing_registry)


class _TargetContext(cpu.CPUContext):  # type: ignore[misc]
    def init(self) -> None:
        super().init()
        self._internal_codegen = _Codegen("fastmlp")

    @property
    def call_conv(self) -> _CallConvention:
        return _CallConvention(self)

    def load_additional_registries(self) -> None:
        from numba.cpython import builtins, numbers, rangeobj, tupleobj  # noqa: F401

        self.install_registry(lowering_registry)

    def post_lowering(self, mod: Any, library: Any) -> None:
        """Kernels count no references, so Numba's runtime is not linked."""

    def get_executable(self, library: Any, fndesc: Any, env: Any) -> object:
        """Nothing runs yet: only a key for this function."""
        return object()


class _Pipeline(compiler.CompilerBase):  # type: ignore[misc]
    """Numba's passes without those for closures, literals, context managers and arrays, which kernels do not use."""

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("fastmlp")
        for step in (
            untyped.TranslateByteCode,
            untyped.FixupArgs,
            untyped.IRProcessing,
            typed.NopythonTypeInference,
            typed.NativeLowering,
            typed.NoPythonBackend,
        ):
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


def _flags(forceinline: bool) -> Any:
    flags = compiler.Flags()
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_rewrites = True
    flags.enable_ssa = False  # a name has one type in a kernel
    flags.error_model = "numpy"  # kernels never raise
    flags.forceinline = forceinline
    return flags


class _Contexts:
    """Numba's tables of what is known and how it is lowered, built at the first compilation."""

    def __init__(self) -> None:
        self.typing = _TypingContext()
        self.target = _TargetContext(self.typing, "cpu")


@cache
def _contexts_of(target: Target) -> _Contexts:
    return _Contexts()


def contexts() -> _Contexts:
    """Those of the current target: what a vector is differs from one to the next."""
    return _contexts_of(current_target())


class Kernel:
    """A function that kernels may call, compiled for the types it is called with."""

    def __init__(self, function: Callable[..., Any], is_inline: bool) -> None:
        self.function = function
        self.is_inline = is_inline
        self.compiled: dict[tuple[Any, ...], Any] = {}
        kernel = self

        class Template(AbstractTemplate):  # type: ignore[misc]
            key = self

            def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
                return None if kws else kernel.compile(args).signature

        typing_registry.globals.append((self, types.Function(Template)))

    def __repr__(self) -> str:
        return f"kernel {self.function.__name__}"

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.function.__name__} can be called from kernels alone")

    def compile(self, args: tuple[Any, ...]) -> Any:
        """The function typed and lowered for some argument types."""
        args = tuple(types.unliteral(arg) for arg in args)
        known = contexts()
        key = (known, args)
        if key not in self.compiled:
            result = compiler.compile_extra(
                known.typing,
                known.target,
                self.function,
                args,
                None,
                _flags(self.is_inline),
                {},
                pipeline_class=_Pipeline,
            )
            known.target.insert_func_defn([(_call_of(result), self, args)])
            self.compiled[key] = result
        return self.compiled[key]


def _call_of(result: Any) -> Any:
    """What emits a call of a compiled kernel."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        callee = context.declare_function(builder.module, result.fndesc)
        return context.call_conv.call(builder, callee, sig.return_type, sig.args, args)

    emit.libs = (result.library,)  # type: ignore[attr-defined]
    emit.__signature__ = _LOWERED  # type: ignore[attr-defined]
    return emit


def kernel(function: Callable[..., Any]) -> Any:
    """What C calls ``static``."""
    return Kernel(function, is_inline=False)


def inline(function: Callable[..., Any]) -> Any:
    """What csrc/vector.h calls INLINE."""
    return Kernel(function, is_inline=True)


class Primitive:
    """An operation given as LLVM IR.

    ``define(*types)`` returns the type of the result and a function (builder, *values) that emits it, or None for
    types that it is not for. With ``parameters`` it may be called by keyword.
    """

    def __init__(self, define: Callable[..., Any], parameters: tuple[str, ...] = ()) -> None:
        self.__name__ = define.__name__
        typing_registry.globals.append((self, types.Function(template_of(self, define, parameters))))

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.__name__} can be called from kernels alone")


# Numba asks for the signature of what it calls each time, and working it out takes a while.
_LOWERED = Signature([Parameter(name, Parameter.POSITIONAL_ONLY) for name in ("context", "builder", "sig", "args")])


def template_of(key: Any, define: Callable[..., Any], parameters: tuple[str, ...] = ()) -> Any:
    """A typing template for ``define``; what emits it is found under ``key`` and the types."""
    signatures: dict[tuple[Any, ...], Any] = {}
    pysig = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in parameters])

    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            by_name = bool(kws)
            if by_name:
                args = pysig.bind(*args, **kws).args
            args = tuple(types.unliteral(arg) for arg in args)
            known = contexts()
            at = (known, args)
            if at not in signatures:
                found = define(*args)
                if found is None:
                    return None
                result, emit = found

                def lowered(context: Any, builder: Any, sig: Any, values: Any) -> Any:
                    return emit(builder, *values)

                lowered.__signature__ = _LOWERED  # type: ignore[attr-defined]
                known.target.insert_func_defn([(lowered, key, args)])
                signatures[at] = signature(result, *args)
                if by_name:
                    signatures[at] = signatures[at].replace(pysig=pysig)
            return signatures[at]

    Template.key = key
    return Template


def primitive(define: Callable[..., Any]) -> Any:
    return Primitive(define)


def operation(*operators: Any) -> Callable[[Callable[..., Any]], Any]:
    """The same as an overload of Python's operators."""

    def register(define: Callable[..., Any]) -> Any:
        for operator in operators:
            typing_registry.register_global(operator)(template_of(operator, define))
        return define

    return register


_tables: dict[str, Callable[[str], str]] = {}


def call_of_table(builder: ir.IRBuilder, name: str, code: Callable[[str], str], number: Any, operand: Any) -> None:
    """Emits a call of function ``number`` of a table with a pointer. ``code(name)`` is the IR of the table and of its
    functions, which is linked as it stands."""
    _tables[name] = code
    pointer = ir.IntType(8).as_pointer()
    kind = ir.ArrayType(ir.FunctionType(ir.VoidType(), [pointer]).as_pointer(), 0)
    try:
        table = builder.module.get_global(name)
    except KeyError:
        table = ir.GlobalVariable(builder.module, kind, name)
    function = builder.load(builder.gep(table, [ir.IntType(64)(0), number]))
    builder.call(function, [builder.bitcast(operand, pointer)])


class Entry(NamedTuple):
    """A kernel that Python calls: under its name, with C's calling convention, pointers being addresses."""

    name: str
    kernel: Kernel
    args: tuple[Any, ...]


def declare(module: ir.Module, kernel: Kernel, args: tuple[Any, ...]) -> tuple[Any, Any]:
    """A kernel, compiled for some argument types, as a function of an IR module, and the result of its compilation.

    Its values are passed as they are but for tuples, which the calling convention unpacks.
    """
    result = kernel.compile(args)
    restype, argtypes = result.signature.return_type, result.signature.args
    kind = contexts().target.call_conv.get_function_type(restype, argtypes)
    return ir.Function(module, kind, result.fndesc.llvm_func_name), result


def _entry_module(entry: Entry) -> tuple[_Library, str]:
    """The library that holds the kernel, and the IR of a C function around it."""
    module = ir.Module(entry.name)
    callee, result = declare(module, entry.kernel, entry.args)
    context = contexts().target
    restype, argtypes = result.signature.return_type, result.signature.args
    is_void = restype == types.void
    c_type = ir.FunctionType(
        ir.VoidType() if is_void else context.get_value_type(restype),
        [context.get_value_type(argument) for argument in argtypes],
    )
    function = ir.Function(module, c_type, entry.name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    value = context.call_conv.call(builder, callee, restype, argtypes, function.args)
    if is_void:
        builder.ret_void()
    else:
        builder.ret(value)
    return result.library, str(module)


def emit_object(entries: list[Entry], target: Target) -> bytes:
    """The entries and all they call as one object for ``target``."""
    with compiling(target):
        modules = [_entry_module(entry) for entry in entries]
        names = {entry.name for entry in entries}
        return link([text for _, text in modules], [library for library, _ in modules], names, target)


def link(texts: list[str], libraries: "list[_Library]", names: set[str], target: Target) -> bytes:
    """Modules of IR and the libraries that they call, optimized together; ``names`` can be found in the object."""
    seen: set[_Library] = set()
    texts = texts + [text for library in libraries for each in library.with_callees(seen) for text in each.texts]
    machine = target_machine(target)
    module = llvm.parse_assembly("")
    for text in texts:
        module.link_in(llvm.parse_assembly(text))
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    _hide_all_but(names, module)
    module.verify()
    _optimize(module, machine)
    for name in {value.name for value in module.global_variables if value.is_declaration} & _tables.keys():
        module.link_in(llvm.parse_assembly(_tables[name](name)))
    return bytes(machine.emit_object(module))


@contextmanager
def compiling(target: Target) -> Iterator[None]:
    """What has to hold while kernels are compiled and linked."""
    with global_compiler_lock, compiling_for(target), _without_garbage_collection():
        yield


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Compiling makes so many objects, most of which live on, that collecting takes an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _hide_all_but(names: set[str], module: Any) -> None:
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name not in names:
            value.linkage = "internal"


def _optimize(module: Any, machine: Any) -> None:
    """LLVM's -O3 without vectorizing and unrolling: kernels are written in vectors, and unrolled, where it matters."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
