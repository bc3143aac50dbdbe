"""fastmlp beside every peer that is installed: same parameters, data, loss, dtype and threads, plain SGD.

What each library computes is first checked against float64. A peer that is given several threads is also timed with
one, and its better time counts. ``-k float32`` leaves out the half in float64.
"""

from collections.abc import Iterator

import pytest
from peers import OURS, contenders, missing
from race import best_peer, prepare, race, team
from tables import Tables, microseconds, times
from worker import Worker
from workloads import N_THREADS, THREADS, cases

from fastmlp._bench._tasks import TASKS
from fastmlp._bench._workloads import WORKLOADS

pytestmark = pytest.mark.only_when_named


@pytest.fixture(scope="module")
def workers(pytestconfig) -> Iterator[list[Worker]]:
    names = contenders()
    if not pytestconfig.option.benchmark:  # tests/test_bench.py has fastmlp itself checked, faster
        names = [name for name in names if not name.startswith(OURS)]
    with team(names, N_THREADS) as workers:
        yield workers


@pytest.mark.parametrize("case", cases("xor", "policy", "digits", "mnist", "mnist-wide", "wide"))
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_case(case, task, dtype, workers, timed, tables):
    workload = WORKLOADS[case]._replace(dtype=dtype)
    ready = prepare(workers, task, workload)
    assert ready
    if timed:
        title = f"{task}: {TASKS[task]}; {dtype}, {THREADS}, µs"
        add_row(tables, title, f"{case} {workload.name} b{workload.n}", race(ready, task, workload))


def add_row(tables: Tables, title: str, case: str, seconds: dict[str, float]) -> None:
    best = best_peer(seconds)
    ours = [name for name in seconds if name.startswith(OURS)]
    header = ["case", *seconds, "best peer", *(f"lead {name.removeprefix(OURS)}" for name in ours)]
    leads = [times(seconds[best] / seconds[name]) for name in ours]
    tables.add(title, header, [case, *map(microseconds, seconds.values()), best, *leads])
    if lacking := missing():
        tables.remark("not installed: " + "; ".join(f"{name} ({packages})" for name, packages in lacking.items()))
