"""Checkpoints: fits that are interrupted anywhere and go on to the same bits, and files that cannot be gone on from."""

import os
import stat
import sys
from hashlib import blake2b

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net, run_python
from test_nonfinite import a_running_bias

import fastmlp
from fastmlp import SGD, Adam, AdamW, Checkpoint, EarlyStopping, RMSprop, _checkpoint, schedules

sparse = pytest.importorskip("scipy.sparse", reason="scipy gives the sparse matrices")

OPTIMIZERS = {
    "sgd": lambda: SGD(lr=0.05),
    "nesterov": lambda: SGD(lr=schedules.exponential(0.05, 0.9), momentum=0.9, nesterov=True),
    "adam": Adam,
    "adamw": lambda: AdamW(lr=lambda epoch: 1e-3 / (1 + epoch), clip_norm=1.0),
    "rmsprop": RMSprop,
}


class Killed(BaseException):
    """Ends a fit where nothing expects it."""


def kill_after(epochs):
    def callback(net, history):
        if history.epochs == epochs:
            raise Killed

    return callback


def make_classifier(backend, **settings):
    return make_net((6, 12, 3), output_activation="softmax", backend=backend, **settings)[0]


def examples(n=60):
    return make_examples(make_classifier("numpy"), n)


def everything(net, optimizer, history):
    """All that a fit ends with, as bytes."""
    update = optimizer._update
    arrays = [net.parameters, update.first, update.second, update.scalars, np.array(history.loss), history.val_loss]
    facts = (history.best_epoch, history.stopped_by, optimizer._epoch, net._dropout_step)
    return [np.asarray(array).tobytes() for array in arrays], facts, net._shuffle_rng.random(3).tolist()


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.checkpoint"


def fit(path, backend, *, callbacks=(), make=Adam, seed=3, settings=None, epochs=7, **more):
    """A fit that starts or goes on, in a new net with a new optimizer, and with checkpoints where ``path`` is given."""
    net = make_classifier(backend, rng=seed, **(settings or {"dropout": 0.2}))
    optimizer = make()
    callbacks = [*callbacks, *([Checkpoint(path)] if path else [])]
    fitting = {"epochs": epochs, "batch_size": 8, "resume": path, "optimizer": optimizer} | more
    X, y = fitting.pop("X", None), fitting.pop("y", None)
    data = examples()
    history = net.fit(data[0] if X is None else X, data[1] if y is None else y, callbacks=callbacks, **fitting)
    return everything(net, optimizer, history)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_interrupted_between_epochs(backend, path, make):
    expected = fit(None, backend, make=make)
    for epochs in (2, 3, 7):
        # Each checkpoint is written after the callbacks: the fit goes on from the epoch before.
        with pytest.raises(Killed):
            fit(path, backend, make=make, callbacks=[kill_after(epochs)])
    assert fit(path, backend, make=make) == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_interrupted_in_the_midst_of_an_epoch(backend, dtype, path, monkeypatch, optimizer):
    """Every slice has one step, and each fit takes five of them."""
    make = OPTIMIZERS[optimizer]
    more = {"settings": {"dropout": 0.2, "dtype": dtype}, "epochs": 2, "validation_data": examples(20)}
    expected = fit(None, backend, make=make, **more)
    monkeypatch.setattr("fastmlp._fit.Pace.note", lambda pace, n_steps, seconds: None)
    monkeypatch.setattr("fastmlp._fit.FIRST_SLICE_SECONDS", 0.0)
    calls = []

    def between_slices(saver, training):
        saver._write(training)
        calls.append(training.place)
        if len(calls) % 5 == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint.Saver, "between_slices", between_slices)
        for _ in range(2):
            with pytest.raises(Killed):
                fit(path, backend, make=make, **more)
    assert calls == [(0, step) for step in range(1, 8)] + [(1, step) for step in range(1, 4)]
    assert fit(path, backend, make=make, **more) == expected


def test_the_start_of_the_epoch_is_kept(backend, path, monkeypatch):
    """A bias that overflows in epoch 5 is put back to what it was before the interruption, in the same epoch."""
    monkeypatch.setattr("fastmlp._fit.Pace.note", lambda pace, n_steps, seconds: None)
    monkeypatch.setattr("fastmlp._fit.FIRST_SLICE_SECONDS", 0.0)

    def train(path, stop=None):
        net, data, fitting = a_running_bias("float32", backend)
        callbacks = [Checkpoint(path)] if path else []

        def between_slices(saver, training):
            if training.place == stop:
                saver._write(training)
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(_checkpoint.Saver, "between_slices", between_slices)
            history = net.fit(
                *data, epochs=7, rng=4, on_nonfinite="ignore", callbacks=callbacks, resume=path, **fitting
            )
        return net.parameters.tobytes(), fitting["optimizer"]._update.first.tobytes(), history.loss

    expected = train(None)
    with pytest.raises(Killed):
        train(path, stop=(5, 2))
    assert train(path) == expected


def test_seconds(backend, path):
    """Written in the midst of an epoch, too: this one is longer than its first slice."""
    net = fastmlp.MLP([6, 64, 3], output_activation="softmax", backend=backend, rng=0)
    X, y = make_examples(net, 60000)
    places = []
    write = _checkpoint.Saver._write

    def noted(saver, training):
        places.append(training.place)
        write(saver, training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_checkpoint.Saver, "_write", noted)
        net.fit(X, y, batch_size=16, callbacks=Checkpoint(path, every="0.000001s"))
    assert len(places) > 2 and places[0][0] == 0 < places[0][1]
    assert places[-1] == (1, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_killed_at_random_moments(backend):
    code = f"""
from kill_fits import kill_fits
counts = kill_fits({backend!r}, 6, seed=1)
print(counts["kills"], counts["fits"])
"""
    kills, fits = map(int, run_python(code).split())
    assert kills >= 6 and fits >= 1


@pytest.mark.parametrize(
    "rng",
    [
        lambda: None,
        lambda: 5,
        lambda: np.random.default_rng(5),
        *(
            lambda kind=kind: np.random.Generator(kind(5))
            for kind in (np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM)
        ),
    ],
)
def test_generators(path, rng):
    expected = fit(None, "numpy", rng=rng())
    with pytest.raises(Killed):
        fit(path, "numpy", rng=rng(), callbacks=[kill_after(3)])
    generator = rng()
    assert fit(path, "numpy", rng=generator) == expected
    other = rng()
    if isinstance(other, np.random.Generator):
        fit(None, "numpy", rng=other)
        assert generator.random() == other.random()


def test_the_random_streams_of_the_net_come_from_the_file(backend, path):
    with pytest.raises(Killed):
        fit(path, backend, callbacks=[kill_after(3)])
    assert fit(path, backend, seed=None) == fit(None, backend)


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
@pytest.mark.parametrize("restore_best", [True, False])
def test_early_stopping(backend, path, monitor, restore_best):
    """The best parameters come from before the interruption."""
    rule = EarlyStopping(2, monitor=monitor, restore_best=restore_best)
    more = {"validation_data": examples(20), "early_stopping": rule, "make": lambda: SGD(lr=2.0), "epochs": 20}
    expected = fit(None, backend, **more)
    best_epoch, stopped_by = expected[1][:2]
    assert stopped_by == "early_stopping"
    with pytest.raises(Killed):
        fit(path, backend, callbacks=[kill_after(best_epoch + 3)], **more)
    assert fit(path, backend, **more) == expected
    # And once more: it has been stopped for good.
    assert fit(path, backend, **(more | {"epochs": 30})) == expected


def test_a_fit_that_has_ended(backend, path):
    expected = fit(path, backend)
    called = []
    assert fit(path, backend, callbacks=[lambda net, history: called.append(history)]) == expected
    assert not called
    assert fit(path, backend, epochs=9) == fit(None, backend, epochs=9)
    with pytest.raises(ValueError, match="epochs is 8, but .* has trained for 9 epochs"):
        fit(path, backend, epochs=8)


def test_a_callback_that_has_stopped_the_fit(path):
    expected = fit(path, "numpy", callbacks=[lambda net, history: history.epochs == 3])
    assert expected[1][1] == "callback"
    assert fit(path, "numpy") == expected


def test_records_and_sparse_data(backend, path):
    X, y = sparse.csr_array(np.round(examples()[0])), examples()[1]

    def train(path, **more):
        net, optimizer = make_classifier(backend, rng=3), Adam()
        callbacks = [*more.pop("callbacks", ()), *([Checkpoint(path)] if path else ())]
        fitting = {"epochs": 5, "record": ("steps", "parameters"), "sample_weight": np.arange(60.0)}
        history = net.fit(X, y, optimizer=optimizer, callbacks=callbacks, resume=path, **fitting)
        return history.step_loss.tobytes(), history.parameters.tobytes(), everything(net, optimizer, history)

    expected = train(None)
    with pytest.raises(Killed):
        train(path, callbacks=[kill_after(3)])
    assert train(path) == expected


def test_it_goes_on_in_the_other_compiled_backend(both_compiled_backends, path):
    with pytest.raises(Killed):
        fit(path, "c", callbacks=[kill_after(3)])
    assert fit(path, "numba") == fit(None, "c")


def test_a_learning_rate_that_was_set_on_the_way(path):
    def halve(optimizer):
        return lambda net, history: setattr(optimizer, "lr", optimizer.lr / 2)

    def train(path, *more):
        net, optimizer = make_classifier("numpy", rng=3), SGD(lr=0.1)
        callbacks = [halve(optimizer), *more, *([Checkpoint(path)] if path else ())]
        return everything(
            net, optimizer, net.fit(*examples(), optimizer=optimizer, epochs=6, callbacks=callbacks, resume=path)
        )

    expected = train(None)
    with pytest.raises(Killed):
        train(path, kill_after(4))
    assert train(path) == expected


def test_without_a_file_a_fit_starts_and_makes_one(path):
    assert fit(path, "numpy") == fit(None, "numpy")
    assert sorted(file.name for file in path.parent.iterdir()) == ["fit.checkpoint", "fit.checkpoint.previous"]


def test_every_so_many_epochs(path):
    sizes = []
    net = make_classifier("numpy")

    def seen(net, history):
        sizes.append(path.exists() and path.stat().st_mtime_ns)

    net.fit(*examples(), epochs=7, callbacks=[Checkpoint(path, every=3), seen])
    assert [size is False for size in sizes] == [True, True, True, False, False, False, False]
    assert sizes[3] == sizes[5] < sizes[6] < path.stat().st_mtime_ns


def test_a_checkpoint_is_a_file_of_the_net_too(backend, path):
    net = make_classifier(backend, rng=3)
    net.fit(*examples(), epochs=3, callbacks=Checkpoint(path))
    assert_same_bits(fastmlp.MLP.load(path, backend=backend).parameters, net.parameters)


def test_the_safetensors_package_reads_it(path):
    safetensors = pytest.importorskip("safetensors", reason="the other reader of the format")
    net = make_classifier("numpy", rng=3)
    history = net.fit(*examples(), epochs=3, callbacks=Checkpoint(path))
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert_same_bits(opened.get_tensor("history.loss"), np.array(history.loss))
        assert opened.get_tensor("checksum").tobytes() == blake2b(path.read_bytes()[:-32], digest_size=32).digest()


# Files from which a fit cannot go on. --------------------------------------------------------------------


OTHERS = {
    "X": {"X": examples()[0] + np.float32(1e-6)},
    "y": {"y": 2 - examples()[1]},
    "sample_weight": {"sample_weight": np.ones(60)},
    "batch_size": {"batch_size": 9},
    "shuffle": {"shuffle": False},
    "optimizer": {"make": lambda: Adam(lr=2e-3)},
    "optimizer ": {"make": SGD},
    "optimizer  ": {"make": lambda: Adam(lr=schedules.constant(1e-3))},
    "validation_data": {"validation_data": examples(20)},
    "early_stopping": {"early_stopping": EarlyStopping(3, monitor="loss")},
    "record": {"record": "steps"},
    "dropout": {"settings": {"dropout": 0.3}},
    "dtype": {"settings": {"dropout": 0.2, "dtype": "float64"}},
    "activation": {"settings": {"dropout": 0.2, "activation": "tanh"}},
    "l2": {"settings": {"dropout": 0.2, "l2": 0.1}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_fit(path, name):
    fit(path, "numpy", epochs=2)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=rf"is of another fit: its {name.strip()} is .*, that of this one is "):
        fit(path, "numpy", **OTHERS[name])
    assert path.read_bytes() == content


def test_another_schedule(path):
    fit(path, "numpy", epochs=2, make=lambda: SGD(lr=lambda epoch: 0.1))
    with pytest.raises(ValueError, match=r"is of another fit: its lr at epoch 1 is 0\.1, not 0\.2"):
        fit(path, "numpy", make=lambda: SGD(lr=lambda epoch: 0.2))


def test_another_generator(path):
    fit(path, "numpy", epochs=2)
    with pytest.raises(ValueError, match="of the kind 'PCG64', that of this fit 'MT19937'"):
        fit(path, "numpy", rng=np.random.Generator(np.random.MT19937(1)))


def damaged(content, seed):
    """A byte flipped, or the end cut off."""
    random = np.random.default_rng(seed)
    place = int(random.integers(len(content)))
    if seed % 2:
        return content[:place]
    changed = bytearray(content)
    changed[place] ^= int(random.integers(1, 256))
    return bytes(changed)


def test_damaged_files(backend, path):
    """The file before is used and named, and stays until there is a new one."""
    with pytest.raises(Killed):
        fit(path, backend, callbacks=[kill_after(4)])
    expected = fit(None, backend)
    previous = path.with_name("fit.checkpoint.previous")
    kept = {file: file.read_bytes() for file in (path, previous)}
    for seed in range(12):
        path.write_bytes(damaged(kept[path], seed))
        previous.write_bytes(kept[previous])
        with pytest.warns(
            RuntimeWarning, match=r"fit\.checkpoint' cannot be loaded: .* from '.*fit\.checkpoint\.previous'"
        ):
            with pytest.raises(Killed):
                fit(path, backend, callbacks=[kill_after(4)])
        # It has been written again, and the damaged one is not the one before.
        assert (path.read_bytes(), previous.read_bytes()) == (kept[path], kept[previous])
        path.write_bytes(damaged(kept[path], seed))
        with pytest.warns(RuntimeWarning, match="cannot be loaded"):
            assert fit(path, backend) == expected


def test_nothing_good_is_left(path):
    fit(path, "numpy", epochs=2)
    good = path.read_bytes()
    previous = path.with_name("fit.checkpoint.previous")
    for content in (damaged(good, 3), b""):
        for remains in (content, None):
            path.write_bytes(content)
            previous.unlink() if remains is None else previous.write_bytes(remains)
            with pytest.raises(ValueError, match=r"nothing to resume from: .*fit\.checkpoint"):
                fit(path, "numpy")
            assert path.read_bytes() == content
    path.unlink()
    previous.write_bytes(good)
    with pytest.warns(RuntimeWarning, match=r"does not exist; fit goes on from '.*previous'"):
        assert fit(path, "numpy") == fit(None, "numpy")


def test_a_file_that_is_no_checkpoint(path):
    net = make_classifier("numpy")
    net.save(path)
    with pytest.raises(ValueError, match="nothing to resume from"):
        net.fit(*examples(), resume=path)


def test_the_order_in_which_a_file_is_made(path, monkeypatch):
    """Its bytes and then its names are on the disk before the fit goes on."""
    fit(path, "numpy", epochs=1)
    calls = []
    for name in ("fsync", "link", "replace"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            calls.append(
                (name, *(os.path.basename(argument) for argument in arguments if not isinstance(argument, int)))
            )
            if name == "fsync":
                calls[-1] += ("folder" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "file",)
            real(*arguments)

        monkeypatch.setattr(os, name, noted)
    fit(path, "numpy", epochs=1)
    assert calls == [
        ("fsync", "file"),
        ("link", "fit.checkpoint", "fit.checkpoint.previous.partial"),
        ("replace", "fit.checkpoint.previous.partial", "fit.checkpoint.previous"),
        ("replace", "fit.checkpoint.partial", "fit.checkpoint"),
        ("fsync", "folder"),
    ]


def test_a_full_disk_ends_no_fit(path, monkeypatch):
    fit(path, "numpy", epochs=2)
    content = path.read_bytes()

    def fail(descriptor):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.warns(RuntimeWarning, match="no checkpoint was written: no space left"):
            assert fit(path, "numpy") == fit(None, "numpy")
    assert path.read_bytes() == content
    assert not list(path.parent.glob("*.partial"))


def test_places_where_no_file_can_be(tmp_path):
    net = make_classifier("numpy")
    before = net.parameters
    for path, text in ((tmp_path / "none" / "fit", "there is no such folder"), (tmp_path, "it is a folder")):
        with pytest.raises(FileNotFoundError, match=text):
            net.fit(*examples(), callbacks=Checkpoint(path))
    assert_same_bits(net.parameters, before)


def test_a_link(path):
    """The file and the one before it are where it leads."""
    link = path.with_name("link")
    link.symlink_to(path)
    fit(link, "numpy", epochs=3)
    assert link.is_symlink() and path.is_file() and path.with_name("fit.checkpoint.previous").is_file()
    path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="fit goes on from"):
        assert fit(link, "numpy") == fit(None, "numpy")


def test_arguments_of_other_kinds_are_the_same_fit(path):
    X, y = examples(20)
    fit(path, "numpy", epochs=3, record=(name for name in ("steps",)), validation_data=(X, y))
    fit(path, "numpy", epochs=4, record="steps", validation_data=[X.copy(order="F"), y, None])


@pytest.mark.parametrize(
    "every, error",
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)]
    + [(text, ValueError) for text in ("", "30", "s", "0s", "0.0s", "-1s", "infs", "nans", "1 s", "1m", "1e3s", "٣s")],
)
def test_wrong_every(every, error):
    with pytest.raises(error, match="every is"):
        Checkpoint("fit", every=every)


def test_wrong_paths():
    net = make_classifier("numpy")
    for path in (3, None, b"fit", object()):
        with pytest.raises(TypeError, match="path is"):
            Checkpoint(path)
    for path in (3, b"fit", True):
        with pytest.raises(TypeError, match="resume is"):
            net.fit(*examples(), resume=path)


def test_data_of_any_size_are_known_again(monkeypatch):
    """Of large arrays rows are taken here and there."""
    from fastmlp import _fingerprint

    monkeypatch.setattr(_fingerprint, "HASHED_BYTES", 4096)
    monkeypatch.setattr(_fingerprint, "BLOCK_BYTES", 512)
    X = np.arange(4000.0).reshape(1000, 4)
    first = _fingerprint.of_data(X)
    assert _fingerprint.of_data(X.copy(order="F")) == first
    assert _fingerprint.of_data(X[:999]) != first
    assert _fingerprint.of_data(X.astype(np.float32)) != first
    assert _fingerprint.of_data(X + (np.arange(1000) > 990)[:, None]) != first


def test_lines_of_progress_go_on(path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    fit(path, "numpy", epochs=2)
    fit(path, "numpy", epochs=4, progress=True)
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 3/4", "epoch 4/4"]
