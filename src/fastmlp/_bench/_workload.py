"""A workload: a net, how many examples it is given at once, and how many operations that takes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp

Array = NDArray[Any]


class Workload(NamedTuple):
    """A net and how many examples it is given at once."""

    layer_sizes: tuple[int, ...]
    activation: str
    output_activation: str
    n: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """The layer sizes: 64-100-10."""
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

    def parameters(self) -> list[tuple[Array, Array]]:
        """W_l (n_l, n_{l-1}) and b_l (n_l,) of every layer, the same for whatever library computes."""
        rng = np.random.default_rng(0)
        return [
            (
                (rng.standard_normal((n_out, n_in)) * np.sqrt(2.0 / n_in)).astype(self.dtype),
                (0.1 * rng.standard_normal(n_out)).astype(self.dtype),
            )
            for n_in, n_out in zip(self.layer_sizes, self.layer_sizes[1:])
        ]

    def net(self, backend: str | None = None, n_threads: int | None = None) -> fastmlp.MLP:
        """The net, with these parameters."""
        net = fastmlp.MLP(
            self.layer_sizes,
            activation=self.activation,
            output_activation=self.output_activation,
            initializer="zeros",
            dtype=self.dtype,
            rng=0,
            backend=backend,
            n_threads=n_threads,
        )
        weights, biases = zip(*self.parameters())
        net.set_weights(weights, biases)
        return net

    def examples(self, n: int | None = None) -> tuple[Array, Array]:
        """X (n, n_0), and targets that suit the output activation."""
        n = self.n if n is None else n
        rng = np.random.default_rng(1)
        X = rng.standard_normal((n, self.layer_sizes[0]), dtype=np.dtype(self.dtype))
        n_out = self.layer_sizes[-1]
        if self.output_activation == "softmax":
            return X, rng.integers(0, n_out, n)
        if self.output_activation == "sigmoid":
            return X, rng.integers(0, 2, (n, n_out)).astype(self.dtype)
        return X, rng.standard_normal((n, n_out), dtype=np.dtype(self.dtype))
