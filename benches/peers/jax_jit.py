"""JAX, compiled: a whole epoch as one compiled scan, or a compiled call for each step on batches that NumPy gathers."""

import jax
import jax.numpy as jnp
import numpy as np

from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload

jax.config.update("jax_platforms", "cpu")

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}


def cross_entropy(z: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def binary_cross_entropy(z: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(jax.nn.softplus(z) - y * z)


class JAX:
    def __init__(self, workload: Workload, learning_rate: float) -> None:
        jax.config.update("jax_enable_x64", workload.dtype == "float64")
        # (n_{l-1}, n_l), in which XLA multiplies fastest.
        self.layers = [(jnp.asarray(W.T.copy()), jnp.asarray(b)) for W, b in workload.parameters()]
        self.activation = ACTIVATIONS[workload.activation]
        self.loss = cross_entropy if workload.output_activation == "softmax" else binary_cross_entropy
        self.learning_rate = learning_rate
        self.batch_size = workload.n

    def logits_of(self, layers: list, X: jax.Array) -> jax.Array:
        *hidden, (W, b) = layers
        for W_hidden, b_hidden in hidden:
            X = self.activation(X @ W_hidden + b_hidden)
        return X @ W + b

    def stepped(self, layers: list, X: jax.Array, y: jax.Array) -> tuple[list, jax.Array]:
        """The parameters after a step, and the loss before it."""
        loss, gradients = jax.value_and_grad(lambda layers: self.loss(self.logits_of(layers, X), y))(layers)
        return jax.tree.map(lambda p, g: p - self.learning_rate * g, layers, gradients), loss

    def logits(self, X: Array) -> Way:
        compiled, inputs = jax.jit(self.logits_of), jnp.asarray(X)
        return lambda: compiled(self.layers, inputs).block_until_ready()

    def step(self, X: Array, y: Array) -> Way:
        compiled, inputs, targets = jax.jit(self.stepped, donate_argnums=0), jnp.asarray(X), jnp.asarray(y)

        def way() -> None:
            self.layers, loss = compiled(self.layers, inputs, targets)
            loss.block_until_ready()

        return way

    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        def scan(layers: list, X: jax.Array, y: jax.Array, batches: jax.Array) -> tuple[list, jax.Array]:
            return jax.lax.scan(lambda layers, batch: self.stepped(layers, X[batch], y[batch]), layers, batches)

        compiled, inputs, targets = jax.jit(scan, donate_argnums=0), jnp.asarray(X), jnp.asarray(y)

        def way() -> None:
            batches = rng.permutation(len(X)).reshape(-1, self.batch_size)
            self.layers, losses = compiled(self.layers, inputs, targets, batches)
            losses.block_until_ready()

        return way

    def parameters(self) -> list[tuple[Array, Array]]:
        return [(np.asarray(W).T, np.asarray(b)) for W, b in self.layers]


class JAXByStep(JAX):
    def epoch(self, X: Array, y: Array, rng: np.random.Generator) -> Way:
        compiled = jax.jit(self.stepped, donate_argnums=0)

        def way() -> None:
            order = rng.permutation(len(X))
            for start in range(0, len(X), self.batch_size):
                batch = order[start : start + self.batch_size]
                self.layers, loss = compiled(self.layers, X[batch], y[batch])
            loss.block_until_ready()

        return way
