"""The open waits of runs for a timer, a signal, a retry or a child run, as pages name them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flujo.status import WaitStatus

from runs.models import RunWait


@dataclass(frozen=True, slots=True)
class WaitLine:
    """One wait; `kind` is `timer`, `signal`, `retry` or `child`, `due_at` is None for a signal without a time-out."""

    kind: str
    name: str
    path: str
    due_at: datetime | None
    began_at: datetime
    attempt: int
    max_attempts: int


def line_of(wait: RunWait) -> WaitLine:
    """The wait as a page shows it."""
    return WaitLine(wait.kind, wait.name, wait.path, wait.due_at, wait.began_at, wait.attempt, wait.max_attempts)


def open_waits(run_ids: Iterable[str]) -> dict[str, list[WaitLine]]:
    """What each of the runs waits for, the first to end by itself first; one query."""
    found = defaultdict(list)
    for wait in RunWait.objects.filter(run__in=list(run_ids), status=WaitStatus.OPEN):
        found[wait.run_id].append(line_of(wait))
    return {
        run_id: sorted(lines, key=lambda line: (line.due_at is None, line.due_at or line.began_at))
        for run_id, lines in found.items()
    }
