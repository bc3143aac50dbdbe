"""The orders that fit draws: NumPy's own permutations, whoever draws them."""

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net

import fastmlp
from fastmlp import _orders

# Below and above what the kernels are asked for, around the powers of two where the bits drawn change, and beyond what
# is drawn at once.
SHAPES = (
    (1, 1),
    (1, 1024),
    (7, 1),
    (513, 2),
    (512, 3),
    (341, 4),
    (1, 1500),
    (3, 513),
    (2, 1025),
    (1, 65537),
    (40, 100),
)


def engine_of(backend):
    return make_net((3, 4, 2), backend=backend)[0]._engine


def ensemble_engine_of(backend):
    return fastmlp.MLPEnsemble([3, 4, 2], 2, rng=0, backend=backend)._engine


@pytest.fixture(params=[engine_of, ensemble_engine_of], ids=["net", "ensemble"])
def engine(request, backend):
    return request.param(backend)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["whole", "half a number left"])
def test_orders_are_permutations_of_numpy(engine, shape, half):
    rng, other = np.random.default_rng(shape[1]), np.random.default_rng(shape[1])
    for generator in (rng, other):
        generator.integers(10, size=1 + half, dtype=np.uint32)
    assert rng.bit_generator.state["has_uint32"] != half
    orders = np.empty(shape, dtype=np.int64)
    _orders.draw_orders(engine, rng, orders)
    assert_same_bits(orders, np.array([other.permutation(shape[1]) for _ in range(shape[0])]))
    assert rng.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("seed", range(50))
def test_orders_from_many_states(compiled_backend, seed):
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
    orders = np.empty((1 + seed % 3, 700 + 97 * seed), dtype=np.int64)
    words = {}
    engine = engine_of(compiled_backend)
    draw = engine.draw_orders
    engine.draw_orders = lambda generator, drawn: words.update(done=draw(generator, drawn)) or words["done"]
    _orders.draw_orders(engine, rng, orders)
    assert words == {"done": True} or orders.size < _orders.SHORTEST
    assert_same_bits(orders, np.array([other.permutation(orders.shape[1]) for _ in orders]))
    assert rng.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64])
def test_other_generators_are_left_to_numpy(backend, kind):
    rng, other = (np.random.Generator(kind(3)) for _ in range(2))
    orders = np.empty((2, 1000), dtype=np.int64)
    _orders.draw_orders(engine_of(backend), rng, orders)
    assert_same_bits(orders, np.array([other.permutation(1000) for _ in range(2)]))


def test_kernels_that_draw_otherwise_are_not_asked(monkeypatch):
    class Engine:
        asked = 0

        def draw_orders(self, generator, orders):
            self.asked += 1
            orders[...] = np.arange(orders.shape[1])
            return True

    engine = Engine()
    orders = np.empty((2, 1000), dtype=np.int64)
    _orders.draw_orders(engine, np.random.default_rng(0), orders)
    other = np.random.default_rng(0)
    assert_same_bits(orders, np.array([other.permutation(1000) for _ in range(2)]))
    assert engine.asked == 1  # to see whether they agree


def test_a_fit_goes_by_these_orders(backend):
    """Epochs of 1,200 examples, in the order of NumPy's permutations."""
    net, _ = make_net((3, 4, 2), output_activation="softmax", backend=backend)
    other = net.copy()
    X, y = make_examples(net, 1200)
    net.fit(X, y, optimizer=fastmlp.SGD(lr=0.1), epochs=2, batch_size=100, rng=np.random.default_rng(4))
    rng, optimizer = np.random.default_rng(4), fastmlp.SGD(lr=0.1)
    for _ in range(2):
        order = rng.permutation(1200)
        for start in range(0, 1200, 100):
            rows = order[start : start + 100]
            optimizer.step(other, X[rows], y[rows])
    assert_same_bits(net.parameters, other.parameters)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orders_are_shuffled_as_numpy_does(backend, shape):
    rng, other = np.random.RandomState(shape[1]), np.random.RandomState(shape[1])
    orders = np.empty(shape, dtype=np.int64)
    orders[0] = order = np.arange(shape[1])
    for _ in range(2):
        _orders.shuffle_orders(engine_of(backend), rng, orders)
        for shuffled in orders:
            other.shuffle(order)
            assert_same_bits(shuffled, order)
        orders[0] = order
    assert rng.randint(2**31) == other.randint(2**31)
    np.testing.assert_array_equal(rng.get_state()[1], other.get_state()[1])


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.Philox, np.random.SFC64])
def test_any_generator_shuffles(backend, kind):
    rng, other = (np.random.RandomState(kind(3)) for _ in range(2))
    orders, order = np.tile(np.arange(1000), (2, 1)), np.arange(1000)
    _orders.shuffle_orders(engine_of(backend), rng, orders)
    for shuffled in orders:
        other.shuffle(order)
        assert_same_bits(shuffled, order)
    assert rng.bytes(8) == other.bytes(8)


def test_kernels_that_shuffle_otherwise_are_not_asked(monkeypatch):
    class Engine:
        asked = 0

        def shuffle_orders(self, next_uint32, state, orders):
            self.asked += 1
            return True

    engine, orders, order = Engine(), np.tile(np.arange(50), (2, 1)), np.arange(50)
    rng, other = np.random.RandomState(0), np.random.RandomState(0)
    for _ in range(2):
        orders[0] = order
        _orders.shuffle_orders(engine, rng, orders)
        for shuffled in orders:
            other.shuffle(order)
            assert_same_bits(shuffled, order)
    assert engine.asked == 1
