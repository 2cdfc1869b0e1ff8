"""The ORM backend: runs as rows of Django's database, written by cursor SQL in one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, connections, transaction
from django.utils import timezone
from flujo import records
from flujo.batch import Batch, RunView, Transition
from flujo.document import RunDocument
from flujo.encryption import Keys
from flujo.errors import BackendBusy, BackendError, Fenced, OutcomeUnknown
from flujo.records import AuditEvent, LogChunk, Record, RunHead, StepReport
from flujo.state.base import Check, StateBackend, check_run_id
from flujo.state.dialect import Dialect
from flujo.state.ready import ready_runs
from flujo.state.rotation import Rotation, Table, missing_keys, rotate, tables_of
from flujo.state.sealing import SealingDialect
from flujo.state.sql import SqlView, fetch, replace, transact
from flujo.state.whole_state import compare_and_import
from flujo.state.workflow_state import document_of, state_of
from flujo.status import RunStatus
from flujo.transitions import purge

from runs import models, notices, site_settings
from runs.encryption import site_keys
from runs.known_head import MustLook, write_on_known
from runs.shared_writer import close_shared_writers, write_with_others
from runs.site_models import ScheduleInput
from runs.step_transaction import StepTransaction, Store, commit_by_itself
from runs.store_health import files, health

T = TypeVar("T")
_WORKERS = 4

_MODELS: dict[type[Record], type[Any]] = {
    RunHead: models.Run,
    records.RunInput: models.RunInput,
    records.Checkpoint: models.Checkpoint,
    records.Attempt: models.Attempt,
    StepReport: models.StepReport,
    LogChunk: models.LogChunk,
    records.HumanTask: models.HumanTask,
    records.RunWait: models.RunWait,
    records.Signal: models.Signal,
    records.Vote: models.Vote,
    records.Decision: models.Decision,
    AuditEvent: models.AuditEvent,
    records.Tombstone: models.Tombstone,
    records.Artefact: models.Artefact,
    records.ArtefactUse: models.ArtefactUse,
}


class DjangoBackend(StateBackend):
    """Stores runs in the database `using`; the console shows those of the default one.

    Several processes and hosts may share it. With the setting `FLUJO_ENCRYPTION_KEYS` its values are sealed.
    `transact_now` is the whole write path, synchronous; the async methods run it on a few threads that keep their
    connections.
    """

    lists_runs: ClassVar[bool] = True
    shared_by_processes: ClassVar[bool] = True
    transactional_steps: ClassVar[bool] = True

    def __init__(self, using: str = "default") -> None:
        self.using = using
        self._keys = site_keys()

    @property
    def four_eyes(self) -> bool:
        return bool(getattr(settings, "FLUJO_FOUR_EYES", False))

    def _dialect(self, *, for_write: bool = True, of_driver: bool = False) -> Dialect:
        limit = site_settings.artefact_bytes()
        vendor = connections[self.using].vendor
        return _dialect(self.using, vendor, self._keys, limit, for_write=for_write, of_driver=of_driver)

    # Writing

    def transact_now(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        """Decide and write in one transaction, or in the caller's if one is open, which an error here leaves usable.

        Raises `Fenced`, `BackendBusy` and `BackendError`, never an error of the database's own.
        """
        check_run_id(run_id)
        with _translated(self.using):
            return self._transact(run_id, transition, known)

    def _transact(self, run_id: str, transition: Transition, known: RunHead | None) -> Batch:
        connection = connections[self.using]
        nested = connection.in_atomic_block
        batch: Batch | None = None

        def decide(view: RunView) -> Batch:
            nonlocal batch
            batch = transition(view)
            return batch

        try:
            if known is not None:
                written = write_on_known(connection, self._dialect(of_driver=True), _without_notices(decide), known)
                if written is not None:
                    return written
            with transaction.atomic(using=self.using), connection.cursor() as cursor:
                batch = transact(cursor, self._dialect(), run_id, decide)
                notices.note(batch, self.using)
        except IntegrityError as error:
            if batch is not None and batch.before is None and self._exists(run_id):
                return self._transact(run_id, transition, None)  # two starts of one id: the other one was first
            raise Fenced(f"Run {run_id} changed meanwhile ({error}). Nothing was written.") from error
        except (DatabaseError, InterfaceError) as error:
            if nested:
                raise
            return self._settle(batch, error)
        return batch

    def _exists(self, run_id: str) -> bool:
        return models.Run.objects.using(self.using).filter(pk=run_id).exists()

    def _settle(self, batch: Batch | None, error: Exception) -> Batch:
        """An error from a commit may come after it: look on a fresh connection which it was."""
        connections[self.using].close()
        if batch is None or not batch.writes or _is_busy(error):
            raise error
        try:
            if self._is_written(batch):
                return batch
        except (DatabaseError, InterfaceError) as again:
            raise OutcomeUnknown(
                f"The database did not say whether the write to run {batch.run_id} was saved: {again}"
            ) from error
        if _primary_code(error) == sqlite3.SQLITE_IOERR:  # it may stand in the log, and come to light after a crash
            raise OutcomeUnknown(f"The disk did not confirm the write to run {batch.run_id}: {error}") from error
        raise error

    def _settled(self, batch: Batch | None, error: Exception) -> Batch:
        with _translated(self.using):
            return self._settle(batch, error)

    def _is_written(self, batch: Batch) -> bool:
        chains = {row.hash for row in batch.inserts if isinstance(row, AuditEvent)}
        stored = models.AuditEvent.objects.using(self.using).filter(run_id=batch.run_id, hash__in=chains)
        return bool(chains) and stored.count() == len(chains)

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        if known is not None:
            check_run_id(run_id)
            written = await self._transact_with_others(run_id, transition, known)
            if written is not None:
                return written
        return await self._in_thread(lambda: self.transact_now(run_id, transition, known=known))

    async def _transact_with_others(self, run_id: str, transition: Transition, known: RunHead) -> Batch | None:
        """What a worker writes, in a commit that others may share; None where that is not to be had."""
        alone, dialect = _without_notices(transition), self._dialect(of_driver=True)
        try:
            return await write_with_others(self.using, lambda cursor: transact(cursor, dialect, run_id, alone, known))
        except MustLook:
            return None

    async def transact_with(self, run_id: str, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        check_run_id(run_id)
        step = StepTransaction(self.using, limit)
        step.start(work, Store(lambda transition: self.transact_now(run_id, transition), self._settled))
        try:
            return await asyncio.shield(asyncio.wrap_future(step.outcome))
        except asyncio.CancelledError:
            if step.stop():
                threading.Thread(target=step.roll_back, name="flujo-rollback", daemon=True).start()
                raise
            return await asyncio.wrap_future(step.outcome)  # it is being committed

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        check_run_id(run_id)
        incoming = document_of(run_id, state)
        await self._in_thread(lambda: self._import(incoming))

    def _import(self, incoming: RunDocument) -> None:
        dialect = self._dialect()
        with (
            _translated(self.using),
            transaction.atomic(using=self.using),
            connections[self.using].cursor() as cursor,
        ):
            stored = SqlView(cursor, dialect, incoming.run_id).whole()
            accepted = compare_and_import(incoming, stored, timezone.now())
            if accepted is not None:
                replace(cursor, dialect, stored, accepted)

    # Reading

    async def load(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        return await self._in_thread(lambda: self.load_now(run_id))

    def load_now(self, run_id: str) -> RunDocument | None:
        """The whole run without its audit events; None for an unknown id."""
        return self._view_now(run_id, SqlView.document)

    def _view_now(self, run_id: str, read: Callable[[SqlView], T]) -> T:
        """Read one run in one transaction, so that its tables tell of the same moment.

        PostgreSQL shows each statement a newer one, unless it is told otherwise at the beginning of a transaction;
        inside the caller's the row of the run is locked instead.
        """
        connection = connections[self.using]
        begins = not connection.in_atomic_block
        with _translated(self.using), transaction.atomic(using=self.using), connection.cursor() as cursor:
            if begins and connection.vendor == "postgresql":
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return read(SqlView(cursor, self._dialect(for_write=not begins), run_id))

    async def whole(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        return await self._in_thread(lambda: self._view_now(run_id, SqlView.whole))

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        document = await self.whole(run_id)
        return None if document is None or document.head is None else state_of(document)

    async def rotate_keys(self) -> Rotation:
        dialect = self._dialect()
        if not isinstance(dialect, SealingDialect):
            return await super().rotate_keys()
        done = await rotate(self._in_transaction, dialect, self._tables(dialect))
        await self._in_thread(self._scrub)
        return done

    async def missing_keys(self) -> dict[str, int]:
        dialect = self._dialect()
        return await self._in_transaction(partial(missing_keys, dialect=dialect, tables=self._tables(dialect)))

    async def health(self) -> list[Check]:
        return await self._in_thread(lambda: list(health(self.using)))

    def files(self) -> list[Path]:
        return files(self.using)

    def _tables(self, dialect: Dialect) -> list[Table]:
        """The tables with values: those of runs, and the schedules."""
        schedules = Table(connections[self.using].ops.quote_name(_table(models.Schedule)), ScheduleInput(), ("input",))
        return [*tables_of(dialect), schedules]

    def _scrub(self) -> None:
        """Leave nothing of what was replaced in an SQLite file; PostgreSQL's own vacuum does it in its time."""
        if connections[self.using].vendor == "sqlite":
            with connections[self.using].cursor() as cursor:
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _in_transaction(self, work: Callable[[Any], T]) -> T:
        def call() -> T:
            with transaction.atomic(using=self.using), connections[self.using].cursor() as cursor:
                return work(cursor)

        return await self._in_thread(call)

    async def delete_state(self, run_id: str) -> None:
        if await self.load(run_id) is not None:
            await self.transact(run_id, purge(actor="", reason="delete_state", now=timezone.now(), facts={}))

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        return await self._select(AuditEvent, "run_id = {0} ORDER BY seq", run_id)

    async def reports(self, run_id: str) -> list[StepReport | LogChunk]:
        return await self._in_thread(lambda: self._view_now(run_id, SqlView.reports))

    async def head(self, run_id: str) -> RunHead | None:
        return next(iter(await self._select(RunHead, "run_id = {0}", run_id)), None)

    async def remains(self, run_id: str) -> RunHead | records.Tombstone | None:
        head = await self.head(run_id)
        return head or next(iter(await self._select(records.Tombstone, "run_id = {0}", run_id)), None)

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        return await self._select(RunHead, "run_id > {0} ORDER BY run_id LIMIT {1}", after, limit)

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        def select() -> list[RunHead]:
            with connections[self.using].cursor() as cursor:
                dialect = self._dialect(for_write=False)
                return ready_runs(cursor, dialect, now, limit, fingerprints=fingerprints, full_keys=full_keys)

        return await self._in_thread(select)

    async def next_of_key(self, concurrency_key: str) -> str | None:
        """The first queued run of a concurrency key."""
        queued = models.Run.objects.using(self.using).filter(status=RunStatus.QUEUED, concurrency_key=concurrency_key)
        first = queued.order_by("-priority", "created_at").values_list("run_id", flat=True)
        return await self._in_thread(first.first)

    async def untold(self, limit: int = 100) -> list[str]:
        return [head.run_id for head in await self._select(RunHead, "untold LIMIT {0}", limit)]

    async def run_ids(self) -> list[str]:
        known = [
            model.objects.using(self.using).order_by().values_list("run_id", flat=True)
            for model in (models.Run, models.Tombstone, models.AuditEvent)
        ]
        return await self._in_thread(lambda: sorted(known[0].union(*known[1:])))

    async def _select(self, record: type[Any], where: str, *parameters: Any) -> list[Any]:
        def select() -> list[Any]:
            with connections[self.using].cursor() as cursor:
                return fetch(cursor, self._dialect(for_write=False), record, where, parameters)

        return await self._in_thread(select)

    # Threads

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run on one of our threads. Cancelling the wait does not stop the work, which ends by itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(done: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits in it
                loop.call_soon_threadsafe(_settle, future, done)

        _submit(self.using, work).add_done_callback(tell)
        return await future


def _without_notices(transition: Transition) -> Transition:
    """The transition where it tells nobody anything: notices are written by the ORM, in its own transaction."""

    def decide(view: RunView) -> Batch:
        batch = transition(view)
        if notices.told_of(batch):
            raise MustLook
        return batch

    return decide


_BUSY_SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BUSY_POSTGRES = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available


@contextmanager
def _translated(using: str) -> Iterator[None]:
    """Database errors as ours, once. Outside of a transaction a connection that failed is closed: it may be broken."""
    try:
        yield
    except IntegrityError as error:
        raise Fenced(f"The run changed meanwhile ({error}). Nothing was written.") from error
    except (DatabaseError, InterfaceError) as error:
        connection = connections[using]
        if not connection.in_atomic_block:
            connection.close()  # the next call opens another
        if _is_busy(error):
            raise BackendBusy(f"The database stayed locked. Nothing was saved: try again. ({error})") from error
        raise BackendError(f"The database failed: {error}. Nothing was saved.") from error


def _is_busy(error: Exception) -> bool:
    """Whether others held what we wanted: the driver's error, which Django keeps as the cause, says so by its code."""
    return _primary_code(error) in _BUSY_SQLITE or getattr(error.__cause__, "sqlstate", "") in _BUSY_POSTGRES


def _primary_code(error: Exception) -> int:
    """SQLite's result code; 0 for another database's error."""
    code: int = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF


def _table(model: type[Any]) -> str:
    return str(model._meta.db_table)  # Django documents _meta


def _is_sqlite_in_utc(connection: Any) -> bool:
    return connection.vendor == "sqlite" and connection.timezone is UTC


@lru_cache(maxsize=256)  # a step writes each of its times into several columns
def _naive_utc(moment: datetime) -> str:
    """A time as Django's SQLite keeps it, in a fifth of the time that Django takes."""
    return str(moment.astimezone(UTC).replace(tzinfo=None))


@cache
def _dialect(
    using: str, vendor: str, keys: Keys | None, artefact_bytes: int, *, for_write: bool = True, of_driver: bool = False
) -> Dialect:
    connection = connections[using]
    made = Dialect if keys is None else partial(SealingDialect, keys=keys)
    return made(
        tables={record: connection.ops.quote_name(_table(model)) for record, model in _MODELS.items()},
        mark="?" if of_driver and vendor == "sqlite" else "%s",
        time_to_db=_naive_utc if _is_sqlite_in_utc(connection) else connection.ops.adapt_datetimefield_value,
        take_turns="SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))" if vendor == "postgresql" else "",
        lock=" FOR UPDATE" if for_write and connection.features.has_select_for_update else "",
        artefact_bytes=artefact_bytes,
    )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="flujo-store")


def _submit(using: str, work: Callable[[], T]) -> Future[T]:
    def call() -> T:
        with _translated(using):
            commit_by_itself(connections[using])
            return work()

    return _pool().submit(call)


def _settle(future: asyncio.Future[T], done: Future[T]) -> None:
    if future.done():
        return  # whoever was cancelled waits no longer
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    else:
        future.set_exception(error)


def close_store_threads() -> None:
    """End the store's threads and their connections, before the process forks or a test drops its database."""
    close_shared_writers()
    pool = _pool()
    _pool.cache_clear()
    everyone = threading.Barrier(_WORKERS)

    def close() -> None:
        everyone.wait()  # so that each thread takes one of these calls
        connections.close_all()

    for _ in range(_WORKERS):
        pool.submit(close)
    pool.shutdown(wait=True)
