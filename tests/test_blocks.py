"""Examples that come in slices, and shuffle="blocks": the order, the bits, what is read and held, what is refused."""

import math
import weakref

import numpy as np
import pytest
from support import assert_close, assert_same_bits, make_examples, make_net

import fastmlp
from fastmlp import SGD, Adam, Checkpoint


class Slices:
    """Rows that are given in slices and in no other way, as from a file; it takes note of each."""

    def __init__(self, values, chunks=None):
        self._values = np.asarray(values)
        self.shape, self.dtype, self.ndim = self._values.shape, self._values.dtype, self._values.ndim
        self.taken = []
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, rows):
        assert isinstance(rows, slice) and rows.step in (None, 1)
        self.taken.append((rows.start, rows.stop))
        return self._values[rows].copy()


def make_classifier(backend, **settings):
    return make_net((6, 12, 3), output_activation="softmax", backend=backend, **settings)[0]


def blockwise_order(rng, n, block_rows):
    """The definition, in plain words."""
    generator = np.random.default_rng(rng.integers(2**63))
    order = []
    for block in generator.permutation(math.ceil(n / block_rows)):
        first = block * block_rows
        order += [first + row for row in generator.permutation(min(block_rows, n - first))]
    return np.array(order)


def everything(net, optimizer, history):
    return [
        array.tobytes()
        for array in (net.parameters, optimizer._update.first, history.step_loss, np.array(history.loss))
    ]


@pytest.mark.parametrize("n, block_rows, batch_size", [(50, 16, 5), (50, 7, 20), (48, 16, 16), (50, 60, 3), (50, 1, 8)])
def test_the_order_is_that_of_its_definition(backend, n, block_rows, batch_size):
    """Batches run across blocks; only the last one of an epoch is smaller."""
    net, other = make_classifier(backend, dropout=0.2), make_classifier(backend, dropout=0.2)
    X, y = make_examples(net, n)
    fit = {"epochs": 3, "batch_size": batch_size, "shuffle": "blocks", "block_rows": block_rows, "record": "steps"}
    history = net.fit(X, y, optimizer=Adam(), rng=np.random.default_rng(5), **fit)
    optimizer, rng, losses = Adam(), np.random.default_rng(5), []
    for _ in range(3):
        order = blockwise_order(rng, n, block_rows)
        assert sorted(order) == list(range(n))
        for start in range(0, n, batch_size):
            rows = order[start : start + batch_size]
            losses.append(optimizer.step(other, X[rows], y[rows]))
    assert_same_bits(net.parameters, other.parameters)
    np.testing.assert_array_equal(history.step_loss, losses)


@pytest.mark.parametrize("shuffle", ["blocks", False, True])
@pytest.mark.parametrize("batch_size", [5, 30, None])
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int64"])
def test_slices_give_the_bits_of_arrays(backend, dtype, shuffle, batch_size, kind):
    X, y = make_examples(make_classifier(backend), 50)
    X, weight = (X * 10).astype(kind), np.random.default_rng(2).uniform(0, 2, 50)
    probabilities = np.random.default_rng(3).dirichlet(np.ones(3), 50)
    fit = {"epochs": 3, "batch_size": batch_size, "shuffle": shuffle, "block_rows": 16, "record": "steps"}

    def train(X, y, weight):
        net, optimizer = make_classifier(backend, dtype=dtype, dropout=0.1), Adam()
        history = net.fit(X, y, optimizer=optimizer, sample_weight=weight, **fit)
        return everything(net, optimizer, history)

    for targets in (y, probabilities):
        expected = train(X, targets, weight)
        assert train(Slices(X), targets, weight) == expected
        assert train(Slices(X), Slices(targets), Slices(weight)) == expected
        assert train(X, Slices(targets), weight) == expected
    assert train(Slices(X), y, None) == train(X, y, None)


def test_both_compiled_backends_agree(both_compiled_backends):
    X, y = make_examples(make_classifier("c"), 700)
    nets = [make_classifier(name, rng=3) for name in ("c", "numba")]
    for net in nets:
        net.fit(Slices(X), Slices(y), epochs=2, batch_size=600, shuffle="blocks", block_rows=100)
    assert_same_bits(nets[0].parameters, nets[1].parameters)


def test_a_sparse_matrix_with_sliced_targets(backend):
    sparse = pytest.importorskip("scipy.sparse", reason="scipy gives the sparse matrices")
    X, y = make_examples(make_classifier(backend), 50)
    nets = [make_classifier(backend, rng=3) for _ in range(2)]
    for net, inputs, targets in zip(nets, (sparse.csr_array(X), X), (Slices(y), y)):
        net.fit(inputs, targets, epochs=2, shuffle="blocks", block_rows=16)
    assert_same_bits(nets[0].parameters, nets[1].parameters)


class Watched(Slices):
    """Tells whether the slice before is still held when the next one is asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.last, self.held = None, []

    def __getitem__(self, rows):
        self.held.append(self.last is not None and self.last() is not None)
        values = super().__getitem__(rows)
        self.last = weakref.ref(values)
        return values


def test_each_block_is_read_once_an_epoch_and_one_is_held_at_a_time(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 5000)
    source = Watched(X)
    net.fit(source, y, epochs=3, batch_size=64, shuffle="blocks", block_rows=1000)
    blocks = [(start, start + 1000) for start in range(0, 5000, 1000)]
    # A block that ends one epoch and begins the next is kept.
    assert 13 <= len(source.taken) <= 15 and sorted(source.taken[:5]) == blocks
    assert len(source.held) >= 13 and not any(source.held)
    source.taken.clear()
    net.fit(source, y, epochs=1, batch_size=64, shuffle=False, block_rows=1000)
    assert source.taken == blocks


def test_the_size_of_a_block():
    """16 MB, in whole chunks."""
    net = fastmlp.MLP([1024, 3], output_activation="softmax", backend="numpy")
    values = np.zeros((5000, 1024), dtype=np.float32)
    y = np.zeros(5000, dtype=int)
    for chunks, rows in (
        (None, 4096),
        ((100, 1024), 4000),
        ((6000, 1024), 6000),
        ((), 4096),
        (((5000,), (1024,)), 4096),
    ):
        X = Slices(values, chunks)
        net.fit(X, y, batch_size=5000, shuffle=False)
        assert X.taken == [(start, min(start + rows, 5000)) for start in range(0, 5000, rows)]


def test_results_of_slices(backend, dtype):
    net = make_classifier(backend, dtype=dtype, l2=0.01)
    X, y = make_examples(net, 50)
    weight = np.random.default_rng(2).uniform(0, 2, 50)
    sliced = Slices(X)
    for method in (net.forward, net.logits, net.predict, net):
        assert_same_bits(method(sliced), method(X))
    for actual, expected in zip(net.activations_of(sliced), net.activations_of(X)):
        assert_same_bits(actual, expected)
    out = np.empty((50, 3), dtype)
    assert net.forward(sliced, out=out) is out
    assert_same_bits(out, net.forward(X))
    assert net.accuracy(sliced, Slices(y)) == net.accuracy(X, y)
    assert_close(net.loss(sliced, Slices(y), Slices(weight)), net.loss(X, y, weight), "float64")
    loss, gradients = net.loss_and_gradients(sliced, Slices(y))
    assert loss == net.loss(X, y)
    assert_same_bits(gradients.flat, net.loss_and_gradients(X, y)[1].flat)
    assert_same_bits(net.forward(Slices(X[0])), net.forward(X[0]))


def test_results_of_several_blocks(backend, monkeypatch):
    monkeypatch.setattr("fastmlp._row_blocks.CONVERTED_BYTES", 2**12)
    net = make_classifier(backend, l2=0.01)
    X, y = make_examples(net, 1000)
    sliced = Slices(X)
    assert_same_bits(net.forward(sliced), net.forward(X))
    assert len(sliced.taken) == math.ceil(1000 / (2**12 // 24))
    assert_close(net.loss(sliced, y), net.loss(X, y), "float64")


@pytest.mark.parametrize("kind", ["uint8", "float16", "unaligned"])
def test_a_large_array_is_converted_in_pieces(backend, kind, monkeypatch):
    """The bits are those of an array converted before; losses add up in another order."""
    monkeypatch.setattr("fastmlp._row_blocks.SMALL_ELEMENTS", 100)
    monkeypatch.setattr("fastmlp._row_blocks.CONVERTED_BYTES", 1)
    net = make_classifier(backend)
    X, y = make_examples(net, 1300)
    if kind == "unaligned":
        values = np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(X.shape)
    else:
        values = np.abs(10 * X).astype(kind)
    plain = np.ascontiguousarray(values, dtype=np.float32)
    assert_same_bits(net.forward(values), net.forward(plain))
    assert_same_bits(net.predict(values), net.predict(plain))
    assert_close(net.loss(values, y), net.loss(plain, y), "float64")
    assert net.fit(X, y, validation_data=(values, y)).val_loss == [net.loss(values, y)]
    out = np.zeros((1300, 6), np.float32)
    with pytest.raises(ValueError, match="out shares memory"):
        make_net((6, 6), backend=backend)[0].forward(out.view(np.uint8).reshape(-1)[:7800].reshape(1300, 6), out=out)


def test_validation_data_in_slices(backend):
    net = make_classifier(backend)
    X, y = make_examples(net, 50)
    history = net.fit(X, y, epochs=2, validation_data=(Slices(X), Slices(y), Slices(np.ones(50))))
    assert history.val_loss[-1] == net.loss(Slices(X), y, np.ones(50))
    assert_close(history.val_loss[-1], net.loss(X, y), "float64")


def test_data_sets_of_h5py(backend, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py gives the data sets")
    X, y = make_examples(make_classifier(backend), 500)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(32, 6), compression="gzip")
        file.create_dataset("y", data=y)
        expected = make_classifier(backend, rng=3)
        expected.fit(X, y, epochs=2, shuffle="blocks", block_rows=96)
        for targets in (y, file["y"]):
            net = make_classifier(backend, rng=3)
            net.fit(file["X"], targets, epochs=2, shuffle="blocks", block_rows=96)
            assert_same_bits(net.parameters, expected.parameters)
        assert_same_bits(net.forward(file["X"]), net.forward(X))
        # As a whole.
        net.fit(file["X"], file["y"])


def test_numbers_that_overflow_do_so_without_a_warning(backend):
    net = make_classifier(backend)
    X, y = np.full((20, 6), 1e300), np.zeros(20, dtype=int)
    with pytest.raises(FloatingPointError):
        net.fit(Slices(X), y, shuffle="blocks")


# Interrupted. --------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("shuffle", ["blocks", False])
def test_it_goes_on_to_the_same_bits(backend, tmp_path, monkeypatch, shuffle):
    """Every slice has one step, and each fit takes seven of them."""
    X, y = make_examples(make_classifier(backend), 60)

    def fit(path, **more):
        net, optimizer = make_classifier(backend, rng=3, dropout=0.2), Adam()
        fitting = {"epochs": 3, "batch_size": 8, "record": "steps", "shuffle": shuffle, "block_rows": 13} | more
        callbacks = [Checkpoint(path)] if path else []
        data = fitting.pop("X", Slices(X)), fitting.pop("y", Slices(y))
        history = net.fit(*data, optimizer=optimizer, callbacks=callbacks, resume=path, **fitting)
        return everything(net, optimizer, history)

    expected = fit(None)
    monkeypatch.setattr("fastmlp._fit.Pace.note", lambda pace, n_steps, seconds: None)
    monkeypatch.setattr("fastmlp._fit.FIRST_SLICE_SECONDS", 0.0)
    path, calls = tmp_path / "fit", []

    def between_slices(saver, training):
        saver._write(training)
        calls.append(training.place)
        if len(calls) % 7 == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("fastmlp._checkpoint.Saver.between_slices", between_slices)
        for _ in range(2):
            with pytest.raises(Killed):
                fit(path)
    assert calls == [(epoch, step) for epoch in (0, 1) for step in range(1, 8)]
    assert fit(path) == expected
    if shuffle:
        with pytest.raises(
            ValueError, match="its shuffle is 'blocks of 13 rows', that of this one is 'blocks of 14 rows'"
        ):
            fit(path, block_rows=14)
        with pytest.raises(ValueError, match="its shuffle is 'blocks of 13 rows', that of this one is True"):
            fit(path, shuffle=True)
        assert fit(path, X=X, y=y) == expected


def test_slices_are_known_again(monkeypatch):
    from fastmlp import _fingerprint

    X = np.arange(4000.0).reshape(1000, 4)
    for bytes_read in (2**26, 4096):
        monkeypatch.setattr(_fingerprint, "HASHED_BYTES", bytes_read)
        monkeypatch.setattr(_fingerprint, "BLOCK_BYTES", 512)
        source = Slices(X)
        first = _fingerprint.of_data(source)
        assert sum(min(stop, 1000) - start for start, stop in source.taken) == (
            1000 if bytes_read > 32000 else 8 * 16 - 8
        )
        assert _fingerprint.of_data(Slices(X.copy())) == first
        assert _fingerprint.of_data(Slices(X[:999])) != first
        assert _fingerprint.of_data(Slices(X.astype(np.float32))) != first
        assert _fingerprint.of_data(Slices(X + (np.arange(1000) > 990)[:, None])) != first


def test_steps_that_are_done_again_read_the_same_rows(backend):
    """Parameters that overflow are put back to the start of the epoch, in the midst of a slice of several epochs."""
    X, y = make_examples(make_net((6, 1), backend=backend)[0], 60)
    X = np.abs(X) * np.float32(1e17)
    results = []
    for source in (X, Slices(X)):
        net, _ = make_net((6, 1), loss="mae", backend=backend)
        with pytest.raises(FloatingPointError) as raised:
            net.fit(source, y, optimizer=SGD(lr=3e20), epochs=30, batch_size=8, shuffle="blocks", block_rows=13, rng=4)
        results.append((str(raised.value), net.parameters.tobytes()))
    assert results[0] == results[1]


# Refused. ------------------------------------------------------------------------------------------------


def wrong_rows(rows):
    """An X that tells of one shape and gives another."""

    class Wrong(Slices):
        def __getitem__(self, place):
            return rows

    return Wrong(np.zeros((5, 4)))


@pytest.mark.parametrize(
    "X, y, fit, error, text",
    [
        (Slices(np.zeros((5, 3))), np.zeros(5), {}, ValueError, "X has 3 features; this network takes 4"),
        (Slices(np.zeros((0, 4))), np.zeros(0), {}, ValueError, "X has no examples"),
        (Slices(np.zeros(4)), np.zeros(1), {}, ValueError, "that of one example"),
        (Slices(np.full((5, 4), "a")), np.zeros(5), {}, TypeError, "X has dtype <U1; expected real numbers"),
        (Slices(np.zeros((5, 4))), np.zeros(4), {}, ValueError, "y has 4 rows; X has 5"),
        (Slices(np.zeros((5, 4))), Slices(np.zeros(6)), {}, ValueError, "y has 6 rows; X has 5"),
        (Slices(np.zeros((5, 4))), Slices(np.full(5, 3)), {}, ValueError, "y has class 3"),
        (Slices(np.zeros((5, 4))), Slices(np.zeros((5, 2))), {}, ValueError, "y has shape (5, 2)"),
        (
            Slices(np.zeros((5, 4))),
            np.zeros(5),
            {"sample_weight": Slices(np.full(5, np.nan))},
            ValueError,
            "sample_weight has NaN",
        ),
        (
            Slices(np.zeros((5, 4))),
            np.zeros(5),
            {"sample_weight": Slices(np.ones(4))},
            ValueError,
            "sample_weight has 4 rows; X has 5",
        ),
        (Slices(np.zeros((5, 4))), np.zeros(5), {"block_rows": 0}, ValueError, "block_rows is 0"),
        (Slices(np.zeros((5, 4))), np.zeros(5), {"batch_size": 0}, ValueError, "batch_size is 0"),
        (wrong_rows(np.zeros((4, 4))), np.zeros(5), {}, ValueError, "X[0:5] gave an array of float64 of shape (4, 4)"),
        (wrong_rows(np.zeros((5, 4), complex)), np.zeros(5), {}, ValueError, "X[0:5] gave an array of complex128"),
        (wrong_rows([[1.0], [1.0, 2.0]]), np.zeros(5), {}, ValueError, "inhomogeneous"),
        (
            wrong_rows(np.ma.masked_array(np.zeros((5, 4)), True)),
            np.zeros(5),
            {},
            TypeError,
            "X[0:5] is masked; fill or drop",
        ),
    ],
)
def test_wrong_slices(backend, X, y, fit, error, text):
    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    before, optimizer = net.parameters, Adam()
    with pytest.raises(error) as raised:
        net.fit(X, y, optimizer=optimizer, **({"shuffle": "blocks"} | fit))
    assert text in str(raised.value)
    assert_same_bits(net.parameters, before)
    net.fit(np.zeros((5, 4)), np.zeros(5), optimizer=optimizer)  # nobody holds the net


def test_masked_arrays_without_a_mask_are_read():
    """As netCDF4 gives them."""
    net, _ = make_net((4, 6, 3), output_activation="softmax", backend="numpy")
    net.fit(wrong_rows(np.ma.masked_array(np.zeros((5, 4)))), np.zeros(5), shuffle="blocks")


def test_targets_that_change_after_they_were_checked(backend):
    """They are looked at again before a kernel sees them."""

    class Changing(Slices):
        def __getitem__(self, place):
            return super().__getitem__(place) + (7 if len(self.taken) > 1 else 0)

    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    with pytest.raises(ValueError, match="y has class 7"):
        net.fit(Slices(np.zeros((5, 4))), Changing(np.zeros(5, dtype=int)), shuffle="blocks")


def test_an_error_of_the_source_ends_the_fit_and_leaves_the_net_usable(backend):
    class Torn(Slices):
        def __getitem__(self, place):
            if len(self.taken) == 2:
                raise OSError("the cable is out")
            return super().__getitem__(place)

    net, _ = make_net((4, 6, 3), output_activation="softmax", backend=backend)
    X, y = make_examples(net, 40)
    with pytest.raises(OSError, match="the cable is out"):
        net.fit(Torn(X), y, shuffle="blocks", block_rows=10, batch_size=5)
    assert np.isfinite(net.parameters).all()
    net.fit(X, y)
