"""Functions written as LLVM IR, for inner loops that are best as they stand: from loops in Python LLVM keeps sums in
memory, and optimizing such code took 2 of the 8 seconds of compiling the kernels."""

from collections.abc import Callable

from fastmlp._backends._numba._target import Target

Values = list[str]


def vector_of(real: str, vector_bytes: int) -> str:
    return f"<{vector_bytes // (4 if real == 'float' else 8)} x {real}>"


def fma_of(real: str, vector_bytes: int) -> str:
    bits = 32 if real == "float" else 64
    return f"@llvm.fma.v{vector_bytes * 8 // bits}f{bits}"


class Code:
    """The text of a function (i8* %p) -> void over the fields of a struct, all of 8 bytes. Pointers are i8*, strides
    bytes; vectors are those of the target where nothing else is said."""

    def __init__(self, name: str, target: Target, real: str, fields: list[str], vector_bytes: int = 0) -> None:
        self.target = target
        self.vector_bytes = vector_bytes or target.vector_bytes
        self.real = real
        self.real_bytes = 4 if real == "float" else 8
        self.vector = vector_of(real, self.vector_bytes)
        self.lines = [f"define internal void @{name}(i8* %p) {{", "entry:"]
        self.block = "entry"
        self.count = 0
        self.fields = fields

    def text(self) -> str:
        return "\n".join([*self.lines, "}"])

    def let(self, value: str) -> str:
        self.count += 1
        self.lines.append(f"%v{self.count} = {value}")
        return f"%v{self.count}"

    def field(self, name: str, kind: str = "i64") -> str:
        place = self.let(f"getelementptr i8, i8* %p, i64 {8 * self.fields.index(name)}")
        return self.let(f"load {kind}, {kind}* {self.let(f'bitcast i8* {place} to {kind}*')}")

    def pointer(self, name: str) -> str:
        return self.field(name, "i8*")

    def stride(self, name: str) -> str:
        """A field that counts reals, in bytes."""
        return self.times(self.field(name), self.real_bytes)

    def times(self, value: str, factor: int) -> str:
        return value if factor == 1 else self.let(f"mul i64 {value}, {factor}")

    def moved(self, pointer: str, by: str | int) -> str:
        return pointer if by == 0 else self.let(f"getelementptr i8, i8* {pointer}, i64 {by}")

    def at_multiple(self, pointer: str, stride: str, thrice: str, times: int) -> str:
        """0 to 3 strides on, which an instruction can add by itself."""
        if times == 0:
            return pointer
        return self.moved(pointer, thrice if times == 3 else self.times(stride, times))

    def opaque(self, value: str, kind: str = "i8*") -> str:
        """The same value, which LLVM cannot tell from any other."""
        return self.let(f'call {kind} asm "", "=r,0"({kind} {value})')

    def _place(self, pointer: str, kind: str, byte_count: int) -> str:
        return self.let(f"bitcast i8* {self.moved(pointer, byte_count)} to {kind}*")

    def load(self, pointer: str, number: int = 0) -> str:
        """Vector number so and so from a place on."""
        at = self._place(pointer, self.vector, number * self.vector_bytes)
        return self.let(f"load {self.vector}, {self.vector}* {at}, align {self.vector_bytes}")

    def store(self, value: str, pointer: str, number: int = 0) -> None:
        at = self._place(pointer, self.vector, number * self.vector_bytes)
        self.lines.append(f"store {self.vector} {value}, {self.vector}* {at}, align {self.vector_bytes}")

    def spread(self, scalar: str) -> str:
        first = self.let(f"insertelement {self.vector} undef, {self.real} {scalar}, i32 0")
        lanes = self.vector.replace(self.real, "i32")
        return self.let(f"shufflevector {self.vector} {first}, {self.vector} undef, {lanes} zeroinitializer")

    def load_spread(self, pointer: str, number: int = 0) -> str:
        at = self._place(pointer, self.real, number * self.real_bytes)
        return self.spread(self.let(f"load {self.real}, {self.real}* {at}"))

    def multiply_add(self, a: str, b: str, c: str) -> str:
        if self.target.has_fma:
            operands = ", ".join(f"{self.vector} {x}" for x in (a, b, c))
            return self.let(f"call {self.vector} {fma_of(self.real, self.vector_bytes)}({operands})")
        return self.let(f"fadd {self.vector} {self.let(f'fmul {self.vector} {a}, {b}')}, {c}")

    def prefetch(self, pointer: str) -> None:
        self.lines.append(f"call void @llvm.prefetch(i8* {pointer}, i32 0, i32 3, i32 1)")

    def begin(self, block: str) -> None:
        self.block = block
        self.lines.append(f"{block}:")

    def new_block(self, name: str) -> str:
        self.count += 1
        return f"{name}{self.count}"

    def branch(self, condition: str, yes: str, no: str) -> None:
        self.lines.append(f"br i1 {condition}, label %{yes}, label %{no}")

    def finish(self) -> None:
        self.lines.append("ret void")

    def loop(
        self, turns: str, places: Values, sums: Values, body: Callable[[Values, Values], tuple[Values, Values]]
    ) -> tuple[Values, Values]:
        """Does ``body`` so many times, and returns what it leaves."""
        before, loop, after = self.block, self.new_block("k"), self.new_block("end")
        kinds = ["i64", *["i8*"] * len(places), *[self.vector] * len(sums)]
        first = [turns, *places, *sums]
        self.branch(self.let(f"icmp sgt i64 {turns}, 0"), loop, after)
        self.begin(loop)
        at = len(self.lines)
        inside = [f"%{loop}.{i}" for i in range(len(first))]
        next_places, next_sums = body(inside[1 : 1 + len(places)], inside[1 + len(places) :])
        left = self.let(f"sub i64 {inside[0]}, 1")
        later = [left, *next_places, *next_sums]
        self.branch(self.let(f"icmp sgt i64 {left}, 0"), loop, after)
        self.lines[at:at] = [
            f"{name} = phi {kind} [{value}, %{before}], [{next_value}, %{loop}]"
            for name, kind, value, next_value in zip(inside, kinds, first, later)
        ]
        self.begin(after)
        results = [
            self.let(f"phi {kind} [{value}, %{before}], [{next_value}, %{loop}]")
            for kind, value, next_value in zip(kinds[1:], first[1:], later[1:])
        ]
        return results[: len(places)], results[len(places) :]


def table_of_functions(name: str, target: Target, real: str, functions: list[str | None]) -> str:
    """IR of some functions, given as text, and of the table ``name`` of them."""
    vectors = [(vector_of(real, size), fma_of(real, size)) for size in (target.vector_bytes, target.vector_bytes // 2)]
    names = [text.split("@", 1)[1].split("(", 1)[0] if text else None for text in functions]
    kind = "void (i8*)*"
    return "\n".join(
        [
            *(f"declare {vector} {fma}({vector}, {vector}, {vector})" for vector, fma in vectors),
            "declare void @llvm.prefetch(i8*, i32, i32, i32)",
            *(text for text in functions if text),
            f"@{name} = constant [{len(names)} x {kind}] ["
            + ", ".join(f"{kind} {f'@{each}' if each else 'null'}" for each in names)
            + "]",
        ]
    )
