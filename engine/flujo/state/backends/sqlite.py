"""The SQLite backend: one file, in which writers of one process share commits."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from flujo.batch import Batch, Transition
from flujo.clock import Clock, SystemClock
from flujo.document import RunDocument
from flujo.encryption import Keys
from flujo.errors import BackendError
from flujo.records import AuditEvent, LogChunk, RunHead, StepReport, Tombstone
from flujo.state.artefacts import ARTEFACT_BYTES, checked_threshold
from flujo.state.backends.sqlite_connections import Connections, file_at, moved
from flujo.state.backends.sqlite_errors import translated, when_free
from flujo.state.backends.sqlite_health import health
from flujo.state.backends.sqlite_schema import TABLES, check_owner, create_tables
from flujo.state.backends.sqlite_writer import Writer
from flujo.state.base import Check, StateBackend, check_run_id
from flujo.state.dialect import Dialect
from flujo.state.folders import make_folder
from flujo.state.ready import ready_runs
from flujo.state.rotation import Rotation, missing_keys, rotate, tables_of
from flujo.state.sealing import SealingDialect
from flujo.state.sql import SqlView, fetch, replace, transact
from flujo.state.whole_state import compare_and_import
from flujo.state.workflow_state import document_of, state_of
from flujo.transitions import purge

BUSY_SECONDS = 20.0


class SQLiteBackend(StateBackend):
    """Stores runs in the SQLite file `path`. Several threads, loops and processes may share the file.

    `synchronous` is `FULL` (a commit that returned survives a power cut) or `NORMAL` (it survives a crash of the
    process, but a power cut may take the last commits). A locked database is waited for up to 20 seconds, then
    `BackendBusy` is raised. A file that is no database, or one of a newer Flujo, is left as it is (`CorruptState`).
    Values of more than `artefact_bytes` are stored once for all runs. With `encryption` all values are sealed, by the
    first of the keys; plain ones of earlier times stay readable.
    """

    lists_runs: ClassVar[bool] = True
    shared_by_processes: ClassVar[bool] = True

    def __init__(
        self,
        path: Path | str,
        *,
        synchronous: str = "FULL",
        clock: Clock | None = None,
        busy_seconds: float = BUSY_SECONDS,
        encryption: Keys | None = None,
        artefact_bytes: int = ARTEFACT_BYTES,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous is FULL or NORMAL, not {synchronous!r}.")
        self.path = Path(path).absolute()  # the program may go to another folder
        self._synchronous = synchronous
        self._busy_seconds = busy_seconds
        self._clock = clock or SystemClock()
        self._writer = Writer(_weakly(self._connect), busy_seconds, audit_table=TABLES[AuditEvent])
        weakref.finalize(self, self._writer.stop)
        self._readers = Connections(_weakly(self._connect), busy_seconds)
        weakref.finalize(self, self._readers.close)
        self._file: tuple[int, int] | None = None
        made = Dialect if encryption is None else partial(SealingDialect, keys=encryption)
        self._dialect: Dialect = made(TABLES, artefact_bytes=checked_threshold(artefact_bytes))

    # Writing

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        check_run_id(run_id)
        return await self._writer.write(lambda cursor: transact(cursor, self._dialect, run_id, transition, known))

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        check_run_id(run_id)
        incoming = document_of(run_id, state)

        def work(cursor: sqlite3.Cursor) -> None:
            stored = SqlView(cursor, self._dialect, run_id).whole()
            accepted = compare_and_import(incoming, stored, self._clock.now())
            if accepted is not None:
                replace(cursor, self._dialect, stored, accepted)

        await self._writer.write(work)

    async def delete_state(self, run_id: str) -> None:
        if await self.load(run_id) is not None:
            gone = purge(actor="", reason="delete_state", now=self._clock.now(), facts={})
            await self.transact(run_id, gone)

    async def rotate_keys(self) -> Rotation:
        if not isinstance(self._dialect, SealingDialect):
            return await super().rotate_keys()
        done = await rotate(self._writer.write, self._dialect, tables_of(self._dialect))
        await asyncio.to_thread(self._scrub)
        return done

    async def missing_keys(self) -> dict[str, int]:
        with self._reading() as cursor:
            return missing_keys(cursor, self._dialect, tables_of(self._dialect))

    def _scrub(self) -> None:
        """Leave nothing of what was replaced in the file's free space and in its log."""
        with translated(self.path), closing(self._connect()) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # Reading

    async def load(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        with self._reading() as cursor:
            return SqlView(cursor, self._dialect, run_id).document()

    async def whole(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        with self._reading() as cursor:
            return SqlView(cursor, self._dialect, run_id).whole()

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        document = await self.whole(run_id)
        return None if document is None or document.head is None else state_of(document)

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        return self._select(AuditEvent, "run_id = {0} ORDER BY seq", run_id)

    async def reports(self, run_id: str) -> list[StepReport | LogChunk]:
        with self._reading() as cursor:
            return SqlView(cursor, self._dialect, run_id).reports()

    async def head(self, run_id: str) -> RunHead | None:
        return next(iter(self._select(RunHead, "run_id = {0}", run_id)), None)

    async def remains(self, run_id: str) -> RunHead | Tombstone | None:
        return await self.head(run_id) or next(iter(self._select(Tombstone, "run_id = {0}", run_id)), None)

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        return self._select(RunHead, "run_id > {0} ORDER BY run_id LIMIT {1}", after, limit)

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        with self._reading() as cursor:
            return ready_runs(cursor, self._dialect, now, limit, fingerprints=fingerprints, full_keys=full_keys)

    async def untold(self, limit: int = 100) -> list[str]:
        return [head.run_id for head in self._select(RunHead, "untold LIMIT {0}", limit)]

    async def run_ids(self) -> list[str]:
        with self._reading() as cursor:
            known = (f"SELECT run_id FROM {TABLES[record]}" for record in (RunHead, Tombstone, AuditEvent))
            cursor.execute(" UNION ".join(known) + " ORDER BY run_id")
            return [row[0] for row in cursor.fetchall()]

    def _select(self, record: type[Any], where: str, *parameters: Any) -> list[Any]:
        with self._reading() as cursor:
            return fetch(cursor, self._dialect, record, where, parameters)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        """A connection that nobody else uses meanwhile, in one snapshot."""
        with translated(self.path), self._readers.lent() as connection:
            connection.execute("BEGIN")
            yield connection.cursor()
            connection.execute("COMMIT")

    # Connections

    def _connect(self) -> sqlite3.Connection:
        """A connection to the file, which is made if there is none; a file of others is not touched."""
        if self._file is None:
            self._look()
        elif self._file != file_at(self.path):
            raise moved(self.path)
        make_folder(self.path.parent)
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            if not check_owner(connection):
                create_tables(connection)
            # SQLite itself does not wait for others who use a new file at the same moment
            when_free(connection, "PRAGMA journal_mode = WAL", self._busy_seconds)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA trusted_schema = OFF")
        except BaseException:
            connection.close()
            raise
        self._file = file_at(self.path)
        return connection

    def _look(self) -> None:
        """See whose file it is without the right to write: even closing it would otherwise write back others' log."""
        if not self.path.exists():
            return
        with suppress(sqlite3.OperationalError):  # only whoever may write can tell, and it asks before it writes
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=self._busy_seconds)) as connection:
                check_owner(connection)

    async def health(self) -> list[Check]:
        with translated(self.path):
            return list(health(self.path, self._synchronous))

    def files(self) -> list[Path]:
        return [path for end in ("", "-wal", "-shm") if (path := Path(f"{self.path}{end}")).exists()]

    async def close(self) -> None:
        await self._writer.close()
        self._readers.close()
        self._file = None


def _weakly(connect: Callable[[], sqlite3.Connection]) -> Callable[[], sqlite3.Connection]:
    """The method, without holding its backend: whoever drops that drops its writer."""
    method = weakref.WeakMethod(connect)

    def call() -> sqlite3.Connection:
        connect = method()
        if connect is None:
            raise BackendError("The backend was dropped while it was asked to write. Nothing was saved.")
        return connect()

    return call
