"""The audit chains of all stores that the tests leave behind, verified before the suite ends.

Django's test databases are checked after each test, before their rows go. SQLite files and the folders of file backends
are found in the tests' temporary folders when the suite ends. Tests marked `tampers` break chains on purpose.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from flujo.errors import FlujoError
from flujo.records import AuditEvent
from flujo.state.backends.file import FileBackend
from flujo.state.base import StateBackend
from flujo.status import EventKind
from flujo.verify import verify_chain, verify_store

SQLITE_HEADER = b"SQLite format 3\0"
EVENT_TABLES = ("flujo_audit_event", "flujo_runs_auditevent")
COLUMNS = "run_id, seq, kind, at, actor, path, fence, body, prev_hash, hash"


class AuditOfStores:
    """Counts what was verified; `broken` names each store whose chains did not hold."""

    def __init__(self) -> None:
        self.left: list[StateBackend] = []
        self.tampered: set[Path] = set()
        self.broken: list[str] = []
        self.chains = 0
        self.events = 0

    def leave(self, store: StateBackend) -> None:
        """Remember a store that is verified when the suite ends: one in memory, say."""
        self.left.append(store)

    def check_databases(self, aliases: Iterable[str]) -> None:
        """Verify all rows of the Django databases; raises, so that the test that broke a chain is the one to fail."""
        for alias in aliases:
            self._verify(_django_rows(alias))

    def check_left(self, folder: Path | None) -> None:
        """Verify every store that was left, and every one below the folder."""
        for store in self.left:
            self._check(repr(store), lambda store=store: self._verify_store(store))
        for path in sorted(folder.rglob("*")) if folder else ():
            if not path.is_symlink() and not self.tampered.intersection({path, *path.parents}):
                self._check_path(path)

    def summary(self) -> list[str]:
        """What the run says at its end."""
        counts = f"{self.chains} histories with {self.events} events verified, {len(self.broken)} broken"
        return [*(f"BROKEN {line}" for line in self.broken), counts]

    def _check_path(self, path: Path) -> None:
        if path.is_dir() and _is_file_store(path):
            self._check(str(path), lambda: self._verify_store(FileBackend(path)))
        elif path.is_file() and _is_sqlite(path):
            self._check(str(path), lambda: self._verify(_sqlite_rows(path)))

    def _check(self, label: str, verify: Any) -> None:
        try:
            verify()
        except (FlujoError, sqlite3.DatabaseError) as error:
            self.broken.append(f"{label}: {error}")

    def _verify_store(self, store: StateBackend) -> None:
        runs, events = asyncio.run(verify_store(store))
        self.chains += runs
        self.events += events

    def _verify(self, events: Iterable[Any]) -> None:
        """Events of many runs, those of one run together and in order."""
        for _, history in groupby(events, key=attrgetter("run_id")):
            self.events += verify_chain(history)
            self.chains += 1


def _django_rows(alias: str) -> Iterator[Any]:
    from django.db import connections

    from runs.models import AuditEvent as Row

    connection = connections[alias]
    if connection.in_atomic_block and connection.needs_rollback:
        return
    yield from Row.objects.using(alias).order_by("run_id", "seq")


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER


def _is_file_store(folder: Path) -> bool:
    return any(file.read_bytes()[:9] == b'{"rows":[' for file in folder.glob("*.jsonl"))


def _sqlite_rows(path: Path) -> Iterator[AuditEvent]:
    """The events in an SQLite file, whether the engine's own backend or Django wrote it."""
    with closing(sqlite3.connect(path)) as connection:
        present = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        for table in present.intersection(EVENT_TABLES):
            for row in connection.execute(f"SELECT {COLUMNS} FROM {table} ORDER BY run_id, seq"):
                run_id, seq, kind, at, *rest = row
                yield AuditEvent(run_id, seq, EventKind(kind), _moment(at), *rest)


def _moment(text: str) -> datetime:
    """The time in a column; Django writes it without a zone, in UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
