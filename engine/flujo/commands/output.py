"""What commands print: JSON, plain columns, or tables by `rich` on a terminal where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")
Cell = str | int | datetime | None


class Output:
    """Prints the answer of a command on standard output, and what went wrong on standard error."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def document(self, plain: Any) -> None:
        """Print one JSON document."""
        sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str) -> None:
        """Print a sentence."""
        sys.stdout.write(f"{printable(text)}\n")

    def error(self, text: str) -> None:
        """Say what went wrong, in one line."""
        sys.stderr.write(f"{printable(' '.join(text.split()))}\n")

    def facts(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Print names and values, one pair a line; pairs without a value are left out."""
        told = [(name, cell(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in told), default=0)
        for name, value in told:
            self.line(f"{name:<{width}}  {value}")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Print rows under their heads."""
        texts = [[cell(value) for value in row] for row in rows]
        if sys.stdout.isatty() and find_spec("rich") is not None:
            _rich_table(heads, texts)
            return
        widths = [max(len(row[number]) for row in [list(heads), *texts]) for number in range(len(heads))]
        for row in [list(heads), *texts]:
            padded = "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
            sys.stdout.write(f"{padded.rstrip()}\n")

    @contextmanager
    def progress(self, items: Sequence[T], what: str) -> Iterator[Iterator[T]]:
        """Give the items, and show on a terminal how many are done."""
        if not (sys.stderr.isatty() and find_spec("rich") is not None):
            yield iter(items)
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as shown:
            yield iter(shown.track(items, description=what))


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=box.SIMPLE)
    for row in rows:
        table.add_row(*(Text(text, overflow="fold") for text in row))  # stored texts are no markup
    Console().print(table)


def cell(value: Cell) -> str:
    """A value as text: times in UTC to the second, nothing as nothing."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "" if value is None else printable(str(value))


def printable(text: str) -> str:
    """The text with what could steer a terminal or hide something written as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
