"""What bench_batching.py has measured, and the table of it that ends ``pytest --benchmark``."""

from collections.abc import Iterator
from typing import NamedTuple

NUMPY_LOOP, SINGLE_CALLS, BATCHED = "numpy loop", "single calls", "batched"


class Key(NamedTuple):
    """One time: of a task on a net, in one of the three ways; the NumPy loop has no backend."""

    task: str
    net: str
    way: str
    backend: str = ""


class Lead(NamedTuple):
    """Seconds per example in the three ways."""

    numpy_loop: float
    single_calls: float
    batched: float

    @property
    def over_loop(self) -> float:
        return self.numpy_loop / self.batched

    @property
    def over_single_calls(self) -> float:
        return self.single_calls / self.batched


class Timings(dict[Key, float]):
    """Seconds per example of what has been timed so far."""

    def lead(self, task: str, net: str, backend: str) -> Lead | None:
        """The three times side by side, or None where one has not been taken (a bench was deselected)."""
        keys = (
            Key(task, net, NUMPY_LOOP),
            Key(task, net, SINGLE_CALLS, backend),
            Key(task, net, BATCHED, backend),
        )
        return Lead(*(self[key] for key in keys)) if all(key in self for key in keys) else None

    def table(self) -> Iterator[str]:
        """One line for each task, net and backend, in the order they were timed."""
        columns = "{:<11} {:<10} {:<6} {:>14} {:>14} {:>12} {:>10} {:>12}"
        rows = [
            (key, lead)
            for key in self
            if key.way == BATCHED and (lead := self.lead(key.task, key.net, key.backend)) is not None
        ]
        if not rows:
            return
        yield ""
        yield "Per-datum loops against one batched call: microseconds per example, and how many times faster"
        yield columns.format("task", "net", "by", "NumPy loop", "our single", "our batched", "than loop", "than single")
        for key, lead in rows:
            yield columns.format(
                key.task,
                key.net,
                key.backend,
                *(f"{1e6 * seconds:.3f}" for seconds in lead),
                f"{lead.over_loop:.1f}x",
                f"{lead.over_single_calls:.1f}x",
            )
