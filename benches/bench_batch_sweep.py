"""No cliffs: time per example by batch size, and time per multiplication by the width of layers."""

import pytest
from peers import OURS, maker
from tables import times
from workloads import N_THREADS, THREADS

import fastmlp
from fastmlp._bench._check import check
from fastmlp._bench._contenders import Way
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._tasks import flop_of, way_of
from fastmlp._bench._workload import Workload

pytestmark = pytest.mark.only_when_named

BATCH_SIZES = (*range(1, 17), *(2**power for power in range(5, 13)))
WIDTHS = (45, 46, 47, 48, 49, 63, 64, 65)
ROW_BYTES = 64  # to a multiple of which rows of parameters are padded
SECONDS = 0.15


def checked_ways(workloads: dict[int, Workload], task: str) -> dict[tuple[str, int], Way]:
    """The task on every backend for every workload."""
    ways = {}
    for key, workload in workloads.items():
        for name in fastmlp.available_backends():
            make = maker(OURS + name, workload, N_THREADS)
            check(make, task, workload)
            ways[name, key] = way_of(make, task, workload)
    return ways


def in_rounds(ways: dict[tuple[str, int], Way]) -> dict[tuple[str, int], float]:
    return time_in_rounds({key: stopwatch(way) for key, way in ways.items()}, SECONDS)


@pytest.mark.parametrize("task", ["step", "forward"])
def test_batch_sizes(task, timed, tables):
    sizes = BATCH_SIZES if timed else BATCH_SIZES[:16]
    workloads = {n: Workload((64, 100, 10), "relu", "softmax", n) for n in sizes}
    ways = checked_ways(workloads, task)
    if timed:
        seconds = in_rounds(ways)
        for n in sizes:
            row = [str(n)]
            for name in fastmlp.available_backends():
                per_example = {size: seconds[name, size] / size for size in sizes if size <= n}
                least_before = min((per_example[size] for size in sizes if size < n), default=per_example[n])
                row += [f"{1e6 * per_example[n]:.3f}", times(per_example[n] / least_before)]
            title = f"µs per example of 64-100-10, and against the least of smaller batches; {about(task, 'float32')}"
            tables.add(title, header("batch"), row)


@pytest.mark.parametrize("task", ["step", "forward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_widths(dtype, task, timed, tables):
    workloads = {n: Workload((n, n, n), "relu", "softmax", 64, dtype) for n in with_neighbours(dtype)}
    ways = checked_ways(workloads, task)
    if timed:
        seconds = in_rounds(ways)
        for n in WIDTHS:
            row = [f"{n}-{n}-{n}"]
            for name in fastmlp.available_backends():
                each, neighbour = (
                    seconds[name, width] / (flop_of(task, workloads[width]) / 2) for width in (n, padded(n, dtype))
                )
                row += [f"{1e12 * each:.1f}", times(each / neighbour)]
            title = f"ps per product, batch 64, and against that of the width of rows in memory; {about(task, dtype)}"
            tables.add(title, header("net"), row)


def about(task: str, dtype: str) -> str:
    return f"{task}, {dtype}, {THREADS}"


def header(first: str) -> list[str]:
    return [first, *(title for name in fastmlp.available_backends() for title in (name, "against"))]


def padded(width: int, dtype: str) -> int:
    """The width of its rows as they lie in memory."""
    numbers = ROW_BYTES // (4 if dtype == "float32" else 8)
    return -(-width // numbers) * numbers


def with_neighbours(dtype: str) -> list[int]:
    return sorted({*WIDTHS, *(padded(width, dtype) for width in WIDTHS)})
