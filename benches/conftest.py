"""Keeps what bench_batching.py measures, and ends ``pytest --benchmark`` with the table of it."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits
from timings import Timings
from workloads import N_THREADS

TIMINGS = pytest.StashKey[Timings]()


@pytest.fixture(autouse=True, scope="module")
def limited_blas() -> Iterator[None]:
    """As many threads for NumPy as for the nets."""
    with threadpool_limits(N_THREADS):
        yield


@pytest.fixture
def timings(pytestconfig: pytest.Config) -> Timings:
    """Seconds per example, noted by the benches that ran before."""
    return pytestconfig.stash.setdefault(TIMINGS, Timings())


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(TIMINGS, Timings()).table():
        terminalreporter.write_line(line)
