"""Checkpoints: a fit at work in a file, from which it goes on to the same bits after whatever ended it.

A file is that of a network with more in it: the optimizer's state, the history, and as JSON the settings of the fit,
by which it is known again, and its place. _safetensors.py writes and reads the bytes.
"""

import json
import os
import re
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp import _files, _fingerprint, _safetensors
from fastmlp._checks import check_path
from fastmlp._numbers import check_real, check_whole
from fastmlp._safetensors import AnyPath, TensorFile, short, shown
from fastmlp._update import BETA1_POWER, BETA2_POWER

if TYPE_CHECKING:
    from fastmlp._early_stopping import EarlyStopping
    from fastmlp._fit import Training
    from fastmlp._mlp import MLP
    from fastmlp._optimizers import Optimizer
    from fastmlp._training_data import TrainingData

Settings = dict[str, Any]
POWERS = [BETA1_POWER, BETA2_POWER]
MOMENTS = ("first", "second")
STOPPED_BY = (None, "early_stopping", "callback")


@dataclass(frozen=True)
class Checkpoint:
    """Keep a fit in a file, from which ``MLP.fit(..., resume=path)`` goes on after whatever ended it.

    Pass it to fit among the ``callbacks``; it is written after the others were called, and when the fit ends. The file
    is replaced as a whole or not at all; the one before it stays beside it as ``<path>.previous``, in case the file
    gets damaged. Where it cannot be written, the disk being full, fit warns and goes on. `MLP.load` reads it, too.

    Parameters
    ----------
    path : path
    every : int or str, default 1
        After how many epochs it is written; or after how many seconds, such as ``"30s"``, then also in the midst of
        an epoch, between two steps.

    Examples
    --------
    >>> checkpoint = fastmlp.Checkpoint("run.checkpoint", every="30s")
    >>> net.fit(X, y, epochs=100, callbacks=[checkpoint], resume="run.checkpoint")
    """

    path: AnyPath
    every: int | str = 1
    _seconds: float | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        check_path("path", self.path)
        if isinstance(self.every, str):
            found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s", self.every)
            if not found or not float(found[1]):
                raise ValueError(f"every is {self.every!r}; expected a number of epochs, or of seconds such as '30s'")
            object.__setattr__(self, "_seconds", float(found[1]))
        else:
            check_whole("every", self.every, at_least=1)


class Saver:
    """One Checkpoint at work on one fit of these settings."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._every, self._seconds = checkpoint.every, checkpoint._seconds
        self._settings = settings
        self._path = Path(os.path.realpath(checkpoint.path))
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"{str(checkpoint.path)!r} cannot be written: there is no such folder")
        self._last = time.monotonic()
        self._place: tuple[int, int] | None = None
        self._keeps = _is_good(self._path)

    def between_slices(self, training: "Training") -> None:
        """Write in the midst of an epoch, if it is time."""
        if self._seconds is not None and time.monotonic() - self._last >= self._seconds:
            self._write(training)

    def after_epoch(self, training: "Training") -> None:
        """Write after an epoch, if it is time."""
        if self._seconds is not None:
            self.between_slices(training)
        elif training.history.epochs % int(self._every) == 0:
            self._write(training)

    def at_end(self, training: "Training") -> None:
        """Write unless the last file says it all."""
        if self._place != training.place:
            self._write(training)

    def _write(self, training: "Training") -> None:
        previous = f"{self._path}.previous" if self._keeps else None
        try:
            metadata = _metadata(training, self._settings)
            _safetensors.write(self._path, metadata, _tensors(training), checksum=True, previous=previous)
        except OSError as error:
            warnings.warn(f"no checkpoint was written: {error}; fit goes on", RuntimeWarning, stacklevel=2)
        else:
            self._keeps = True
            self._place = training.place
        self._last = time.monotonic()


def _is_good(path: Path) -> bool:
    """Whether there is a file that deserves to be kept as the previous one."""
    try:
        with _safetensors.opened(path) as file:
            file.check_sum()
    except (OSError, ValueError):
        return False
    return True


# --- what is in a file ---


def settings_of(
    net: "MLP",
    optimizer: "Optimizer",
    data: "TrainingData",
    shuffle: bool,
    validation_data: Any,
    early_stopping: "EarlyStopping | None",
    record: Any,
) -> Settings:
    """What must be the same for a fit to go on, as JSON gives it back."""
    examples = data.examples
    settings = _files.describe(net._architecture) | {
        "X": _fingerprint.of_data(examples.X),
        "y": _fingerprint.of_data(examples.y),
        "sample_weight": _fingerprint.of_data(examples.sample_weight),
        "batch_size": data.batch_size,
        "shuffle": shuffle,
        "optimizer": _fingerprint.of_optimizer(optimizer),
        "validation_data": validation_data and [_fingerprint.of_data(part) for part in validation_data],
        "early_stopping": None if early_stopping is None else repr(early_stopping),
        "record": sorted({record} if isinstance(record, str) else set(record)),
    }
    found: Settings = json.loads(json.dumps(settings))
    return found


class State(NamedTuple):
    """The place of a fit, as far as it is no array. Those of ``start`` belong to the epoch that has begun."""

    seed: int
    dropout_step: int
    powers: list[float]
    start_dropout_step: int
    start_powers: list[float]
    epochs_begun: int
    lr: float | None
    rate: float | None
    best_epoch: int | None
    stopped_by: str | None
    generator: Any


def _metadata(training: "Training", settings: Settings) -> dict[str, str]:
    net, optimizer, start = training.net, training.optimizer, training.guard.start
    scalars = optimizer._scalars
    state = State(
        seed=net._seed,
        dropout_step=net._dropout_step,
        powers=scalars[POWERS].tolist(),
        start_dropout_step=start.dropout_step if start else 0,
        start_powers=(start.arrays[-1] if start else scalars)[POWERS].tolist(),
        epochs_begun=optimizer._epoch,
        lr=None if callable(optimizer.lr) else optimizer.lr,
        rate=optimizer._rate,
        best_epoch=training.history.best_epoch,
        stopped_by=training.history.stopped_by,
        generator=training.generator_state(),
    )
    texts = {
        "settings": json.dumps(settings),
        "state": json.dumps(state._asdict(), default=lambda array: array.tolist()),
    }
    return _files.metadata(_files.CHECKPOINT, net._architecture) | texts


def _tensors(training: "Training") -> dict[str, np.ndarray]:
    net, history, start = training.net, training.history, training.guard.start
    flatten = net._layout.flatten
    update = training.optimizer._bind(net)
    tensors = _files.named(net._weights, net._biases)
    arenas = {f"optimizer.{name}": getattr(update, name) for name in MOMENTS}
    if start is not None and len(training.begun):
        arenas |= {f"start.{name}": array for name, array in zip(("parameters", *MOMENTS), start.arrays)}
    if training.watch is not None and training.watch.best_parameters is not None:
        arenas["best.parameters"] = training.watch.best_parameters
    tensors |= {name: flatten(arena) for name, arena in arenas.items() if arena.size}
    tensors["history.loss"] = np.array(history.loss, dtype=np.float64)
    tensors["history.val_loss"] = np.array(history.val_loss, dtype=np.float64)
    if history.step_loss is not None:
        tensors["history.step_loss"] = history.step_loss
    if history._parameters is not None:
        tensors["history.parameters"] = np.array(history._parameters, dtype=net.dtype).reshape(-1, net.n_parameters)
    tensors["epoch.loss"] = training.begun
    return tensors


# --- going on ---


class Saved(NamedTuple):
    """The content of a file that belongs to a fit."""

    name: str
    state: State
    tensors: dict[str, np.ndarray]


def find(path: Any, settings: Settings) -> Saved | None:
    """The fit in a file, or in the one before it where the file is damaged or gone; None where there is neither.

    Raises ValueError where both are damaged, or the fit in it is another.
    """
    name = check_path("resume", path)
    problems = []
    for candidate in (name, f"{name}.previous"):
        try:
            theirs, saved = _read(candidate)
        except FileNotFoundError:
            problems.append(f"{candidate!r} does not exist")
        except ValueError as error:
            problems.append(str(error))
        else:
            if problems:
                warnings.warn(f"{problems[0]}; fit goes on from {candidate!r}", RuntimeWarning, stacklevel=4)
            _check_same(candidate, theirs, settings)
            return saved
    if all(problem.endswith("does not exist") for problem in problems):
        return None
    raise ValueError(f"nothing to resume from: {'; '.join(problems)}")


def _read(name: str) -> tuple[Settings, Saved]:
    with _safetensors.opened(name) as file:
        file.check_spans()
        file.check_sum()
        _files.read_architecture(file, _files.CHECKPOINT)
        settings = _part(file, "settings")
        state = _part(file, "state")
        if state.keys() != set(State._fields):
            raise ValueError(f"its state has the keys {shown(list(state))}")
        tensors = {entry: file.read(entry) for entry in file.entries if entry != _safetensors.CHECKSUM}
        return settings, Saved(name, State(**state), tensors)


def _part(file: TensorFile, name: str) -> dict[str, Any]:
    if name not in file.metadata:
        raise ValueError(f"its __metadata__ has no {name}")
    return _safetensors.parse(file.metadata[name], name)


def _check_same(name: str, theirs: Settings, ours: Settings) -> None:
    for setting, value in ours.items():
        if theirs.get(setting) != value:
            raise ValueError(
                f"{name!r} is of another fit: its {setting} is {shown(theirs.get(setting))}, "
                f"that of this one is {shown(value)}"
            )


def resume(saved: Saved, training: "Training") -> None:
    """Bring a fit to where it was. Everything is checked before anything is changed."""
    try:
        _check_state(saved.state)
        _check_tensors(saved, training)
        generator = check_generator_state(training.rng, saved.state.generator)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{saved.name!r} cannot be resumed from: {short(str(error))}") from error
    _check_epochs(saved, training)
    _check_rate(saved, training.optimizer)
    state, tensors = saved.state, saved.tensors
    _restore_net(training.net, state, tensors)
    _restore_optimizer(training, state, tensors)
    _restore_history(training, state, tensors)
    if training.rng is not None:
        training.rng.bit_generator.state = generator
    _restore_epoch(training, state, tensors)


def _check_state(state: State) -> None:
    for name in ("seed", "dropout_step", "start_dropout_step", "epochs_begun"):
        if check_whole(name, getattr(state, name), at_least=0) >= 2**64:
            raise ValueError(f"{name} is {getattr(state, name)}; expected a number below 2^64")
    for name in ("powers", "start_powers"):
        values = getattr(state, name)
        if not isinstance(values, list) or len(values) != len(POWERS):
            raise ValueError(f"{name} is {shown(values)}; expected two numbers")
        for value in values:
            check_real(name, value, at_least=0.0)
    for name in ("lr", "rate"):
        if getattr(state, name) is not None:
            check_real(name, getattr(state, name), at_least=0.0)
    if state.best_epoch is not None:
        check_whole("best_epoch", state.best_epoch, at_least=0)
    if state.stopped_by not in STOPPED_BY:
        raise ValueError(f"stopped_by is {shown(state.stopped_by)}")


def _check_tensors(saved: Saved, training: "Training") -> None:
    """Raise ValueError unless the file has exactly the arrays that such a fit writes."""
    net, history, tensors = training.net, training.history, saved.tensors
    epochs, begun = (tensors[name].size if name in tensors else 0 for name in ("history.loss", "epoch.loss"))
    n, per_epoch = net.n_parameters, training.data.steps_per_epoch
    if begun >= per_epoch or (saved.state.best_epoch or 0) > max(epochs - 1, 0):
        raise ValueError(f"it has {epochs} epochs, {begun} steps and the best epoch {saved.state.best_epoch}")
    update = training.optimizer._bind(net)
    moments = [name for name in MOMENTS if getattr(update, name).size]
    expected = _files.parameter_shapes(net._architecture)
    expected |= {f"optimizer.{name}": (n,) for name in moments}
    if begun and training.guard.start is not None:
        expected |= {f"start.{name}": (n,) for name in ("parameters", *moments)}
    if training.watch is not None and training.watch.restores and saved.state.best_epoch is not None:
        expected["best.parameters"] = (n,)
    if history._parameters is not None:
        expected["history.parameters"] = (epochs, n)
    described = {name: (shape, net.dtype) for name, shape in expected.items()}
    losses = {"history.loss": epochs, "epoch.loss": begun}
    losses["history.val_loss"] = epochs if training.validation_loss else 0
    if history._step_loss is not None:
        losses["history.step_loss"] = epochs * per_epoch
    described |= {name: ((size,), np.dtype(np.float64)) for name, size in losses.items()}
    actual = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    if actual != described:
        odd = [name for name in actual.keys() | described if actual.get(name) != described.get(name)]
        raise ValueError(f"its tensors are not those of such a fit: {shown(', '.join(sorted(odd)))}")


def check_generator_state(rng: np.random.Generator | None, state: Any) -> Any:
    """The state as ``rng`` takes it; of shuffle=False there is none."""
    if rng is None:
        return None
    present = rng.bit_generator.state
    kind = state.get("bit_generator") if isinstance(state, dict) else None
    if kind != present["bit_generator"]:
        raise ValueError(f"its generator is of the kind {shown(kind)}, that of this fit {present['bit_generator']!r}")
    return _like(present, state, "generator")


# Places in a buffer, at which a generator reads on without a look at its end.
LARGEST = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}


def _like(template: Any, value: Any, name: str) -> Any:
    """``value`` from JSON in the form of a generator's present state."""
    if isinstance(template, dict):
        if not isinstance(value, dict) or value.keys() != template.keys():
            raise ValueError(f"its {name} is {shown(value)}; expected {', '.join(template)}")
        return {key: _like(template[key], value[key], key) for key in template}
    if isinstance(template, np.ndarray):
        whole = isinstance(value, list) and len(value) == template.size and all(type(part) is int for part in value)
        if not whole or not all(0 <= part <= np.iinfo(template.dtype).max for part in value):
            raise ValueError(f"its {name} is {shown(value)}; expected {template.size} numbers of {template.dtype}")
        return np.array(value, dtype=template.dtype)
    if isinstance(template, str):
        if value != template:
            raise ValueError(f"its {name} is {shown(value)}; expected {template!r}")
    elif type(value) is not int or not 0 <= value <= LARGEST.get(name, 2**128 - 1):
        raise ValueError(f"its {name} is {shown(value)}")
    return value


def _check_epochs(saved: Saved, training: "Training") -> None:
    epochs, begun = len(saved.tensors["history.loss"]), len(saved.tensors["epoch.loss"])
    if epochs + bool(begun) > training.epochs:
        raise ValueError(
            f"epochs is {training.epochs}, but {saved.name!r} has trained for {epochs} epochs and {begun} steps already"
        )


def _check_rate(saved: Saved, optimizer: "Optimizer") -> None:
    """A schedule is no part of a file; it must give the rate that the fit has had."""
    state = saved.state
    if state.lr is None and not callable(optimizer.lr):
        raise ValueError(f"{saved.name!r} is of a fit in whose course lr became a function, which no file holds")
    if state.lr is None and state.rate is not None:
        epoch = max(state.epochs_begun - 1, 0)
        rate = optimizer._scheduled(epoch)
        if rate != state.rate:
            raise ValueError(f"{saved.name!r} is of another fit: its lr at epoch {epoch} is {state.rate}, not {rate}")


def _restore_net(net: "MLP", state: State, tensors: dict[str, np.ndarray]) -> None:
    for name, parameters in _files.named(net._weights, net._biases).items():
        parameters[...] = tensors[name]
    net._dropout_step = state.dropout_step
    if state.seed != net._seed:
        net._seed = state.seed
        net._use_threads()


def _restore_optimizer(training: "Training", state: State, tensors: dict[str, np.ndarray]) -> None:
    optimizer, layout = training.optimizer, training.net._layout
    update = optimizer._bind(training.net)
    for name in MOMENTS:
        if f"optimizer.{name}" in tensors:
            layout.unflatten(tensors[f"optimizer.{name}"], getattr(update, name))
    optimizer._scalars[POWERS] = state.powers
    optimizer._epoch = state.epochs_begun
    if state.lr is not None:
        optimizer.lr = state.lr
    elif state.rate is not None:
        optimizer._set_rate(state.rate)


def _restore_history(training: "Training", state: State, tensors: dict[str, np.ndarray]) -> None:
    history = training.history
    history.loss = tensors["history.loss"].tolist()
    history.val_loss = tensors["history.val_loss"].tolist()
    history.best_epoch, history.stopped_by = state.best_epoch, state.stopped_by
    if history._step_loss is not None:
        history._step_loss = [tensors["history.step_loss"]]
    if history._parameters is not None:
        history._parameters = list(tensors["history.parameters"])
    if training.watch is not None:
        training.watch.go_on(history, training.net._layout, tensors.get("best.parameters"))


def _restore_epoch(training: "Training", state: State, tensors: dict[str, np.ndarray]) -> None:
    """What has been done of the epoch that has begun, and where it began."""
    training.begun = tensors["epoch.loss"]
    start, layout = training.guard.start, training.net._layout
    if start is not None and len(training.begun):
        start.take()
        for name, arena in zip(("parameters", *MOMENTS), start.arrays):
            if arena.size:
                layout.unflatten(tensors[f"start.{name}"], arena)
        start.arrays[-1][POWERS] = state.start_powers
        start.dropout_step = state.start_dropout_step
    data = training.data
    training.display.advance(training.history.epochs * data.n + data.rows_before(len(training.begun)))
