"""Fixtures that run a test over every backend and dtype, and the profiles of hypothesis."""

import os

import pytest
from hypothesis import HealthCheck, settings
from support import BACKENDS, DTYPES

import fastmlp
from fastmlp import _backends

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", max_examples=12, derandomize=True, database=None, **COMMON)
settings.register_profile("thorough", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def require(name):
    """Go on only with a backend that is there. Where all are demanded, a missing one is a failure."""
    if name in fastmlp.available_backends():
        return
    reason = f"the {name} backend is missing: {_backends.why_missing()[name]}"
    if os.environ.get("CI") or os.environ.get("FASTMLP_REQUIRE_C"):
        pytest.fail(reason)
    pytest.skip(reason)


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
