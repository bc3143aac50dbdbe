"""Fixtures that run a test over every backend and dtype, and the profiles of hypothesis."""

import os

import pytest
from hypothesis import HealthCheck, settings
from support import BACKENDS, DTYPES, require

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", max_examples=12, derandomize=True, database=None, **COMMON)
settings.register_profile("thorough", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of each backend in turn."""
    require(request.param)
    return request.param


@pytest.fixture(params=("numba", "c"))
def compiled_backend(request):
    """The name of each compiled backend in turn."""
    require(request.param)
    return request.param


@pytest.fixture
def both_compiled_backends():
    """For tests that compare the two."""
    require("numba")
    require("c")


@pytest.fixture(params=DTYPES)
def dtype(request):
    """The name of each dtype in turn."""
    return request.param
