"""The accuracy of the activations over a sample of what measure_ulp.py can try."""

import numpy as np
import pytest
from measure_ulp import (
    DERIVATIVE_LIMIT_IN_EPS,
    EXACT,
    EXACT_DERIVATIVES,
    check_special_values,
    errors_in_ulp,
    measure,
    measure_derivative,
)
from support import HIDDEN_ACTIVATIONS
from test_activations import DEFAULT_LIMIT_IN_ULP, ELEMENTWISE, LIMIT_IN_ULP, exact_values, points

COUNTS = {"float32": 2**18, "float64": 60_000}
HAS_80_BITS = np.finfo(np.longdouble).nmant >= 63


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_sample(compiled_backend, dtype, name):
    if dtype == "float64" and not HAS_80_BITS:
        pytest.skip("long double is no wider than double here")
    largest, place = measure(name, compiled_backend, dtype, COUNTS[dtype])
    assert largest <= LIMIT_IN_ULP.get(name, DEFAULT_LIMIT_IN_ULP), f"{name}({place!r}) is off by {largest:.2f} ULP"


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_a_sample_of_derivatives(compiled_backend, dtype, name):
    if dtype == "float64" and not HAS_80_BITS:
        pytest.skip("long double is no wider than double here")
    largest, place = measure_derivative(name, compiled_backend, dtype, COUNTS[dtype] // 2)
    assert largest <= DERIVATIVE_LIMIT_IN_EPS, f"{name}'({place!r}) is off by {largest:.2f} eps of its largest value"


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinities_zeros_and_nan(compiled_backend, dtype, name):
    check_special_values(name, compiled_backend, dtype, nan_stride=4096)


@pytest.mark.skipif(not HAS_80_BITS, reason="long double is no wider than double here")
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_reference_itself(name):
    """Against hundreds of digits: off by a hundredth of a unit of float64."""
    z = points(name, "float64")
    # In float64, for float32: far better than a unit of float32.
    coarse = EXACT[name](z)
    exact = np.array([float(value) for value in exact_values(name, "float64")])
    assert np.max(np.abs(coarse - exact) / np.maximum(np.abs(exact), np.finfo(np.float32).tiny)) < 1e-11
    expected = [np.longdouble(str(value)) for value in exact_values(name, "float64")]
    reference = EXACT[name](z.astype(np.longdouble))
    errors = np.abs(reference - expected) / np.maximum(np.abs(expected), np.finfo(np.float64).tiny)
    assert errors.max() < 0.01 * np.finfo(np.float64).eps
    # And the measure sees what is there.
    assert errors_in_ulp(reference.astype(np.float64), reference).max() <= 0.5
    off = np.nextafter(np.nextafter(reference.astype(np.float64), np.inf), np.inf)
    assert errors_in_ulp(off, reference).max() >= 1.5


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_the_reference_of_derivatives(name):
    """Against central differences of the function."""
    z, h = np.linspace(-8.0, 8.0, 200).astype(np.longdouble), np.longdouble(1e-6)
    slopes = (EXACT[name](z + h) - EXACT[name](z - h)) / (2 * h)
    assert np.max(np.abs(EXACT_DERIVATIVES[name](z) - slopes)) < 1e-10
