"""The ``--benchmark`` flag: with it only benches/ run, timed; without it each bench runs once, untimed, as a test.

Benches that take minutes are marked ``only_when_named``: ``--benchmark`` runs them where the command line names their
file. Cases too large for a test are marked ``only_timed``.
"""

from pathlib import Path

import pytest

BENCHES = Path(__file__).parent / "benches"
INSTALL = 'pytest-benchmark is not installed: pip install ".[bench]"'

# What --benchmark asks of pytest-benchmark where the command line does not say otherwise.
TIMED_DEFAULTS = {
    "benchmark_max_time": "0.3",
    "benchmark_min_rounds": 3,
    "benchmark_columns": ["min", "median", "rounds"],
    "benchmark_name": "short",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the benches alone, and time them")


def has_pytest_benchmark(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("benchmark")


def is_bench(path: Path) -> bool:
    return path == BENCHES or BENCHES in path.parents


MARKERS = (
    "only_when_named: timed where the command line names the bench's file, not by --benchmark alone",
    "only_timed: left out where benches run untimed, as tests",
)


# pytest-benchmark reads its options in its own hook of this name, which is marked to come last.
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if config.option.benchmark:
        if not has_pytest_benchmark(config):
            raise pytest.UsageError(INSTALL)
        time_benches(config)
    elif has_pytest_benchmark(config) and not (config.option.benchmark_enable or config.option.benchmark_only):
        config.option.benchmark_disable = True


def time_benches(config: pytest.Config) -> None:
    """Look into benches/ alone, unless the command line names files, and set up pytest-benchmark."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = [str(BENCHES)]
    for option, value in TIMED_DEFAULTS.items():
        flag = "--" + option.replace("_", "-")
        if not any(argument.split("=")[0] == flag for argument in config.invocation_params.args):
            setattr(config.option, option, value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if is_left_out(item, config)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_left_out(item: pytest.Item, config: pytest.Config) -> bool:
    if not config.option.benchmark:
        return item.get_closest_marker("only_timed") is not None
    named = {(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args}
    return not is_bench(item.path) or (
        item.get_closest_marker("only_when_named") is not None and item.path.resolve() not in named
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if is_bench(collection_path) and not has_pytest_benchmark(config) else None


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if has_pytest_benchmark(config) else f"benches left out; {INSTALL}"
