"""What the benches share: nets, data, the count of operations, and what is noted beside each time."""

import os
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastmlp
from fastmlp import _backends

BACKENDS = ("c", "numba", "numpy")

# One by default, for BLAS too: a second thread that waits for a busy core made small products 100 times slower.
N_THREADS = int(os.environ.get("FASTMLP_NUM_THREADS", "1"))


class Workload(NamedTuple):
    """A net and how many examples it is given at once."""

    layer_sizes: tuple[int, ...]
    activation: str
    output_activation: str
    n: int

    @property
    def name(self) -> str:
        return "-".join(map(str, self.layer_sizes))

    @property
    def forward_flop(self) -> int:
        """A multiplication and an addition for every weight and example; biases and activations do not count."""
        return 2 * self.n * sum(n_in * n_out for n_in, n_out in zip(self.layer_sizes, self.layer_sizes[1:]))

    @property
    def step_flop(self) -> int:
        """Forward, weight gradients and input gradients; the first layer needs none of the last."""
        first_layer = 2 * self.n * self.layer_sizes[0] * self.layer_sizes[1]
        return 3 * self.forward_flop - first_layer

    def net(self, backend: str) -> fastmlp.MLP:
        """The net, with the same parameters on every backend."""
        if backend not in fastmlp.available_backends():
            give_up = pytest.fail if os.environ.get("CI") or os.environ.get("FASTMLP_REQUIRE_C") else pytest.skip
            give_up(f"the {backend} backend is missing: {_backends.why_missing()[backend]}")
        return fastmlp.MLP(
            self.layer_sizes,
            activation=self.activation,
            output_activation=self.output_activation,
            rng=0,
            backend=backend,
            n_threads=N_THREADS,
        )

    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """X (n, n_0) in float32, and targets that suit the output activation."""
        rng = np.random.default_rng(1)
        X = rng.standard_normal((self.n, self.layer_sizes[0]), dtype=np.float32)
        n_out = self.layer_sizes[-1]
        if self.output_activation == "softmax":
            return X, rng.integers(0, n_out, self.n)
        if self.output_activation == "sigmoid":
            return X, rng.integers(0, 2, (self.n, n_out)).astype(np.float32)
        return X, rng.standard_normal((self.n, n_out), dtype=np.float32)


def note(benchmark: Any, net: fastmlp.MLP, flop: int, n: int) -> None:
    """Keep beside a time, in extra_info, what computed it and how fast that is."""
    info = {
        "backend": net.backend,
        "instruction_set": _backends.instruction_set(net.backend),
        "threads": N_THREADS,
        "flop": flop,
        "examples": n,
    }
    if benchmark.enabled:
        seconds = benchmark.stats.stats.median
        info |= {"gflops": flop / seconds / 1e9, "examples_per_second": n / seconds}
    benchmark.extra_info.update(info)
