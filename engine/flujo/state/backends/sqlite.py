"""The SQLite backend: one file, one writer thread, commits shared by writers that queue up."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, TypeVar

from flujo.batch import Batch, Transition
from flujo.clock import Clock, SystemClock
from flujo.document import RunDocument
from flujo.encryption import Keys
from flujo.errors import BackendBusy, BackendError, CorruptState, Fenced, FlujoError, OutcomeUnknown
from flujo.records import AuditEvent, LogChunk, RunHead, StepReport, Tombstone
from flujo.state.artefacts import ARTEFACT_BYTES, checked_threshold
from flujo.state.backends.sqlite_health import Found, health
from flujo.state.backends.sqlite_schema import TABLES, check_owner, create_tables
from flujo.state.base import StateBackend, check_run_id, compare_and_import
from flujo.state.folders import make_folder
from flujo.state.ready import ready_runs
from flujo.state.rotation import Rotation, missing_keys, rotate, tables_of
from flujo.state.sealing import SealingDialect
from flujo.state.sql import Dialect, SqlView, fetch, replace, transact
from flujo.state.workflow_state import document_of, state_of
from flujo.transitions import purge

T = TypeVar("T")
BUSY_SECONDS = 20.0
MAX_SHARED = 200
MAX_IDLE = 4
LOG_PAGES = 4_000  # 16 MB: each step writes the same few pages again, which go to the file once for all of them
_RETRY_SECONDS = 0.005
_OF_THE_PARENT: list[list[sqlite3.Connection]] = []  # kept, since closing them would let go of the parent's locks


@dataclass(slots=True, eq=False)
class _Job:
    """Work for the writer thread: it runs inside a transaction, and its future is settled after the commit."""

    work: Callable[[sqlite3.Cursor], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell who waits, in its loop. Whoever was cancelled waits no longer; the work is done all the same."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SQLiteBackend(StateBackend):
    """Stores runs in the SQLite file `path`. Several threads, loops and processes may share the file.

    `synchronous` is `FULL` (a commit that returned survives a power cut) or `NORMAL` (it survives a crash of the
    process, but a power cut may take the last commits). A locked database is waited for up to 20 seconds, then
    `BackendBusy` is raised. A file that is no database, or one of a newer Flujo, is left as it is (`CorruptState`).
    Values of more than `artefact_bytes` are stored once for all runs. With `encryption` all values are sealed in their
    rows, by the first of the keys; plain ones of earlier times stay readable.
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
        self.path = Path(path)
        self._synchronous = synchronous
        self._busy_seconds = busy_seconds
        self._clock = clock or SystemClock()
        self._writer: _Writer | None = None
        self._readers = _Readers()
        weakref.finalize(self, self._readers.close)
        self._guard = threading.Lock()
        self._known = False
        plain = Dialect(TABLES, artefact_bytes=checked_threshold(artefact_bytes))
        self._dialect = plain if encryption is None else SealingDialect(TABLES, keys=encryption)

    # Writing

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        check_run_id(run_id)
        return await self._write(lambda cursor: transact(cursor, self._dialect, run_id, transition, known))

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        check_run_id(run_id)
        incoming = document_of(run_id, state)

        def work(cursor: sqlite3.Cursor) -> None:
            stored = SqlView(cursor, self._dialect, run_id).whole()
            accepted = compare_and_import(incoming, stored, self._clock.now())
            if accepted is not None:
                replace(cursor, self._dialect, stored, accepted)

        await self._write(work)

    async def delete_state(self, run_id: str) -> None:
        if await self.load(run_id) is not None:
            gone = purge(actor="", reason="delete_state", now=self._clock.now(), facts={})
            await self.transact(run_id, gone)

    async def rotate_keys(self) -> Rotation:
        if not isinstance(self._dialect, SealingDialect):
            return await super().rotate_keys()
        done = await rotate(self._write, self._dialect, tables_of(self._dialect))
        await asyncio.to_thread(self._scrub)
        return done

    async def missing_keys(self) -> dict[str, int]:
        with self._reading() as cursor:
            return missing_keys(cursor, self._dialect, tables_of(self._dialect))

    def _scrub(self) -> None:
        """Leave nothing of what was replaced in the file's free space and in its log."""
        with _translated(self.path), closing(self._connect()) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _write(self, work: Callable[[sqlite3.Cursor], T]) -> T:
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._put(job)
        result: T = await job.future
        return result

    def _put(self, job: _Job) -> None:
        """Give the writer a job; under the guard, since one that came after the word to stop would never be done."""
        with self._guard:
            if self._writer is None or self._writer.pid != os.getpid():
                self._writer = _Writer(self._connect)
            self._writer.put(job)

    # Reading

    async def load(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        with self._reading() as cursor:
            return SqlView(cursor, self._dialect, run_id).document()

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        check_run_id(run_id)
        with self._reading() as cursor:
            document = SqlView(cursor, self._dialect, run_id).whole()
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
        with _translated(self.path):
            connection = self._readers.take() or self._connect()
            try:
                connection.execute("BEGIN")
                yield connection.cursor()
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._readers.give_back(connection)

    # Connections

    def _connect(self) -> sqlite3.Connection:
        """A connection to the file, which is made if there is none; a file of others is not touched."""
        self._look()
        make_folder(self.path.parent)
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            if not check_owner(connection):
                create_tables(connection)
            self._use_log(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        except BaseException:
            connection.close()
            raise
        self._known = True
        return connection

    def _look(self) -> None:
        """See whose file it is without the right to write: even closing it would otherwise write back others' log."""
        if self._known or not self.path.exists():
            return
        with suppress(sqlite3.OperationalError):  # only whoever may write can tell, and it asks before it writes
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=self._busy_seconds)) as connection:
                check_owner(connection)

    def _use_log(self, connection: sqlite3.Connection) -> None:
        """Turn the write-ahead log on. SQLite does not wait for others who use a new file at the same moment."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def health(self) -> Iterator[Found]:
        """What a look at the file tells: each check, whether it is well, what was found and what to do."""
        with _translated(self.path):
            yield from health(self.path, self._synchronous)

    async def close(self) -> None:
        with self._guard:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.stop()
        if writer is not None:
            await asyncio.to_thread(writer.join)
        self._readers.close()


class _Readers:
    """Connections kept open between reads: opening one takes longer than most reads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: list[sqlite3.Connection] = []

    def take(self) -> sqlite3.Connection | None:
        """One that nobody uses, if there is one. A child process leaves alone what its parent opened."""
        if self._pid != os.getpid():
            _OF_THE_PARENT.append(self._idle)
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection that is in no transaction, unless enough are kept."""
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while (connection := self.take()) is not None:
            connection.close()


class _Writer:
    """The one thread that writes. It is a daemon: what it acknowledged is committed, so nothing is lost with it."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self.pid = os.getpid()
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="flujo-sqlite-writer", daemon=True)
        self._thread.start()

    def put(self, job: _Job) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        """End after the jobs that were put before."""
        self._jobs.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more and (job := self._jobs.get()) is not None:
            jobs, more = self._gather(job)
            try:
                with _translated("the store"):
                    self._share_commit(jobs)
            except BaseException as error:  # whatever it is, it belongs to those who wait for these writes
                self._drop_connection()
                for failed in jobs:
                    failed.error = failed.error or error
            self._tell(jobs)
            del job, jobs  # nothing is kept of them while the thread waits
        self._drop_connection()

    @staticmethod
    def _tell(jobs: list[_Job]) -> None:
        """Wake each loop once for all of its jobs."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, its in by_loop.items():
            with suppress(RuntimeError):  # the loop was closed: nobody waits in it
                loop.call_soon_threadsafe(_settle, its)

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """All jobs that wait now; False when the last word was to stop."""
        jobs = [first]
        while len(jobs) < MAX_SHARED:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
        return jobs, True

    def _share_commit(self, jobs: list[_Job]) -> None:
        """One transaction for all, in which a job that fails fails alone."""
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            if not self._all_clean(cursor, jobs):
                cursor.execute("ROLLBACK")
                cursor.execute("BEGIN IMMEDIATE")
                for job in jobs:
                    self._alone(cursor, job)
        except BaseException:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        try:
            cursor.execute("COMMIT")
        except sqlite3.Error as error:
            self._settle(jobs, error)

    def _all_clean(self, cursor: sqlite3.Cursor, jobs: list[_Job]) -> bool:
        """Do all jobs, and say whether each was done or refused whole; savepoints are for when one was not."""
        for job in jobs:
            before = cursor.connection.total_changes
            if not self._one(cursor, job) and cursor.connection.total_changes != before:
                return False
        return True

    def _alone(self, cursor: sqlite3.Cursor, job: _Job) -> None:
        cursor.execute("SAVEPOINT job")
        if not self._one(cursor, job):
            cursor.execute("ROLLBACK TO job")
        cursor.execute("RELEASE job")

    def _one(self, cursor: sqlite3.Cursor, job: _Job) -> bool:
        """Do a job and keep its result or its error; False when it failed."""
        job.error = None
        try:
            job.result = job.work(cursor)
        except sqlite3.IntegrityError as error:
            job.error = Fenced(f"The run changed meanwhile ({error}). Nothing was written.")
        except sqlite3.Error:
            raise
        except Exception as error:  # a transition's refusal, or any fault in it: this job's alone
            job.error = error
        return job.error is None

    def _settle(self, jobs: list[_Job], error: sqlite3.Error) -> None:
        """A COMMIT that failed may have been kept: a fresh connection tells for each job which it was."""
        self._drop_connection()
        for job in jobs:
            if job.error is None and isinstance(job.result, Batch):
                job.error = None if self._is_kept(job.result) else _translate(error, "the store")
            elif job.error is None:
                job.error = OutcomeUnknown(f"The store did not confirm the write: {error}")

    def _is_kept(self, batch: Batch) -> bool:
        hashes = [(row.run_id, row.seq, row.hash) for row in batch.inserts if isinstance(row, AuditEvent)]
        if not batch.writes:
            return True
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            raise OutcomeUnknown(f"The store did not confirm the write, and cannot be read: {error}") from error
        try:
            sql = f"SELECT count(*) FROM {TABLES[AuditEvent]} WHERE run_id = ? AND seq = ? AND hash = ?"
            return bool(hashes) and all(connection.execute(sql, key).fetchone()[0] for key in hashes)
        finally:
            connection.close()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


@contextmanager
def _translated(where: Path | str) -> Iterator[None]:
    """Driver errors as ours, once."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, where) from error
    except OSError as error:
        raise BackendError(f"{where} cannot be opened: {error}") from error


def _translate(error: sqlite3.Error, where: Path | str) -> FlujoError:
    if _is_busy(error):
        return BackendBusy(f"{where} stayed locked by another process. Nothing was saved: try again.")
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptState(f"{where} cannot be read ({error}). It was left as it is: restore it from a backup.")
    return BackendError(f"{where} failed: {error}. Nothing was saved.")


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the driver's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
