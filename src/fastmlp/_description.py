"""A network in words: the one line of repr and the table of summary."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastmlp._architecture import Architecture


def _one_or_all(values: Sequence[Any]) -> Any:
    """What all values are, or a list of them."""
    return values[0] if len(set(values)) == 1 else list(values)


def line(architecture: Architecture, backend: str) -> str:
    """The network as its constructor call; regularizers only where there are any."""
    a = architecture
    settings: dict[str, Any] = {"activation": _one_or_all(a.activations)} if a.activations else {}
    settings |= {"output_activation": a.output_activation, "loss": a.loss}
    settings |= {name: value for name, value in (("l1", a.l1), ("l2", a.l2)) if value}
    if any(a.dropout):
        settings["dropout"] = _one_or_all(a.dropout)
    settings |= {"dtype": a.dtype.name, "backend": backend}
    return f"MLP({list(a.layer_sizes)}, {', '.join(f'{name}={value!r}' for name, value in settings.items())})"


def table(architecture: Architecture, backend: str) -> str:
    """A row per layer, the total, and a line with the rest."""
    a = architecture
    row = "{:>5}  {:<10}  {:>8}  {:>8}  {:>12}".format
    lines = [row("layer", "activation", "inputs", "outputs", "parameters")]
    layers = zip((*a.activations, a.output_activation), a.layer_sizes, a.layer_sizes[1:])
    for number, (name, n_in, n_out) in enumerate(layers, start=1):
        lines.append(row(number, name, n_in, n_out, f"{n_out * (n_in + 1):,}"))
    lines.append(row("total", "", "", "", f"{a.n_parameters:,}"))
    facts = [f"loss {a.loss}"]
    facts += [f"{name} {value:g}" for name, value in (("l1", a.l1), ("l2", a.l2)) if value]
    if any(a.dropout):
        facts.append("dropout " + " ".join(f"{rate:g}" for rate in a.dropout))
    return "\n".join([*lines, ", ".join([*facts, a.dtype.name, f"backend {backend}"])])


def ensemble_line(architectures: Sequence[Architecture], backend: str) -> str:
    """The ensemble as its constructor call; of regularizers that differ, the range."""
    one = line(replace(architectures[0], l1=0.0, l2=0.0, dropout=(0.0,) * (architectures[0].n_layers - 1)), backend)
    sizes, rest = one.removeprefix("MLP(").split("], ", 1)
    settings = {
        "l1": [each.l1 for each in architectures],
        "l2": [each.l2 for each in architectures],
        "dropout": [rate for each in architectures for rate in each.dropout],
    }
    shown = "".join(f", {name}={_range(values)}" for name, values in settings.items() if any(values))
    return f"MLPEnsemble({sizes}], {len(architectures)}, {rest[:-1]}{shown})"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low!r}" if low == high else f"{low!r}...{high!r}"
