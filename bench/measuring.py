"""A measurement: what one round takes beside the physical limit, and the median of several rounds."""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table. `target` is a bound on `value`, an upper one unless `at_least`; None only informs."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        bound = "" if self.target is None else f"{sign} {self.target:g}"
        verdict = "" if self.target is None else ("met" if self.met else "MISSED")
        return f"{self.name:<58} {self.value:>10,.2f} {self.unit:<8} {bound:<9} {verdict:<7} {self.note}".rstrip()


class RawLimit:
    """What SQLite itself takes for one step: a prepared INSERT and UPDATE, and their commit."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(folder / f"raw-{synchronous}.db", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {synchronous}",
            "CREATE TABLE run (run_id TEXT PRIMARY KEY, seq INTEGER)",
            "CREATE TABLE step (run_id TEXT, seq INTEGER, output TEXT, PRIMARY KEY (run_id, seq))",
            "INSERT INTO run VALUES ('run', 0)",
        ):
            self._connection.execute(statement)
        self._seq = 0

    def commits(self, count: int) -> float:
        """Seconds per commit."""
        cursor = self._connection.cursor()
        began = time.perf_counter()
        for _ in range(count):
            self._seq += 1
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("INSERT INTO step VALUES (?, ?, ?)", ("run", self._seq, '"output"'))
            cursor.execute("UPDATE run SET seq = ? WHERE run_id = ?", (self._seq, "run"))
            cursor.execute("COMMIT")
        return (time.perf_counter() - began) / count

    def close(self) -> None:
        self._connection.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one measurement, on the disk that `FLUJO_BENCH_FOLDER` names or the usual temporary one."""
    with tempfile.TemporaryDirectory(prefix="flujo-bench-", dir=os.environ.get("FLUJO_BENCH_FOLDER")) as name:
        yield Path(name)


def interleaved(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """The results of each work, its rounds taken in turn with those of the others, so that all meet the same machine.

    One round before the first is thrown away.
    """
    results: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, found in zip(works, results, strict=True):
            value = work()
            if number:
                found.append(value)
    return results


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def milliseconds(seconds: list[float]) -> str:
    """The median, for a note."""
    return f"{statistics.median(seconds) * 1000:.3f} ms"
