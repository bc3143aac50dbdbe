"""A network in words: the one line of repr and the table of summary."""

from collections.abc import Sequence
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
