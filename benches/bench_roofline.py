"""How near the machine's limits: the share of the FMA peak, and for one example that of the bandwidth of reading.

Both limits are measured by probe.c in the same rounds as the nets. One example is held against reading as many bytes
as the net has parameters, wherever they lie: in L2, in L3 or in memory.
"""

import probe
import pytest
from peers import OURS, maker
from tables import microseconds, percent
from workloads import N_THREADS, THREADS, cases

import fastmlp
from fastmlp._bench._check import check
from fastmlp._bench._contenders import Way
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._tasks import TASKS, flop_of, way_of
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS

pytestmark = pytest.mark.only_when_named

SECONDS = 0.3
LIMIT = "limit"


def ways_of(task: str, workload: Workload) -> dict[str, Way]:
    """The task on every backend, checked."""
    makes = {name: maker(OURS + name, workload, N_THREADS) for name in fastmlp.available_backends()}
    for make in makes.values():
        check(make, task, workload)
    return {name: way_of(make, task, workload) for name, make in makes.items()}


def seconds_of(ways: dict[str, Way]) -> dict[str, float]:
    return time_in_rounds({name: stopwatch(way) for name, way in ways.items()}, SECONDS)


def columns(seconds: dict[str, float], shares: dict[str, float]) -> tuple[list[str], list[str]]:
    """For each backend its time and its share: header and cells."""
    header = [title for name in shares for title in (f"{name} µs", "share")]
    cells = [cell for name, share in shares.items() for cell in (microseconds(seconds[name]), percent(share))]
    return header, cells


@pytest.fixture(autouse=True, scope="module")
def compiler() -> None:
    try:
        probe.compiled("float32")
    except probe.NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", cases(*WORKLOADS))
@pytest.mark.parametrize("task", ["step", "forward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_share_of_peak(case, task, dtype, timed, tables):
    workload = WORKLOADS[case]._replace(dtype=dtype)
    ways = ways_of(task, workload)
    multiply_add, flop_of_limit = probe.multiply_add(dtype)
    if timed:
        seconds = seconds_of({LIMIT: multiply_add} | ways)
        peak = N_THREADS * flop_of_limit / seconds[LIMIT]
        flop = flop_of(task, workload)
        header, cells = columns(seconds, {name: flop / seconds[name] / peak for name in ways})
        net = f"{case} {workload.name} b{workload.n}"
        tables.add(
            f"Share of the FMA peak, {task}: {TASKS[task]}; {dtype}, {THREADS}",
            ["net", "MFLOP", "peak GFLOP/s", *header],
            [net, f"{flop / 1e6:.3g}", f"{peak / 1e9:.1f}", *cells],
        )


@pytest.mark.parametrize(
    "layer_sizes",
    [
        (64, 100, 10),
        (784, 128, 10),
        pytest.param((784, 800, 800, 10), marks=pytest.mark.only_timed),
        pytest.param((3072, 3072, 3072, 3072), marks=pytest.mark.only_timed),
    ],
    ids=lambda layer_sizes: "-".join(map(str, layer_sizes)),
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_share_of_bandwidth(layer_sizes, dtype, timed, tables):
    workload = Workload(layer_sizes, "relu", "softmax", 1, dtype)
    ways = ways_of("one", workload)
    n_bytes = sum(W.nbytes + b.nbytes for W, b in workload.parameters())
    read, bytes_of_limit = probe.reading(dtype, n_bytes)
    if timed:
        seconds = seconds_of({LIMIT: read} | ways)
        bandwidth = bytes_of_limit / seconds[LIMIT]
        header, cells = columns(seconds, {name: n_bytes / seconds[name] / bandwidth for name in ways})
        tables.add(
            f"Share of the bandwidth of reading as many bytes, one: {TASKS['one']}; {dtype}",
            ["net", "kB", "read GB/s", *header],
            [workload.name, f"{n_bytes / 1e3:,.0f}", f"{bandwidth / 1e9:.1f}", *cells],
        )
