"""Jacobians and further derivatives beside torch.func and jax, those of them that are installed.

All compute on the same parameters and examples, with one thread unless FASTMLP_NUM_THREADS says otherwise, and are
first checked against float64. ``-k jacobian-`` leaves out the other derivatives, ``-k float32`` the half in float64.
"""

import numpy as np
import pytest
from derivative_ways import EXAMPLES, HVP, JACOBIAN, JVP, expected, missing, ways
from tables import Tables, microseconds, times
from workloads import THREADS

from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._workload import Workload

# Libraries warn of what becomes of their own parts.
pytestmark = [pytest.mark.only_when_named, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SECONDS = 0.3
# Of the largest element.
TOLERANCES = {"float32": 2e-5, "float64": 1e-11}
# The second has fewer inputs than outputs: its Jacobians go forward.
NETS = {"policy": (17, 64, 64, 6), "field": (3, 64, 64, 16)}


@pytest.mark.parametrize("n", [1, 64, pytest.param(1024, marks=pytest.mark.only_timed)])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("derivative", [JACOBIAN, JVP, EXAMPLES, HVP])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivative(net, derivative, dtype, n, timed, tables):
    workload = Workload(NETS[net], "tanh", "identity", n, dtype)
    contenders = ways(workload, derivative)
    right = expected(workload, derivative)
    for name, way in contenders.items():
        error = np.max(np.abs(np.asarray(way()) - right)) / np.max(np.abs(right))
        assert error < TOLERANCES[dtype], f"{name} is off by {error:.1e} of the largest element"
    if timed:
        seconds = time_in_rounds({name: stopwatch(way) for name, way in contenders.items()}, SECONDS)
        add_row(tables, f"{derivative}: {dtype}, {THREADS}, µs", f"{net} {workload.name} n={n}", seconds)


def add_row(tables: Tables, title: str, case: str, seconds: dict[str, float]) -> None:
    """The times, and how many times as fast fastmlp's best is as the better way of each library."""
    ours = min(taken for name, taken in seconds.items() if name.startswith("fastmlp"))
    leads = {}
    for library in ("torch.func", "jax.jit"):
        theirs = [taken for name, taken in seconds.items() if name.startswith(library)]
        if theirs:
            leads[f"{library} / fastmlp"] = times(min(theirs) / ours)
    tables.add(title, ["net", *seconds, *leads], [case, *map(microseconds, seconds.values()), *leads.values()])
    if lacking := missing():
        tables.remark("not installed: " + ", ".join(lacking))
