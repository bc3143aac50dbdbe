"""Measures the activations against functions of higher precision: ``measure_ulp.py BACKEND DTYPE COUNT [NAME...]``.

In float32 COUNT inputs are evenly spread over all bit patterns, 4294967296 being all of them; in float64 they are
random. The unit is that in the last place of the exact result, for which float64 stands in for float32, and for float64
the 80-bit numbers of x86 processors. Subnormal numbers count as zero. test_ulp.py measures a sample.
"""

import functools
import sys
from decimal import Decimal, localcontext

import numpy as np
from test_activations import DEFAULT_LIMIT_IN_ULP, ELEMENTWISE, LIMIT_IN_ULP, exact_erfc

import fastmlp

ALL_FLOAT32 = 2**32
CHUNK = 2**18
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


def inputs(dtype, count):
    """Finite numbers of the dtype, in chunks whose sizes are multiples of WIDTH."""
    random = np.random.default_rng(0)
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        if dtype == "float32":
            patterns = np.arange(start, start + n, dtype=np.uint64) * ALL_FLOAT32 // count
            z = patterns.astype(np.uint32).view(np.float32)
        else:
            bits = random.integers(0, 2**64, n // 3, dtype=np.uint64).view(np.float64)
            z = np.concatenate([bits, random.uniform(-750.0, 750.0, n // 3), random.normal(0.0, 3.0, n - 2 * (n // 3))])
        z = z[np.isfinite(z)]
        yield z[: len(z) // WIDTH * WIDTH]


def errors_in_ulp(actual, exact):
    """Of results in the net's dtype against more precise ones; what a missing subnormal number adds is left out."""
    info = np.finfo(actual.dtype)
    tiny = exact.dtype.type(info.tiny)
    _, exponent = np.frexp(np.maximum(np.abs(exact), tiny))
    ulp = np.ldexp(exact.dtype.type(1), exponent - 1 - info.nmant)
    errors = np.maximum(np.abs(actual.astype(exact.dtype) - exact) - tiny, 0) / ulp
    # What rounds to infinity is right there.
    limit = exact.dtype.type(info.max) * (1 + exact.dtype.type(info.eps) / 4)
    errors[np.isinf(actual) & (np.abs(exact) >= limit)] = 0.0
    return errors


def measure(name, backend, dtype, count):
    """The largest error in units in the last place, and where."""
    net = fastmlp.MLP([WIDTH, WIDTH], output_activation=name, loss="mse", dtype=dtype, backend=backend)
    net.set_weights([np.eye(WIDTH)], [np.zeros(WIDTH)])
    largest, place = 0.0, None
    with np.errstate(all="ignore"):
        for z in inputs(dtype, count):
            actual = net.forward(z.reshape(-1, WIDTH)).reshape(-1)
            errors = errors_in_ulp(actual, EXACT[name](z.astype(np.float64 if dtype == "float32" else np.longdouble)))
            worst = int(np.argmax(errors))  # NaN counts as the largest
            if not errors[worst] <= largest:
                largest, place = float(errors[worst]), z[worst]
    return largest, place


def main(backend, dtype, count, *names):
    for name in names or ELEMENTWISE:
        largest, place = measure(name, backend, dtype, int(count))
        limit = LIMIT_IN_ULP.get(name, DEFAULT_LIMIT_IN_ULP)
        print(f"{name:10} {dtype} {backend:5} {largest:.3f} ULP at {place!r}, allowed {limit}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
