"""Checkpoints: a fit at work in a file, from which it goes on to the same bits after whatever ended it.

A file is that of a network with more in it: the optimizer's state, the history, and as JSON the settings of the fit,
by which it is known again, and its place. _resume.py reads it; _safetensors.py has the bytes.
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
from fastmlp._numbers import check_whole
from fastmlp._update import BETA1_POWER, BETA2_POWER
from fastmlp._whole_file import AnyPath

if TYPE_CHECKING:
    from fastmlp._early_stopping import EarlyStopping
    from fastmlp._fit import Training
    from fastmlp._history import History
    from fastmlp._layout import Layout
    from fastmlp._mlp import MLP
    from fastmlp._optimizers import Optimizer
    from fastmlp._training_data import TrainingData

Settings = dict[str, Any]
POWERS = [BETA1_POWER, BETA2_POWER]
MOMENTS = ("first", "second")


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
        if self._path.is_dir() or not self._path.parent.is_dir():
            reason = "it is a folder" if self._path.is_dir() else "there is no such folder"
            raise FileNotFoundError(f"{str(checkpoint.path)!r} cannot be written: {reason}")
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
        previous = previous_name(self._path) if self._keeps else None
        try:
            metadata = _metadata(training, self._settings)
            _safetensors.write(self._path, metadata, _tensors(training), checksum=True, previous=previous)
        except OSError as error:
            warnings.warn(f"no checkpoint was written: {error}; fit goes on", RuntimeWarning, stacklevel=2)
        else:
            self._keeps = True
            self._place = training.place
        self._last = time.monotonic()


def previous_name(path: AnyPath) -> str:
    """Where the file before the newest one is kept."""
    return f"{os.path.realpath(path)}.previous"


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
    history: "History",
) -> Settings:
    """What must be the same for a fit to go on, as JSON gives it back."""
    examples = data.examples
    records = {"steps": history._step_loss, "parameters": history._parameters}
    settings = _files.describe(net._architecture) | {
        "X": _fingerprint.of_data(examples.X),
        "y": _fingerprint.of_data(examples.y),
        "sample_weight": _fingerprint.of_data(examples.sample_weight),
        "batch_size": data.batch_size,
        "shuffle": f"blocks of {data.blocks.rows} rows" if shuffle and data.blocks else shuffle,
        "optimizer": _fingerprint.of_optimizer(optimizer),
        "validation_data": [_fingerprint.of_data(part) for part in validation_data or () if part is not None],
        "early_stopping": None if early_stopping is None else repr(early_stopping),
        "record": [name for name, kept in records.items() if kept is not None],
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


def _tensors(training: "Training") -> dict[str, _safetensors.Tensor]:
    net, history, start = training.net, training.history, training.guard.start
    update = training.optimizer._bind(net)
    arenas = {f"optimizer.{name}": getattr(update, name) for name in MOMENTS}
    if start is not None and len(training.begun):
        arenas |= {f"start.{name}": array for name, array in zip(("parameters", *MOMENTS), start.arrays)}
    if training.watch is not None and training.watch.best_parameters is not None:
        arenas["best.parameters"] = training.watch.best_parameters
    tensors: dict[str, _safetensors.Tensor] = {**_files.named(net._weights, net._biases)}
    tensors |= {name: _parts(net._layout, arena) for name, arena in arenas.items() if arena.size}
    tensors["history.loss"] = np.array(history.loss, dtype=np.float64)
    tensors["history.val_loss"] = np.array(history.val_loss, dtype=np.float64)
    if history.step_loss is not None:
        tensors["history.step_loss"] = history.step_loss
    if history._parameters is not None:
        tensors["history.parameters"] = np.array(history._parameters, dtype=net.dtype).reshape(-1, net.n_parameters)
    tensors["epoch.loss"] = training.begun
    return tensors


def _parts(layout: "Layout", arena: np.ndarray) -> list[np.ndarray]:
    """What an arena is, flat, without a copy of the whole."""
    return list(_files.named(layout.weights(arena), layout.biases(arena)).values())
