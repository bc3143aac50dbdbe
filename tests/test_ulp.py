"""The accuracy of the activations over a sample of what measure_ulp.py can try."""

import numpy as np
import pytest
from measure_ulp import EXACT, errors_in_ulp, measure
from test_activations import DEFAULT_LIMIT_IN_ULP, ELEMENTWISE, LIMIT_IN_ULP, exact_values, points

COUNTS = {"float32": 2**18, "float64": 60_000}
HAS_80_BITS = np.finfo(np.longdouble).nmant >= 63


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_sample(compiled_backend, dtype, name):
    if dtype == "float64" and not HAS_80_BITS:
        pytest.skip("long double is no wider than double here")
    largest, place = measure(name, compiled_backend, dtype, COUNTS[dtype])
    assert largest <= LIMIT_IN_ULP.get(name, DEFAULT_LIMIT_IN_ULP), f"{name}({place!r}) is off by {largest:.2f} ULP"


@pytest.mark.skipif(not HAS_80_BITS, reason="long double is no wider than double here")
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_reference_itself(name):
    """Against hundreds of digits: off by a hundredth of a unit of float64."""
    z = points(name, "float64")
    expected = [np.longdouble(str(value)) for value in exact_values(name, "float64")]
    reference = EXACT[name](z.astype(np.longdouble))
    errors = np.abs(reference - expected) / np.maximum(np.abs(expected), np.finfo(np.float64).tiny)
    assert errors.max() < 0.01 * np.finfo(np.float64).eps
    # And the measure sees what is there.
    assert errors_in_ulp(reference.astype(np.float64), reference).max() <= 0.5
    off = np.nextafter(np.nextafter(reference.astype(np.float64), np.inf), np.inf)
    assert errors_in_ulp(off, reference).max() >= 1.5
