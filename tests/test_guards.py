"""Guard lines: in debug mode a kernel that writes beside its buffers is found, whichever backend it is of."""

import ctypes
import gc

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net, run_python

import fastmlp
from fastmlp import _guards, _layout
from fastmlp._backends import _plan


@pytest.fixture
def guarded(monkeypatch):
    monkeypatch.setattr(_guards, "active", True)


def overwrite(address, value=0):
    ctypes.c_char.from_address(address).value = bytes([value])


def test_off_by_default(monkeypatch):
    monkeypatch.setattr(_guards, "active", False)
    before = len(_guards._guarded)
    arena = _layout.aligned_zeros(5, np.float32)
    net, _ = make_net((3, 4, 2), backend="numpy")
    assert len(_guards._guarded) == before
    assert arena.base.size < 5 * 4 + 2 * _layout.LINE_BYTES
    assert "forward" not in vars(net._engine)


@pytest.mark.parametrize("value, expected", [("", False), ("0", False), ("1", True)])
def test_the_environment_variable(value, expected):
    assert run_python("import fastmlp; print(fastmlp._guards.active)", FASTMLP_DEBUG=value).strip() == str(expected)


@pytest.mark.parametrize("n", [1, 5, 16, 100])
def test_both_ends_of_an_arena(guarded, dtype, n):
    arena = _layout.aligned_zeros(n, dtype)
    start, end = arena.ctypes.data, arena.ctypes.data + arena.nbytes
    assert arena.size == n and not arena.any() and start % _layout.LINE_BYTES == 0
    arena[...] = np.inf
    _guards.check("filling")
    for address in (start - 1, start - _guards.GUARD_BYTES, end, end + _guards.GUARD_BYTES - 1):
        overwrite(address)
        with pytest.raises(RuntimeError, match=f"1 of the bytes .* of an arena of {arena.base.size} bytes"):
            _guards.check("nothing")
        _guards.check("and once is enough")


def test_arenas_that_are_gone_are_forgotten(guarded):
    gc.collect()
    before = len(_guards._guarded)
    arenas = [_layout.aligned_zeros(5, np.float32) for _ in range(3)]
    assert len(_guards._guarded) == before + 3
    del arenas
    assert len(_guards._guarded) == before
    net, _ = make_net((3, 4, 2), backend="numpy")
    del net
    gc.collect()
    assert len(_guards._guarded) == before


# Of all, of each thread, inputs, outputs, factors; and a small net has all for each thread, with a gradient.
@pytest.mark.parametrize(
    ("layer_sizes", "buffers"), [((3, 20, 2), 2 * (3 + 4 + 1 + 2 + 1 + 1)), ((3, 400, 400, 2), 3 + 2 * 4 + 1 + 3 + 2)]
)
def test_between_the_buffers_of_a_workspace(guarded, compiled_backend, dtype, layer_sizes, buffers):
    """One byte after each buffer, which begins the line after what it was laid out for."""
    net, _ = make_net(layer_sizes, activation="gelu", dtype=dtype, backend=compiled_backend, n_threads=2)
    plan = net._engine._training
    workspace = plan.new_workspace()
    assert len(plan._gaps) == buffers
    starts = [int(plan.record[0][name]) for name in ("parts", "losses", "target", "input")]
    for gap, following in zip(plan._gaps, [gap[0] for gap in plan._gaps[1:]] + [plan.workspace_size]):
        assert gap[1] <= following
        assert all(not gap[0] <= start < gap[1] for start in starts)
        overwrite(workspace.ctypes.data + gap[0] * workspace.itemsize)
        with pytest.raises(RuntimeError, match="overwrote guards"):
            _guards.check("nothing")


CALLS = {
    "forward": lambda net, X, y: net.forward(X),
    "loss": lambda net, X, y: net.loss(X, y),
    "gradients": lambda net, X, y: net.loss_and_gradients(X, y),
    "layer_outputs": lambda net, X, y: net.activations_of(X),
    "backward": lambda net, X, y: net.backward(X, np.ones_like(net.forward(X))),
    "train": lambda net, X, y: net.fit(X, y, batch_size=None),
    "step": lambda net, X, y: fastmlp.SGD().step(net, X, y),
}


@pytest.mark.parametrize("call", CALLS)
def test_kernels_that_take_a_row_too_many_are_found(guarded, compiled_backend, call):
    """The kernels themselves overrun: the record tells them of one row more than there is room for."""
    inference = call in ("forward", "loss")
    rows = _plan.INFERENCE_ROWS if inference else _plan.TRAINING_ROWS
    net, _ = make_net((3, 10, 2), backend=compiled_backend)
    X, y = make_examples(net, rows + 1)
    CALLS[call](net, X, y)  # right as they are
    plan = net._engine._inference if inference else net._engine._training
    plan.record[0]["block_rows"] = rows + 1
    with pytest.raises(RuntimeError, match=f"(train|{call}) overwrote guards: .* of an arena of"):
        CALLS[call](net, X, y)


def test_results_are_the_same_bits(backend, dtype, monkeypatch):
    """Guards are not numbers, so one that was read would show."""

    def results():
        net, _ = make_net(
            (13, 37, 18, 5), activation="silu", output_activation="softmax", dropout=0.2, dtype=dtype, backend=backend
        )
        X, y = make_examples(net, 700)
        optimizer = fastmlp.Adam(clip_norm=1.0)
        history = net.fit(X, y, optimizer=optimizer, epochs=2, batch_size=600)
        losses = [optimizer.step(net, X[:33], y[:33]) for _ in range(3)]
        gradients = net.backward(X, np.ones((700, 5), dtype), input_gradient=True)
        outputs = net.activations_of(X)
        return [net.parameters, history.loss, losses, gradients.flat, gradients.input, net.forward(X[0]), *outputs]

    expected = results()
    monkeypatch.setattr(_guards, "active", True)
    for actual, wanted in zip(results(), expected):
        assert_same_bits(actual, wanted)
