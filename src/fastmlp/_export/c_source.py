"""A network as one C99 file: its parameters as constants, and a function from inputs to outputs.

Text is written with short names and then finished: those of functions and tables get the network's name in front, and
what depends on the dtype is filled in (c_functions.py).
"""

import math
import platform
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastmlp import _backends
from fastmlp._export.c_functions import FUNCTION_OF_ACTIVATION, finished, functions
from fastmlp._version import __version__

if TYPE_CHECKING:
    from fastmlp._mlp import MLP

LINE_BYTES = 64
# C99 promises to tell apart 31 characters of a name that the linker sees.
LONGEST_NAME = 31 - len("_forward")
N_REFERENCES = 8
# Of a line of numbers.
WIDTH = 116

_COMMENT = """\
/* NAME: a multi-layer perceptron of {parameters} parameters in {dtype}, written by fastmlp {version}.
 *
{layers}
 *
 * Use:      declare the function as it is below, and call it with one example at a time.
 * Compile:  cc -std=c99 -O3 -march=native -c NAME.c, and link with -lm
 * Test:     cc -std=c99 -O3 -march=native -DSELF_TEST NAME.c -lm && ./a.out
 *
 * With fused multiply-add the outputs are the same bits as fastmlp's, whatever the compiler and its optimization;
 * subnormal numbers, which count as zero there, excepted. Without it they agree within rounding. */
"""

_PREAMBLE = """\
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "the order of operations matters here: compile without -ffast-math and -Ofast"
#endif
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 && FLT_EVAL_METHOD != 32
#error "intermediate results must have the type of their operands: on x86 compile with -msse2 -mfpmath=sse"
#endif

/* Fused multiply-add where it is fast, of which clang does not tell by the standard's macro. Products and sums written
 * apart must stay apart: clang obeys the pragma; gcc does not know it, but finds none that fusing would change. */
#if defined FAST_FMA || defined __FAST_FMA || defined __FMA__ || defined __ARM_FEATURE_FMA
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#if defined __clang__ || !defined __GNUC__
#pragma STDC FP_CONTRACT OFF
#endif

/* What is not inlined is not vectorized either: 0.4 of the speed with GELU in double. */
#if defined __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

"""

_DECLARATION = """\
enum {{ n_inputs = {inputs}, n_outputs = {outputs} }};

/* y from x, which may be the same place; safe to call from several threads. */
void forward(const real x[n_inputs], real y[n_outputs]);

"""

_SELF_TEST_BEGIN = """\

#ifdef SELF_TEST
#include <stdio.h>

/* What fastmlp gives for some inputs, and whether it had fused multiply-add. */
enum {{ n_references = {count}, has_exact_references = {exact}, most_ulp = {most} }};

"""

_SELF_TEST_END = """\
/* Compares the outputs: bits where both sides have fused multiply-add, else within most_ulp units in the last place of
 * an example's largest output. Returns 0 if all agree. */
int main(void)
{
    int n_wrong = 0;
    real worst = R(0.0);
    for (int i = 0; i < n_references; i++) {
        const real *expected = reference_outputs[i];
        real actual[n_outputs], largest = SMALLEST_NORMAL;
        forward(reference_inputs[i], actual);
        for (int j = 0; j < n_outputs; j++)
            if (FABS(expected[j]) > largest && FABS(expected[j]) <= LARGEST) largest = FABS(expected[j]);
        for (int j = 0; j < n_outputs; j++) {
            const real error = FABS(actual[j] - expected[j]) / (largest * EPSILON);
            if (actual[j] == expected[j] || (actual[j] != actual[j] && expected[j] != expected[j])) continue;
            if (!(error <= worst)) worst = error;
            if (!(error <= most_ulp) || (HAS_FMA && has_exact_references)) {
                n_wrong++;
                printf("example %d, output %d: %.17g; expected %.17g\\n", i, j, (double)actual[j], (double)expected[j]);
            }
        }
    }
    printf("NAME: %d examples, %d outputs wrong, largest difference %g ULP, %s fused multiply-add\\n", n_references,
           n_wrong, (double)worst, HAS_FMA ? "with" : "without");
    return n_wrong != 0;
}
#endif
"""


def check_name(name: object) -> str:
    """A name that C can have in front of others; TypeError or ValueError otherwise."""
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; expected an identifier of C")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"name is {name!r}; expected a letter and then letters, digits and _, at most {LONGEST_NAME} characters"
        )
    return name


def c_source(net: "MLP", name: str) -> Iterator[str]:
    """The file in pieces; the same network and name give the same file, but for references of other backends."""
    return _Source(net, check_name(name)).pieces()


def leading_dimension(n: int, dtype: np.dtype) -> int:
    """Numbers from one row of parameters to the next: a power of two up to a line of the cache, then whole lines."""
    line = LINE_BYTES // dtype.itemsize
    return 1 << (n - 1).bit_length() if n < line else -(-n // line) * line


class _Source:
    """What is written about one network."""

    def __init__(self, net: "MLP", name: str) -> None:
        self.net, self.dtype = net, net.dtype.name
        self.activations = (*net.activations, net.output_activation)
        self.leading = [leading_dimension(n, net.dtype) for n in net.layer_sizes[1:]]
        called = {FUNCTION_OF_ACTIVATION[activation] for activation in self.activations if activation != "identity"}
        self.text, names = functions(self.dtype, {"dense", *called})
        names += ["forward", *(f"apply_{activation}" for activation in self.activations)]
        self.functions = {function: f"{name}_{function}" for function in names}
        tables = ["n_inputs", "n_outputs", "n_references", "has_exact_references", "most_ulp"]
        tables += ["reference_inputs", "reference_outputs", *(f"layer{i + 1}" for i in range(net.n_layers))]
        limits, fma = ("FLT", "FP_FAST_FMAF") if self.dtype == "float32" else ("DBL", "FP_FAST_FMA")
        self.words = {table: f"{name}_{table}" for table in tables} | {
            "NAME": name,
            "FAST_FMA": fma,
            "__FAST_FMA": f"__{fma}",
            "SMALLEST_NORMAL": f"{limits}_MIN",
            "LARGEST": f"{limits}_MAX",
            "EPSILON": f"{limits}_EPSILON",
            "HAS_FMA": f"{name.upper()}_HAS_FMA",
            "INLINE": f"{name.upper()}_INLINE",
            "SELF_TEST": f"{name.upper()}_SELF_TEST",
            "DSELF_TEST": f"D{name.upper()}_SELF_TEST",
        }

    def finished(self, text: str) -> str:
        return finished(text, self.dtype, self.words, self.functions)

    def pieces(self) -> Iterator[str]:
        """Comment, functions, parameters, the network, the test."""
        net = self.net
        yield self.comment()
        yield self.finished(_PREAMBLE)
        yield self.finished(_DECLARATION.format(inputs=net.layer_sizes[0], outputs=net.layer_sizes[-1]))
        yield self.finished(self.text) + "\n\n"
        yield "/* The parameters of each layer: a row for each input, then the biases, padded with zeros. */\n"
        for layer, (weights, biases, leading) in enumerate(zip(net.weights, net.biases, self.leading), start=1):
            yield self.finished(f"static const real layer{layer}[{(net.layer_sizes[layer - 1] + 1) * leading}] = {{\n")
            for row in (*weights.T, biases):
                yield from _lines_of(row, leading)
            yield "};\n\n"
        yield self.finished("\n".join(self.network()))
        yield from self.self_test()

    def comment(self) -> str:
        sizes = self.net.layer_sizes
        layers = [
            f" *   layer {layer}: {n_in} -> {n_out}, {activation}"
            for layer, (n_in, n_out, activation) in enumerate(zip(sizes, sizes[1:], self.activations), start=1)
        ]
        facts = {"parameters": self.net.n_parameters, "dtype": self.dtype, "version": __version__}
        return self.finished(_COMMENT).format(layers="\n".join(layers), **facts)

    def network(self) -> Iterator[str]:
        """The lines of the activations over whole layers, and of the network: two buffers take turns."""
        for name in dict.fromkeys(self.activations):
            if name not in ("identity", "softmax"):
                yield f"INLINE void apply_{name}(int n, real *z)\n{{"
                yield f"    for (int j = 0; j < n; j++) z[j] = {FUNCTION_OF_ACTIVATION[name]}(z[j]);\n}}\n"
        yield "void forward(const real x[n_inputs], real y[n_outputs])\n{"
        buffers = ("a", "b") if self.net.n_layers > 1 else ("a",)
        yield f"    real {', '.join(f'{buffer}[{max(self.leading)}]' for buffer in buffers)};"
        source = "x"
        for i, (activation, leading) in enumerate(zip(self.activations, self.leading)):
            target = buffers[i % 2]
            yield f"    dense({self.net.layer_sizes[i]}, {leading}, {source}, layer{i + 1}, {target});"
            if activation == "softmax":
                yield f"    softmax({self.net.layer_sizes[i + 1]}, {target});"
            elif activation != "identity":
                yield f"    apply_{activation}({leading}, {target});"
            source = target
        yield f"    for (int j = 0; j < n_outputs; j++) y[j] = {source}[j];\n}}\n"

    def self_test(self) -> Iterator[str]:
        inputs = reference_inputs(self.net.layer_sizes[0], self.net.dtype)
        outputs, exact = reference_outputs(self.net, inputs)
        most = most_ulp(self.net.layer_sizes, self.net.output_activation, outputs)
        facts = {"count": len(inputs), "exact": int(exact), "most": most}
        yield self.finished(_SELF_TEST_BEGIN.format(**facts))
        for name, rows in (("inputs", inputs), ("outputs", outputs)):
            yield self.finished(f"static const real reference_{name}[n_references][n_{name}] = {{\n")
            for row in rows:
                yield "    {\n"
                yield from _lines_of(row, len(row))
                yield "    },\n"
            yield "};\n\n"
        yield self.finished(_SELF_TEST_END)


def _lines_of(row: np.ndarray, leading: int) -> Iterator[str]:
    """Numbers with a comma behind each, padded with zeros."""
    line = "   "
    for literal in (*literals(row), *["0"] * (leading - len(row))):
        if len(line) + len(literal) + 2 > WIDTH:
            yield line + "\n"
            line = "   "
        line += f" {literal},"
    yield line + "\n"


def literals(row: np.ndarray) -> Iterator[str]:
    """Constants of C with the bits of these numbers; subnormal ones are zero, as which they count in kernels."""
    suffix = "f" if row.dtype == np.float32 else ""
    for number, is_small in zip(row.tolist(), np.abs(row) < np.finfo(row.dtype).tiny):
        if number != number:
            yield "NAN"
        elif number in (np.inf, -np.inf):
            yield "INFINITY" if number > 0 else "-INFINITY"
        elif is_small:
            yield f"-0.0{suffix}" if np.signbit(number) else "0"
        else:
            mantissa, exponent = number.hex().split("p")
            yield f"{mantissa.rstrip('0')}p{exponent}{suffix}"


def most_ulp(layer_sizes: tuple[int, ...], output_activation: str, outputs: np.ndarray) -> int:
    """How far outputs may be apart where one side lacks fused multiply-add, in ULP of an example's largest output.

    Four for each layer; more in proportion to sqrt(n) where sums have more than 64 terms, and to z for exp(z).
    """
    most = 4.0 * (len(layer_sizes) - 1) * max(1.0, math.sqrt(max(layer_sizes[:-1]) / 64))
    if output_activation == "exp":
        usual = outputs[np.isfinite(outputs) & (outputs > 0)]
        most *= 1.0 + np.abs(np.log(usual)).max(initial=0.0)
    return math.ceil(most)


def reference_inputs(n_inputs: int, dtype: np.dtype) -> np.ndarray:
    """Zeros, and examples of ordinary size: always the same."""
    inputs: np.ndarray = np.random.default_rng(0).standard_normal((N_REFERENCES, n_inputs)).astype(dtype)
    inputs[0] = 0.0
    return inputs


def reference_outputs(net: "MLP", inputs: np.ndarray) -> tuple[np.ndarray, bool]:
    """What the best backend here gives, and whether these are the bits that fused multiply-add gives everywhere."""
    from fastmlp._mlp import MLP

    backend = _backends.available_backends()[0]
    best = MLP(
        net.layer_sizes,
        activation=net.activations,
        output_activation=net.output_activation,
        initializer="zeros",
        dtype=net.dtype,
        backend=backend,
    )
    best.copy_parameters_from(net)
    has_fma = _backends.instruction_set(backend) in ("avx2", "avx512") or platform.machine() in ("arm64", "aarch64")
    return best.forward(inputs), has_fma and backend != "numpy"
