"""Going on with a fit from a checkpoint: which file is good, whether it belongs to this fit, and what it restores."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp import _files, _safetensors
from fastmlp._checkpoint import MOMENTS, POWERS, Settings, State, previous_name
from fastmlp._checks import check_path
from fastmlp._numbers import check_real, check_whole
from fastmlp._safetensors import TensorFile, short, shown

if TYPE_CHECKING:
    from fastmlp._fit import Training
    from fastmlp._mlp import MLP
    from fastmlp._optimizers import Optimizer

STOPPED_BY = (None, "early_stopping", "callback")


class Saved(NamedTuple):
    """The content of a file that belongs to a fit."""

    name: str
    state: State
    tensors: dict[str, np.ndarray]


def find(path: Any, settings: Settings) -> Saved | None:
    """The fit in a file, or in the one before it where the file is damaged or gone; None where there is neither.

    Raises ValueError where both are damaged, or the fit in it is another.
    """
    if path is None:
        return None
    name = check_path("resume", path)
    problems = []
    for candidate in (name, previous_name(name)):
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


def restore(saved: Saved, training: "Training") -> None:
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
    for name, bits in {"seed": 64, "dropout_step": 62, "start_dropout_step": 62, "epochs_begun": 62}.items():
        if check_whole(name, getattr(state, name), at_least=0) >= 2**bits:
            raise ValueError(f"{name} is {shown(getattr(state, name))}; expected a number below 2^{bits}")
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
    best_epoch = saved.state.best_epoch
    if begun >= per_epoch or (best_epoch is not None and best_epoch >= epochs):
        raise ValueError(f"it has {epochs} epochs, {begun} steps and the best epoch {shown(best_epoch)}")
    update = training.optimizer._bind(net)
    moments = [name for name in MOMENTS if getattr(update, name).size]
    expected = _files.parameter_shapes(net._architecture)
    expected |= {f"optimizer.{name}": (n,) for name in moments}
    if begun and training.guard.start is not None:
        expected |= {f"start.{name}": (n,) for name in ("parameters", *moments)}
    if training.watch is not None and training.watch.restores and best_epoch is not None:
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
