"""Keeps what the benches measure, and ends ``pytest --benchmark`` with the tables of it."""

from collections.abc import Iterator

import pytest
from tables import Tables
from threadpoolctl import threadpool_limits
from timings import Timings
from workloads import N_THREADS

TIMINGS = pytest.StashKey[Timings]()
TABLES = pytest.StashKey[Tables]()


@pytest.fixture(autouse=True, scope="module")
def limited_blas() -> Iterator[None]:
    """As many threads for NumPy as for the nets."""
    with threadpool_limits(N_THREADS):
        yield


@pytest.fixture
def timings(pytestconfig: pytest.Config) -> Timings:
    """Seconds per example, noted by the benches that ran before."""
    return pytestconfig.stash.setdefault(TIMINGS, Timings())


@pytest.fixture
def tables(pytestconfig: pytest.Config) -> Tables:
    """The tables that are printed at the end."""
    return pytestconfig.stash.setdefault(TABLES, Tables())


@pytest.fixture
def timed(pytestconfig: pytest.Config) -> bool:
    """Whether to time what was checked."""
    return pytestconfig.option.benchmark


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    for lines in (config.stash.get(TIMINGS, Timings()).table(), config.stash.get(TABLES, Tables()).lines()):
        for line in lines:
            terminalreporter.write_line(line)
