"""One example through exported C and through the C backend's own kernel, both called from a loop in C.

The bits are compared first. What Python adds to a call is left out on both sides.
"""

import shutil
from functools import partial

import numpy as np
import pytest
from tables import Tables, microseconds, times
from workloads import require

import fastmlp
from fastmlp._bench._rounds import stopwatch, time_in_rounds
from fastmlp._bench._workload import Workload
from fastmlp._demos._compiled_c import CompiledNet

pytestmark = pytest.mark.only_when_named

NETS = {
    "xor": Workload((2, 2, 1), "tanh", "sigmoid", 1),
    "small": Workload((8, 64, 64, 4), "relu", "identity", 1),
    "policy": Workload((17, 64, 64, 6), "tanh", "identity", 1),
    "gelu": Workload((17, 64, 64, 6), "gelu", "identity", 1),
    "digits": Workload((64, 100, 10), "relu", "softmax", 1),
    "mnist": Workload((784, 128, 10), "relu", "softmax", 1),
    "deep": Workload((54, 256, 256, 256, 7), "relu", "softmax", 1),
    "mnist-wide": Workload((784, 800, 800, 10), "relu", "softmax", 1),
}
LARGE = ("mnist", "deep", "mnist-wide")
COMPILERS = tuple(name for name in ("gcc", "clang") if shutil.which(name))
SECONDS = 0.2


class Kernel:
    """The C backend's forward pass of one example, below Python."""

    def __init__(self, net: fastmlp.MLP, x: np.ndarray) -> None:
        from fastmlp import _fastmlp_c

        ffi, lib = _fastmlp_c.ffi, _fastmlp_c.lib
        self.function = int(ffi.cast("intptr_t", ffi.addressof(lib, "fastmlp_forward_call")))
        self.call = net._engine._new_forward_call(1)
        self.call.x[...] = x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.only_timed] if name in LARGE else []) for name in NETS]
)
def test_case(case: str, dtype: str, timed: bool, tables: Tables, tmp_path) -> None:
    require("c")
    if not COMPILERS:
        pytest.skip("there is neither gcc nor clang")
    workload = NETS[case]._replace(dtype=dtype)
    net = workload.net("c", 1)
    x = workload.examples()[0][0]
    net.export_c(tmp_path / "mlp.c")
    made = {
        name: CompiledNet(tmp_path / "mlp.c", "mlp", workload.layer_sizes[-1], net.dtype, name) for name in COMPILERS
    }
    for compiled in made.values():
        np.testing.assert_allclose(compiled(x[None])[0], net.forward(x), rtol=1e-5)
    if not timed:
        return
    kernel = Kernel(net, x)
    one = next(iter(made.values()))
    timers = {"backend c": lambda n: stopwatch(partial(one.repeat_call, n, kernel.function, kernel.call.call))(1)}
    for name, compiled in made.items():
        timers[name] = lambda n, compiled=compiled: stopwatch(partial(compiled.repeat, n, x))(1)
    seconds = time_in_rounds(timers, SECONDS)
    ratios = [times(seconds[name] / seconds["backend c"]) for name in made]
    header = ["net", *seconds, *(f"{name} / backend" for name in made)]
    row = [f"{workload.name} {workload.activation}", *map(microseconds, seconds.values()), *ratios]
    tables.add(f"one example, {dtype}, µs: exported C at -O3 -march=native beside the C backend's kernel", header, row)
