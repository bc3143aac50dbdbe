"""Many small nets at once: one MLPEnsemble beside a loop of fits, and beside jax.vmap where JAX is installed.

All train 8-16-1 by SGD on 500 examples in batches of 32. An ensemble and the loop make their nets, too, and draw all
orders; members must be the same bits as fits. JAX gets its nets and orders ready made and leaves out the last, smaller
batch of each epoch; it must come to the same parameters but for rounding. The loop is timed over fewer nets and JAX
over fewer epochs, since all of these cost the same. Threads are left alone.
"""

import time
from collections.abc import Callable

import numpy as np
import pytest
from tables import Tables, times
from workloads import require

import fastmlp

pytestmark = pytest.mark.only_when_named

SIZES, N_EXAMPLES, BATCH, RATE = (8, 16, 1), 500, 32, 0.01
N_MEMBERS, EPOCHS = 1000, 100
N_ROUNDS = 3
LOOPED_MEMBERS, JAX_EPOCHS = 100, 5
TITLE = f"{N_MEMBERS} nets 8-16-1, {N_EXAMPLES} examples, {EPOCHS} epochs, batches of {BATCH}, SGD, float32"
HEADER = ["beside the ensemble", "backend", "its seconds", "ensemble's seconds", "ratio"]


def examples(n: int = N_EXAMPLES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, SIZES[0])).astype(np.float32)
    return X, np.sin(X.sum(axis=1, keepdims=True)).astype(np.float32)


def ensemble(n_members: int, epochs: int, backend: str, n: int = N_EXAMPLES) -> np.ndarray:
    """The parameters of all members after training."""
    X, y = examples(n)
    nets = fastmlp.MLPEnsemble(SIZES, n_members, rng=range(n_members), backend=backend)
    nets.fit(X, y, optimizer=fastmlp.SGD(lr=RATE), epochs=epochs, batch_size=BATCH)
    return nets.parameters


def loop(n_members: int, epochs: int, backend: str) -> np.ndarray:
    """The same by a fit for each net."""
    X, y = examples()
    parameters = []
    for member in range(n_members):
        net = fastmlp.MLP(SIZES, rng=member, backend=backend)
        net.fit(X, y, optimizer=fastmlp.SGD(lr=RATE), epochs=epochs, batch_size=BATCH)
        parameters.append(net.parameters)
    return np.array(parameters)


def with_jax(n_members: int, epochs: int, n: int = N_EXAMPLES) -> Callable[[], np.ndarray]:
    """Training by jax.vmap over the nets of a compiled scan over all steps; it returns their parameters."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    X, y = (jnp.asarray(array) for array in examples(n))
    nets = fastmlp.MLPEnsemble(SIZES, n_members, rng=range(n_members), backend="numpy")
    layers = [(jnp.asarray(W.transpose(0, 2, 1)), jnp.asarray(b)) for W, b in zip(nets.weights, nets.biases)]
    steps = n // BATCH
    orders = np.empty((n_members, epochs * steps, BATCH), dtype=np.int32)
    for member, own in enumerate(orders.reshape(n_members, epochs, -1)):
        rng = nets[member]._shuffle_rng
        for order in own:
            order[...] = rng.permutation(n)[: steps * BATCH]

    def loss(layers, X, y):
        *hidden, (W, b) = layers
        for W_hidden, b_hidden in hidden:
            X = jax.nn.relu(X @ W_hidden + b_hidden)
        return jnp.mean((X @ W + b - y) ** 2)

    def step(layers, rows):
        value, gradients = jax.value_and_grad(loss)(layers, X[rows], y[rows])
        return jax.tree.map(lambda p, g: p - RATE * g, layers, gradients), value

    compiled = jax.jit(jax.vmap(lambda layers, orders: jax.lax.scan(step, layers, orders)[0]))
    orders = jnp.asarray(orders)
    compiled(layers, orders)[0][0].block_until_ready()

    def train() -> np.ndarray:
        trained = compiled(layers, orders)
        parts = [part for W, b in trained for part in (np.asarray(W).transpose(0, 2, 1), np.asarray(b))]
        return np.concatenate([part.reshape(n_members, -1) for part in parts], axis=1)

    return train


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def add_row(tables: Tables, name: str, backend: str, work: Callable[[], object], share: float) -> None:
    """Time the ensemble and other work, the ``share`` of the same, in turns."""
    rounds = [
        (seconds_of(work) / share, seconds_of(lambda: ensemble(N_MEMBERS, EPOCHS, backend))) for _ in range(N_ROUNDS)
    ]
    other, ours = np.median(rounds, axis=0)
    tables.add(TITLE, HEADER, [name, backend, f"{other:.2f}", f"{ours:.2f}", times(other / ours)])


@pytest.mark.parametrize("backend", ["c", "numba"])
def test_beside_a_loop_of_fits(backend: str, timed: bool, tables: Tables) -> None:
    require(backend)
    assert ensemble(5, 2, backend).tobytes() == loop(5, 2, backend).tobytes(), "members are not the bits of single fits"
    if timed:
        work = lambda: loop(LOOPED_MEMBERS, EPOCHS, backend)  # noqa: E731
        add_row(tables, "loop of fits", backend, work, LOOPED_MEMBERS / N_MEMBERS)


def test_beside_jax(timed: bool, tables: Tables) -> None:
    require("c")
    whole_batches = 5 * BATCH
    actual, expected = with_jax(4, 3, whole_batches)(), ensemble(4, 3, "c", whole_batches)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    if timed:
        add_row(tables, "jax.vmap", "c", with_jax(N_MEMBERS, JAX_EPOCHS), JAX_EPOCHS / EPOCHS)
