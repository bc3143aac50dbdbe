"""The tables that benches fill row by row, and how a figure is written in them."""

from collections.abc import Iterator, Sequence

from fastmlp._bench._machine import machine
from fastmlp._demos._table import format_table


class Tables:
    """Tables by their titles, in the order they were begun, and remarks below them all."""

    def __init__(self) -> None:
        self.headers: dict[str, Sequence[str]] = {}
        self.rows: dict[str, list[Sequence[str]]] = {}
        self.remarks: list[str] = []

    def add(self, title: str, header: Sequence[str], row: Sequence[str]) -> None:
        """Add a row to a table, which the first row begins."""
        self.headers[title] = header
        self.rows.setdefault(title, []).append(row)

    def remark(self, text: str) -> None:
        """Add a line, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def lines(self) -> Iterator[str]:
        if self.rows:
            yield ""
            yield machine()
        for title, rows in self.rows.items():
            yield ""
            yield title
            yield from format_table(self.headers[title], rows).splitlines()
        if self.rows:
            yield ""
            yield from self.remarks


def microseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    return f"{1e6 * seconds:.3g}" if seconds < 1e-3 else f"{1e6 * seconds:,.0f}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
