"""The orders of examples that fit draws: ``Generator.permutation``, computed by the kernels where they can, and
``RandomState.shuffle`` for estimators that follow scikit-learn."""

from typing import Any

import numpy as np

from fastmlp._backends._engine import DrawsOrders, Engine

# Numbers from which it pays to take a generator's state out of NumPy and to put it back, which takes 4 us.
SHORTEST = 1024
LARGEST = 2**31  # 32 bits are drawn for each
_WORD = 2**64 - 1

# Whether the kernels of an engine draw what this NumPy draws; asked once.
_agreeing: dict[type, bool] = {}


def draw_orders(engine: DrawsOrders, rng: np.random.Generator, orders: np.ndarray) -> None:
    """Fill each row of ``orders`` (epochs, n), int64 and C-contiguous, with ``rng.permutation(n)``."""
    epochs, n = orders.shape
    bit_generator = rng.bit_generator
    knows = type(bit_generator) is np.random.PCG64 and type(rng) is np.random.Generator
    if orders.size >= SHORTEST and n <= LARGEST and knows and _agree(engine):
        with bit_generator.lock:
            _draw(engine, bit_generator, orders)
    elif epochs == 1:
        orders[0] = rng.permutation(n)
    else:  # the same numbers, in less than two thirds of the time where n is small
        orders[...] = np.arange(n)
        rng.permuted(orders, axis=1, out=orders)


def _draw(engine: DrawsOrders, bit_generator: np.random.BitGenerator, orders: np.ndarray) -> bool:
    """By the kernels: False, and nothing done, where they cannot."""
    state: Any = bit_generator.state
    number, increment = state["state"]["state"], state["state"]["inc"]
    words = np.array(
        [number & _WORD, number >> 64, increment & _WORD, increment >> 64, state["has_uint32"], state["uinteger"]],
        dtype=np.uint64,
    )
    if not engine.draw_orders(words, orders):
        return False
    low, high, _, _, state["has_uint32"], state["uinteger"] = words.tolist()
    state["state"] = {"state": high << 64 | low, "inc": increment}
    bit_generator.state = state
    return True


def _agree(engine: DrawsOrders) -> bool:
    """Whether they draw the same and leave the generator in the same state: a later NumPy may shuffle differently."""
    known = _agreeing.get(type(engine))
    if known is None:
        rng, other = np.random.default_rng(0), np.random.default_rng(0)
        orders = np.empty((3, 700), dtype=np.int64)
        known = _agreeing[type(engine)] = (
            _draw(engine, rng.bit_generator, orders)
            and all((order == other.permutation(700)).all() for order in orders)
            and rng.bit_generator.state == other.bit_generator.state
        )
    return known


# The same of shuffles.
_shuffling_alike: dict[type, bool] = {}


def shuffle_orders(engine: Engine, rng: np.random.RandomState, orders: np.ndarray) -> None:
    """Make each row of ``orders`` (epochs, n), int64 and C-contiguous, the one before it after ``rng.shuffle``; the
    first is shuffled as it is."""
    if orders.shape[1] <= LARGEST and _shuffle_alike(engine) and _shuffle(engine, rng, orders):
        return
    for before, order in zip((None, *orders), orders):
        if before is not None:
            order[:] = before
        rng.shuffle(order)


def _shuffle(engine: Engine, rng: np.random.RandomState, orders: np.ndarray) -> bool:
    """By the kernels: False, and nothing done, where they cannot."""
    bit_generator: Any = getattr(rng, "_bit_generator", None)
    if type(rng) is not np.random.RandomState or not isinstance(bit_generator, np.random.BitGenerator):
        return False
    import ctypes

    interface = bit_generator.ctypes  # NumPy's own for callers in C
    next_uint32 = ctypes.cast(interface.next_uint32, ctypes.c_void_p).value
    if not next_uint32 or not interface.state_address:
        return False
    with bit_generator.lock:
        return engine.shuffle_orders(next_uint32, interface.state_address, orders)


def _shuffle_alike(engine: Engine) -> bool:
    """Whether they shuffle as this NumPy does."""
    known = _shuffling_alike.get(type(engine))
    if known is None:
        rng, other = np.random.RandomState(0), np.random.RandomState(0)
        orders, expected = np.tile(np.arange(700), (3, 1)), np.arange(700)
        known = _shuffle(engine, rng, orders)
        for order in orders:
            other.shuffle(expected)
            known = known and bool((order == expected).all())
        known = known and rng.randint(2**31) == other.randint(2**31)
        _shuffling_alike[type(engine)] = known
    return known
