"""Measures the activations against functions of higher precision: ``measure_ulp.py --help``.

In float32 COUNT inputs are evenly spread over all bit patterns, "all" being all 4294967296 of them; in float64 they are
random. The unit is that in the last place of the exact result, for which float64 stands in for float32, and for float64
the 80-bit numbers of x86 processors. Subnormal numbers count as zero. Derivatives are measured in eps of their largest
value. A measurement can be cut in parts, each a run of its own. test_ulp.py measures a sample.
"""

import argparse
import functools
import time
from decimal import Decimal, localcontext

import numpy as np
from scipy import special
from support import HIDDEN_ACTIVATIONS
from test_activations import DEFAULT_LIMIT_IN_ULP, ELEMENTWISE, LIMIT_IN_ULP, LIMITS, exact_erfc

import fastmlp

ALL_FLOAT32 = 2**32
CHUNK = 2**15
DERIVATIVE_LIMIT_IN_EPS = 4.0
# Inputs stand side by side in the rows of a net whose weights are the unit matrix: it works on whole vectors.
WIDTH = 16


@functools.cache
def scaled_erfc_series():
    """Taylor's coefficients of g(x) = exp(x^2) erfc(x) around the places k/8, 0 to 28: (225, 15).

    By g' = 2 x g - 2/sqrt(pi), in 100 digits.
    """
    rows = []
    with localcontext(prec=100):
        slope = (
            2
            / Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803").sqrt()
        )
        for k in range(225):
            x = Decimal(k) / 8
            derivatives = [(x * x).exp() * exact_erfc(x)]
            derivatives.append(2 * x * derivatives[0] - slope)
            for n in range(1, 14):
                derivatives.append(2 * x * derivatives[n] + 2 * n * derivatives[n - 1])
            factorial = Decimal(1)
            row = []
            for n, derivative in enumerate(derivatives):
                factorial *= max(n, 1)
                row.append(np.longdouble(str(derivative / factorial)))
            rows.append(row)
    return np.array(rows)


def exact_gelu(z):
    """In float64 good to some 1e-14, far less than float32 can show; else see `exact_gelu_of_long_double`."""
    if z.dtype == np.float64:
        return z / 2 * special.erfc(-z * np.sqrt(0.5))
    return exact_gelu_of_long_double(z)


def exact_gelu_of_long_double(z):
    """z/2 erfc(-z / sqrt 2) by exp(-z^2/2) g(|z| / sqrt 2), the square being split into two exact parts."""
    near = np.clip(z, -39.5, 39.5)  # farther out it is 0 or z
    x = np.abs(near) * np.sqrt(z.dtype.type(0.5))
    nearest = np.rint(8 * x).astype(np.int64)
    h = x - nearest / z.dtype.type(8)
    series = scaled_erfc_series().astype(z.dtype)
    tail = np.zeros_like(z)
    for coefficients in series.T[::-1]:
        tail = tail * h + coefficients[nearest]
    high = near.astype(np.float32).astype(z.dtype)
    low = near - high
    tail *= np.exp(-high * high / 2) * np.exp(-low * (high + low / 2)) / 2
    return np.where(z < 0, near * tail, z * (1 - tail))


EXACT = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, z / 100),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "gelu": exact_gelu,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "exp": np.exp,
}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def exact_gelu_derivative(z):
    """Phi(z) + z Phi'(z); Phi(z) is gelu(z) / z."""
    nonzero = np.where(z == 0, 1, z)
    cdf = np.where(z == 0, 0.5, exact_gelu(nonzero) / nonzero)
    near = np.clip(z, -50, 50)
    return cdf + near * np.exp(-near * near / 2) / np.sqrt(2 * z.dtype.type(np.pi))


EXACT_DERIVATIVES = {
    "identity": np.ones_like,
    "relu": lambda z: (z > 0).astype(z.dtype),
    "leaky_relu": lambda z: np.where(z > 0, 1, z.dtype.type(0.01)),
    "elu": lambda z: np.exp(np.minimum(z, 0)),
    "softplus": sigmoid,
    "sigmoid": lambda z: sigmoid(z) * sigmoid(-z),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "gelu": exact_gelu_derivative,
    "silu": lambda z: sigmoid(z) * (1 + np.maximum(z, -1e4) * sigmoid(-z)),
}


def inputs(dtype, count, part=0, parts=1):
    """Finite numbers of the dtype, in chunks whose sizes are multiples of WIDTH; of `count` the share of one part."""
    random = np.random.default_rng(part)
    first, last = part * count // parts, (part + 1) * count // parts
    for start in range(first, last, CHUNK):
        n = min(CHUNK, last - start)
        if dtype == "float32":
            patterns = np.arange(start, start + n, dtype=np.uint64) * ALL_FLOAT32 // count
            z = patterns.astype(np.uint32).view(np.float32)
        else:
            bits = random.integers(0, 2**64, n // 3, dtype=np.uint64).view(np.float64)
            z = np.concatenate([bits, random.uniform(-750.0, 750.0, n // 3), random.normal(0.0, 3.0, n - 2 * (n // 3))])
        finite = np.isfinite(z)
        if not finite.all():
            z = z[finite]
        if len(z):
            yield np.resize(z, -(-len(z) // WIDTH) * WIDTH)


def power_of_two_below(x):
    """Of positive numbers."""
    if x.dtype == np.float64:  # much faster than the other way
        return (x.view(np.int64) & np.int64(0x7FF << 52)).view(np.float64)
    return np.ldexp(x.dtype.type(1), np.frexp(x)[1] - 1)


def errors_in_ulp(actual, exact):
    """Of results in the net's dtype against more precise ones; what a missing subnormal number adds is left out."""
    info = np.finfo(actual.dtype)
    tiny = exact.dtype.type(info.tiny)
    ulp = power_of_two_below(np.maximum(np.abs(exact), tiny))
    ulp *= exact.dtype.type(info.eps)
    errors = np.maximum(np.abs(actual - exact) - tiny, 0) / ulp
    overflowed = np.isinf(actual)
    if overflowed.any():  # What rounds to infinity is right there.
        limit = exact.dtype.type(info.max) * (1 + exact.dtype.type(info.eps) / 4)
        errors[overflowed & (np.abs(exact) >= limit)] = 0.0
    return errors


def more_precise(z):
    return z.astype(np.float64 if z.dtype == np.float32 else np.longdouble)


def unit_net(n_layers, backend, dtype, width=WIDTH, **settings):
    """A net whose outputs are its inputs, but for the activations. Biases of -0 let -0 through."""
    net = fastmlp.MLP([width] * (n_layers + 1), dtype=dtype, backend=backend, **settings)
    net.set_weights([np.eye(width)] * n_layers, [np.full(width, -0.0)] * n_layers)
    return net


def largest_of(errors, z, largest, place):
    """The largest error so far, and where; NaN counts as the largest."""
    worst = int(np.argmax(errors))
    return (largest, place) if errors[worst] <= largest else (float(errors[worst]), z[worst])


def measure(name, backend, dtype, count, part=0, parts=1):
    """The largest error in units in the last place, and where."""
    net = unit_net(1, backend, dtype, output_activation=name, loss="mse")
    largest, place = 0.0, None
    with np.errstate(all="ignore"):
        for z in inputs(dtype, count, part, parts):
            actual = net.forward(z.reshape(-1, WIDTH)).reshape(-1)
            largest, place = largest_of(errors_in_ulp(actual, EXACT[name](more_precise(z))), z, largest, place)
    return largest, place


def measure_derivative(name, backend, dtype, count, part=0, parts=1):
    """The largest error in eps of the derivative's largest value, and where."""
    net = unit_net(2, backend, dtype, activation=name)
    largest_value = np.max(np.abs(EXACT_DERIVATIVES[name](np.linspace(-10.0, 10.0, 20001))))
    largest, place = 0.0, None
    ones = np.ones((CHUNK // WIDTH, WIDTH), dtype)
    with np.errstate(all="ignore"):
        for z in inputs(dtype, count, part, parts):
            rows = z.reshape(-1, WIDTH)
            actual = net.backward(rows, ones[: len(rows)], input_gradient=True).input.reshape(-1)
            # There is no subnormal number to tell the sides of a corner apart.
            flushed = np.where(np.abs(z) < np.finfo(dtype).tiny, z.dtype.type(0), z)
            errors = np.abs(actual - EXACT_DERIVATIVES[name](more_precise(flushed))) / largest_value
            errors /= errors.dtype.type(np.finfo(dtype).eps)
            largest, place = largest_of(errors, z, largest, place)
    return largest, place


def check_special_values(name, backend, dtype, nan_stride=1):
    """Infinities, signed zeros, and NaN: in float32 every `nan_stride`-th pattern, in float64 random ones."""
    net = unit_net(1, backend, dtype, width=1, output_activation=name, loss="mse")
    with np.errstate(all="ignore"):
        far = net.forward(np.array([[-np.inf], [np.inf]], dtype))[:, 0]
        assert tuple(far) == LIMITS[name], f"{name} of the infinities is {far}"
        zeros = np.array([[-0.0], [0.0]], dtype)
        exact = EXACT[name](zeros)
        assert errors_in_ulp(net.forward(zeros), more_precise(exact)).max() <= 0.5, f"{name}(0) is {net.forward(zeros)}"
        if exact[0] == 0 and name != "relu":  # which is at -0 what max(-0, 0) is
            signs = np.signbit(net.forward(zeros))[:, 0]
            assert signs.tolist() == [True, False], f"{name} of -0 and 0 has the signs {signs}"
        for patterns in nan_patterns(dtype, nan_stride):
            wrong = ~np.isnan(net.forward(patterns[:, None])[:, 0])
            assert not wrong.any(), f"{name} of NaN is a number: {patterns[wrong][:1].tobytes().hex()}"


def nan_patterns(dtype, stride):
    """In chunks."""
    if dtype == "float32":
        for sign in (0, 2**31):
            for start in range(0x7F800001, 0x80000000, CHUNK * stride):
                patterns = np.arange(start, min(start + CHUNK * stride, 0x80000000), stride, dtype=np.uint64)
                yield (patterns + sign).astype(np.uint32).view(np.float32)
    else:
        random = np.random.default_rng(0)
        mantissa = random.integers(1, 2**52, CHUNK, dtype=np.uint64)
        sign = random.integers(0, 2, CHUNK, dtype=np.uint64) << np.uint64(63)
        yield (mantissa | sign | np.uint64(0x7FF << 52)).view(np.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("backend")
    parser.add_argument("dtype", choices=["float32", "float64"])
    parser.add_argument("count", help='how many inputs, or "all" (float32)')
    parser.add_argument("name", nargs="*", help="activations; all of them where none is named")
    parser.add_argument("--derivatives", action="store_true", help="measure these instead of the functions")
    parser.add_argument("--part", default="1/1", help="I/K: the I-th of K parts of the inputs")
    arguments = parser.parse_args()
    count = ALL_FLOAT32 if arguments.count == "all" else int(arguments.count)
    part, parts = map(int, arguments.part.split("/"))
    for name in arguments.name or (HIDDEN_ACTIVATIONS if arguments.derivatives else ELEMENTWISE):
        measured, unit, limit = measure, "ULP", LIMIT_IN_ULP.get(name, DEFAULT_LIMIT_IN_ULP)
        if arguments.derivatives:
            measured, unit, limit = measure_derivative, "eps", DERIVATIVE_LIMIT_IN_EPS
        else:
            check_special_values(name, arguments.backend, arguments.dtype)
        began = time.perf_counter()
        largest, place = measured(name, arguments.backend, arguments.dtype, count, part - 1, parts)
        print(
            f"{name:10} {arguments.dtype} {arguments.backend:5} part {arguments.part} of {count}: "
            f"{largest:.3f} {unit} at {place!r}, allowed {limit} ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
