"""Nets of random shapes and options against the oracle, with guard lines in place; fuzz_nets.py tries more."""

import fuzz_nets
import numpy as np
import oracle
import pytest
import vector_oracle
from hypothesis import given, settings
from support import assert_close, flat, make_examples, make_net
from test_gradients import architectures, random_net

from fastmlp import _guards
from fastmlp._backends import _plan


@pytest.fixture(autouse=True)
def guarded_and_shared(monkeypatch):
    monkeypatch.setattr(_guards, "active", True)
    monkeypatch.setattr(_plan, "THREAD_PRODUCTS", 1)


@settings(max_examples=200)
@given(case=fuzz_nets.cases())
def test_both_compiled_backends(both_compiled_backends, case):
    fuzz_nets.check_on_all(case, ("c", "numba"))


@settings(max_examples=25)
@given(case=fuzz_nets.cases())
def test_c(case):
    """What sanitize.sh runs, where Numba's kernels are out of reach."""
    fuzz_nets.check(case, "c")


@settings(max_examples=25)
@given(case=fuzz_nets.cases())
def test_numpy(case):
    fuzz_nets.check(case, "numpy")


@given(architecture=architectures)
def test_the_vector_oracle(architecture):
    """Against the loops of oracle.py."""
    net, reference = random_net(architecture, "numpy", "float64")
    X, y = make_examples(net, 4)
    weight = np.linspace(-1.0, 2.0, 4)
    loss, *gradients, dX = vector_oracle.loss_and_gradients(reference, X, y, weight)
    expected_loss, *expected, expected_dX = oracle.loss_and_gradients(reference, X, y, weight)
    assert_close(loss, expected_loss, "float64")
    assert_close(flat(*gradients), flat(*expected), "float64")
    assert_close(dX, expected_dX, "float64")
    dY = np.random.default_rng(0).normal(size=(4, net.layer_sizes[-1]))
    *gradients, dX = vector_oracle.backward(reference, X, dY)
    *expected, expected_dX = oracle.backward(reference, X, dY)
    assert_close(flat(*gradients), flat(*expected), "float64")
    assert_close(dX, expected_dX, "float64")


def test_dropout_of_the_vector_oracle():
    _, reference = make_net((3, 9, 4, 6, 2), dropout=(0.3, 0.0, 0.6), backend="numpy")
    actual = vector_oracle.dropout_factors(reference, 2**63 + 12345, 7, 5)
    expected = oracle.dropout_factors(reference, 2**63 + 12345, 7, 5)
    assert actual[1] is expected[1] is None
    for i in (0, 2):
        np.testing.assert_array_equal(actual[i], expected[i])
