"""Runs as rows of an SQL database: the statements that the SQLite and the Django backend share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from operator import is_not
from typing import Any, TypeVar

from flujo.batch import Batch, Transition
from flujo.codec import columns
from flujo.document import RunDocument, started
from flujo.errors import CorruptState, Fenced, FlujoError
from flujo.records import (
    Attempt,
    AuditEvent,
    Checkpoint,
    Decision,
    HumanTask,
    LogChunk,
    Record,
    RunHead,
    RunInput,
    RunWait,
    Signal,
    StepReport,
    Tombstone,
    Vote,
)
from flujo.state import sql_artefacts
from flujo.state.artefacts import has_large, set_apart
from flujo.state.dialect import LOADED, SHAPES, Cursor, Dialect
from flujo.status import TERMINAL, RunStatus, TaskStatus, WaitStatus

R = TypeVar("R", bound=Record)
Statement = tuple[str, list[Any]]
# What tells that a head still stands: every write moves its `seq`, except one that only extends the lease.
_WITHOUT_LEASE = ("run_id", "seq", "fence", "status")
_WITH_LEASE = (*_WITHOUT_LEASE, "lease_expires_at")
_GONE_WITH_THE_RUN: tuple[type[Record], ...] = (
    Vote,
    Decision,
    HumanTask,
    RunWait,
    Signal,
    LogChunk,
    StepReport,
    Attempt,
    Checkpoint,
    RunInput,
)


class SqlView:
    """One run inside a transaction, read as a transition asks for it: a `RunView`."""

    def __init__(self, cursor: Cursor, dialect: Dialect, run_id: str, *, known: RunHead | None = None) -> None:
        self.run_id = run_id
        self.seals = dialect.seals
        self._cursor = cursor
        self._dialect = dialect
        # Not cached properties: those of Python 3.11 share a lock, whose holder may wait here for a row that we hold.
        self._single: dict[type[Record], Any] = {} if known is None else {RunHead: known}

    def _rows(self, record: type[R], where: str = "run_id = {0}", *more: Any, suffix: str = "") -> list[R]:
        parameters = (self.run_id, *map(self._dialect.to_db, more))
        return fetch(self._cursor, self._dialect, record, where, parameters, suffix=suffix)

    def _once(self, record: type[R], suffix: str = "") -> R | None:
        if record not in self._single:
            self._single[record] = _only(self._rows(record, suffix=suffix))
        found: R | None = self._single[record]
        return found

    @property
    def head(self) -> RunHead | None:
        return self._once(RunHead, self._dialect.lock)

    @property
    def tombstone(self) -> Tombstone | None:
        return self._once(Tombstone)

    @property
    def start(self) -> RunInput:
        return started(self.run_id, self._once(RunInput))

    def checkpoint(self, path: str) -> Checkpoint | None:
        return _only(self._rows(Checkpoint, "run_id = {0} AND path = {1}", path))

    def attempts_of(self, path: str) -> list[Attempt]:
        return self._rows(Attempt, "run_id = {0} AND path = {1} ORDER BY number", path)

    def open_attempts(self) -> list[Attempt]:
        done = f"SELECT path FROM {self._dialect.tables[Checkpoint]} WHERE run_id = {{1}}"
        return self._rows(Attempt, f"run_id = {{0}} AND outcome IS NULL AND path NOT IN ({done})", self.run_id)

    def step_report(self, path: str, attempt: int) -> StepReport | None:
        return _only(self._rows(StepReport, "run_id = {0} AND path = {1} AND attempt = {2}", path, attempt))

    def human_task(self, path: str) -> HumanTask | None:
        found = self._rows(HumanTask, "run_id = {0} AND path = {1} ORDER BY generation DESC LIMIT 1", path)
        return _only(found)

    def open_human_tasks(self) -> list[HumanTask]:
        return self._rows(HumanTask, "run_id = {0} AND status = {1} ORDER BY generation", TaskStatus.OPEN)

    def decision(self, path: str, generation: int) -> Decision | None:
        return _only(self._rows(Decision, "run_id = {0} AND path = {1} AND generation = {2}", path, generation))

    def holders_of(self, concurrency_key: str) -> list[RunHead]:
        if self._dialect.take_turns:
            self._cursor.execute(self._dialect.take_turns, [concurrency_key])
        running = f"run_id <> {{0}} AND concurrency_key = {{1}} AND status = '{RunStatus.RUNNING.value}'"
        return self._rows(RunHead, running, concurrency_key)

    def votes(self, path: str, generation: int) -> list[Vote]:
        where = "run_id = {0} AND path = {1} AND generation = {2} ORDER BY voted_at, actor"
        return self._rows(Vote, where, path, generation)

    def open_waits(self) -> list[RunWait]:
        return self._rows(RunWait, "run_id = {0} AND status = {1} ORDER BY began_at", WaitStatus.OPEN)

    def signal(self, message_id: str) -> Signal | None:
        return _only(self._rows(Signal, "run_id = {0} AND message_id = {1}", message_id))

    def waiting_signals(self) -> list[Signal]:
        return self._rows(Signal, "run_id = {0} AND taken_by = {1} ORDER BY seq", "")

    def document(self) -> RunDocument | None:
        """The run without its audit events and its log; None when the store knows nothing of it."""
        document = RunDocument(self.run_id, self.head)
        for kind in self._kinds():
            document.put_all(kind, self._rows(kind))
        return document if document.head is not None or document.rows else None

    def _kinds(self) -> Iterable[type[Record]]:
        """What there is of the run: one statement, where one for each table would find nothing in most of them."""
        self._cursor.execute(self._dialect.probe(), [self.run_id] * len(LOADED))
        return compress(LOADED, self._cursor.fetchone())

    def whole(self) -> RunDocument | None:
        """The run with all that is stored of it."""
        document = self.document()
        rows = [*(document.records() if document is not None else ()), *self.events(), *self.reports()]
        return RunDocument.of(self.run_id, rows) if rows else None

    def events(self) -> list[AuditEvent]:
        return self._rows(AuditEvent, "run_id = {0} ORDER BY seq")

    def reports(self) -> list[StepReport | LogChunk]:
        return [*self._rows(StepReport), *self._rows(LogChunk, "run_id = {0} ORDER BY path, attempt, number")]


def fetch(
    cursor: Cursor, dialect: Dialect, record: type[R], where: str, parameters: Sequence[Any], *, suffix: str = ""
) -> list[R]:
    """The records that a condition selects. Raises `CorruptState` when a row is none."""
    sql = dialect.select(record, where, suffix)
    fields = _columns(cursor, dialect, record, sql, parameters)
    if sql_artefacts.put_back(cursor, dialect, record, fields) is not None:
        # The run may have been deleted or replaced between two statements: then its rows are others, too.
        fields = _columns(cursor, dialect, record, sql, parameters)
        missing = sql_artefacts.put_back(cursor, dialect, record, fields)
        if missing is not None:
            raise missing
    return list(map(record, *fields)) if fields else []


def _columns(cursor: Cursor, dialect: Dialect, record: type[Record], sql: str, parameters: Sequence[Any]) -> list[Any]:
    """The rows by columns, opened: a long run has thousands of them."""
    cursor.execute(sql, parameters)
    fields: list[Any] = list(zip(*cursor.fetchall(), strict=True))
    if not fields:
        return []
    try:
        for position, read in SHAPES[record].readers:
            fields[position] = [None if value is None else read(value) for value in fields[position]]
        dialect.open_columns(record, fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"A stored {record.__name__} cannot be read: {error}") from error
    return fields


def transact(
    cursor: Cursor, dialect: Dialect, run_id: str, transition: Transition, known: RunHead | None = None
) -> Batch:
    """Decide and write in the caller's transaction.

    A worker that says which head it knows saves its reading: the write changes the head only if that still stands, and
    when it does not, nothing was written and the head is read. That needs a transaction that nobody writes beside.
    Raises `Fenced` when the run changed meanwhile.
    """
    batch = None if known is None else _on_known(cursor, dialect, transition, known)
    if batch is None:
        batch = transition(SqlView(cursor, dialect, run_id))
        if batch.writes:
            write(cursor, dialect, batch)
    return batch


def _on_known(cursor: Cursor, dialect: Dialect, transition: Transition, known: RunHead) -> Batch | None:
    """What is decided on the known head, written; None when that stands no longer, or no write proves that it does."""
    try:
        batch = transition(SqlView(cursor, dialect, known.run_id, known=known))
    except FlujoError:
        return None
    if batch.head is None or not batch.writes or not _move_head(cursor, dialect, known, batch.head):
        return None
    _write_rows(cursor, dialect, batch)
    return batch


def write(cursor: Cursor, dialect: Dialect, batch: Batch) -> None:
    """Write a batch into the caller's transaction. Raises `Fenced` when the run is no longer as `before` says."""
    _write_head(cursor, dialect, batch)
    _write_rows(cursor, dialect, batch)


def _write_rows(cursor: Cursor, dialect: Dialect, batch: Batch) -> None:
    limit = dialect.artefact_bytes
    if has_large(batch.inserts, limit) or has_large(batch.updates, limit):
        texts: dict[str, str] = {}
        inserts, updates = set_apart(batch.inserts, limit, texts), set_apart(batch.updates, limit, texts)
        sql_artefacts.keep(cursor, dialect, batch.run_id, texts)
        batch = Batch(batch.run_id, batch.before, batch.head, inserts, updates)
    for statement in row_statements(dialect, batch):
        cursor.execute(*statement)


def row_statements(dialect: Dialect, batch: Batch) -> Iterator[Statement]:
    """What writes a batch's rows, the head apart."""
    for kind, rows in _by_kind(batch.inserts):
        values = dialect.row(rows[0]) if len(rows) == 1 else [value for row in rows for value in dialect.row(row)]
        yield dialect.insert(kind, len(rows)), values
    for row in batch.updates:
        kind = type(row)
        changed = tuple(name for name in columns(kind) if name not in kind.key)
        stored = dict(zip(columns(kind), dialect.row(row), strict=True))
        values = [stored[name] for name in (*changed, *kind.key)]
        yield dialect.update(kind, changed, kind.key), values


def replace(cursor: Cursor, dialect: Dialect, stored: RunDocument | None, document: RunDocument) -> None:
    """Write a whole run over a stored one of the same history; audit events that are stored stay as they are."""
    known: set[Record] = set(stored.events()) if stored else set()
    texts: dict[str, str] = {}
    records = set_apart(document.records(), dialect.artefact_bytes, texts)
    for kind in (*_GONE_WITH_THE_RUN, Tombstone):
        cursor.execute(f"DELETE FROM {dialect.tables[kind]} WHERE run_id = {dialect.mark}", [document.run_id])
    if stored is not None and stored.head is not None:
        _write_head(cursor, dialect, Batch(document.run_id, stored.head, document.head))
    for kind, rows in _by_kind(records):
        for row in rows:
            if row not in known and not (kind is RunHead and stored is not None and stored.head is not None):
                cursor.execute(dialect.insert(kind, 1), dialect.row(row))
    sql_artefacts.keep(cursor, dialect, document.run_id, texts)
    sql_artefacts.release(cursor, dialect, document.run_id, kept=texts)


def _write_head(cursor: Cursor, dialect: Dialect, batch: Batch) -> None:
    before, after = batch.before, batch.head
    if before is None:
        assert after is not None  # a run that is not there is not deleted
        cursor.execute(dialect.insert(RunHead, 1), dialect.row(after))
    elif after is None:
        if batch.moves and before.active:
            _end_here(cursor, dialect, before)
        _delete(cursor, dialect, before)
    elif not _move_head(cursor, dialect, before, after):
        raise _changed(before)


def _move_head(cursor: Cursor, dialect: Dialect, before: RunHead, after: RunHead) -> bool:
    """Change the head if it is still the one it was; False when it is not."""
    cursor.execute(*head_statement(dialect, before, after))
    return cursor.rowcount == 1


def head_statement(dialect: Dialect, before: RunHead, after: RunHead) -> Statement:
    """What changes the head, one row, if it is still the one it was, and else none. It is the fence of every write."""
    of = SHAPES[RunHead]
    old, new = of.values(before), of.values(after)
    others = compress(zip(of.names, old, new, strict=True), map(is_not, old, new))
    moved = {name: value for name, earlier, value in others if value != earlier}
    moved = moved or {"seq": after.seq}  # rows that leave the head as it is are fenced by it all the same
    fence: tuple[str, ...] = _WITHOUT_LEASE
    stood: list[Any] = [before.run_id, before.seq, before.fence, before.status.value]
    if before.lease_expires_at is not None:
        fence, stood = _WITH_LEASE, [*stood, dialect.time_to_db(before.lease_expires_at)]
    return dialect.update(RunHead, tuple(moved), fence), [*dialect.head_changes(after, moved), *stood]


def _end_here(cursor: Cursor, dialect: Dialect, before: RunHead) -> None:
    """End a run that goes on elsewhere, since the database lets no active one be deleted."""
    ended = before.changed({"status": RunStatus.CANCELLED, "wait": None})
    if not _move_head(cursor, dialect, before, ended):
        raise _changed(before)


def _delete(cursor: Cursor, dialect: Dialect, before: RunHead) -> None:
    sql_artefacts.release(cursor, dialect, before.run_id)
    for kind in _GONE_WITH_THE_RUN:
        cursor.execute(f"DELETE FROM {dialect.tables[kind]} WHERE run_id = {dialect.mark}", [before.run_id])
    terminal = ", ".join(f"'{RunStatus(status).value}'" for status in sorted(TERMINAL))
    condition = f"run_id = {dialect.mark} AND seq = {dialect.mark} AND status IN ({terminal})"
    cursor.execute(f"DELETE FROM {dialect.tables[RunHead]} WHERE {condition}", [before.run_id, before.seq])
    if cursor.rowcount != 1:
        raise _changed(before)


def _changed(before: RunHead) -> Fenced:
    return Fenced(f"Run {before.run_id} changed meanwhile. Nothing was written.")


def _by_kind(records: list[Record]) -> Iterable[tuple[type[Record], list[Record]]]:
    kinds_in_order: dict[type[Record], list[Record]] = {}
    for record in records:
        kinds_in_order.setdefault(type(record), []).append(record)
    return kinds_in_order.items()


def _only(rows: list[R]) -> R | None:
    return rows[0] if rows else None
