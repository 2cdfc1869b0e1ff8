"""A whole run in memory: what executors work on, and what backends without tables store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flujo import canonical, codec
from flujo.batch import Batch, RunView, Transition
from flujo.context import Fields, fold
from flujo.errors import BackendCannot, CorruptState, Fenced
from flujo.paths import MIGRATION, is_top
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
from flujo.status import RunStatus, TaskStatus, Wait, WaitStatus, turn_of

R = TypeVar("R", bound=Record)
_GONE_WITH_THE_RUN = (
    RunInput,
    Checkpoint,
    Attempt,
    StepReport,
    LogChunk,
    HumanTask,
    RunWait,
    Signal,
    Vote,
    Decision,
)


def started(run_id: str, row: RunInput | None) -> RunInput:
    """What a run began with, where its row is there. Raises `CorruptState`."""
    if row is None:
        raise CorruptState(f"Run {run_id} has lost its input. Restore it from a backup or delete it.")
    return row


@dataclass(slots=True)
class RunDocument:
    """One run's rows, by table and key. It is a `RunView`, and `apply` writes a batch to it.

    `running` finds the running runs of a concurrency key where the store knows of other runs; `seals` says that the
    store encrypts values.
    """

    run_id: str
    head: RunHead | None = None
    rows: dict[type[Record], dict[tuple[Any, ...], Any]] = field(default_factory=dict)
    running: Callable[[str], Iterable[RunHead]] | None = field(default=None, repr=False, compare=False)
    seals: bool = field(default=False, repr=False, compare=False)

    @classmethod
    def of(cls, run_id: str, records: Iterable[Record]) -> RunDocument:
        """The document of these records."""
        document = cls(run_id)
        for record in records:
            document.put(record)
        return document

    def put(self, record: Record) -> None:
        """Add a row, or replace the one of the same key."""
        if isinstance(record, RunHead):
            self.head = record
        else:
            self._table(type(record))[record.key_values()] = record

    def put_all(self, kind: type[R], rows: Sequence[R]) -> None:
        """Add many rows of one kind, other than the head."""
        if rows:
            keys = map(kind.key_of, rows) if len(kind.key) > 1 else [row.key_values() for row in rows]
            self._table(kind).update(zip(keys, rows, strict=True))

    def _table(self, record: type[Record]) -> dict[tuple[Any, ...], Any]:
        table = self.rows.get(record)
        if table is None:
            table = self.rows[record] = {}
        return table

    # What transitions read

    @property
    def tombstone(self) -> Tombstone | None:
        return self._table(Tombstone).get((self.run_id,))

    @property
    def start(self) -> RunInput:
        """The run's input, initial context and shape."""
        return started(self.run_id, self._table(RunInput).get((self.run_id,)))

    def checkpoint(self, path: str) -> Checkpoint | None:
        return self._table(Checkpoint).get((self.run_id, path))

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints in the order they were saved."""
        return sorted(self._table(Checkpoint).values(), key=lambda row: row.seq)

    def under(self, path: str) -> list[Checkpoint]:
        """The checkpoints inside the construct at `path`."""
        inside = tuple(path + mark for mark in "/[#")
        return [row for row in self._table(Checkpoint).values() if row.path.startswith(inside)]

    def attempts(self) -> list[Attempt]:
        return list(self._table(Attempt).values())

    def attempt(self, path: str, number: int) -> Attempt | None:
        return self._table(Attempt).get((self.run_id, path, number))

    def attempts_of(self, path: str) -> list[Attempt]:
        return sorted((a for a in self.attempts() if a.path == path), key=lambda a: a.number)

    def open_attempts(self) -> list[Attempt]:
        return [a for a in self.attempts() if a.outcome is None and self.checkpoint(a.path) is None]

    def step_report(self, path: str, attempt: int) -> StepReport | None:
        return self._table(StepReport).get((self.run_id, path, attempt))

    def reports(self) -> list[StepReport | LogChunk]:
        """What attempts said of themselves, and the lines they logged."""
        return [*self._table(StepReport).values(), *self._table(LogChunk).values()]

    def forget(self, kinds: Iterable[type[Record]]) -> None:
        """Drop rows that are kept in the store alone."""
        for kind in kinds:
            self.rows.pop(kind, None)

    def human_task(self, path: str) -> HumanTask | None:
        tasks = [task for task in self._table(HumanTask).values() if task.path == path]
        return max(tasks, key=lambda task: task.generation, default=None)

    def open_human_tasks(self) -> list[HumanTask]:
        return [task for task in self._table(HumanTask).values() if task.status is TaskStatus.OPEN]

    def human_tasks(self) -> list[HumanTask]:
        return list(self._table(HumanTask).values())

    def decision(self, path: str, generation: int) -> Decision | None:
        return self._table(Decision).get((self.run_id, path, generation))

    def holders_of(self, concurrency_key: str) -> list[RunHead]:
        """The other runs of this key that are running. Raises `BackendCannot` where the store knows of no other run."""
        if self.running is None:
            raise BackendCannot(
                "This backend cannot count runs, as max_concurrency asks. Use one of the built-in ones."
            )
        return [head for head in self.running(concurrency_key) if head.run_id != self.run_id]

    def votes(self, path: str, generation: int) -> list[Vote]:
        votes = [vote for vote in self._table(Vote).values() if (vote.path, vote.generation) == (path, generation)]
        return sorted(votes, key=lambda vote: (vote.voted_at, vote.actor))

    def turned_away(self, path: str) -> bool:
        """Whether a person said no at this path, or a deadline passed that leads another way."""
        asked = self.human_task(path)
        decision = self.decision(path, asked.generation) if asked else None
        outcome = decision.outcome if decision else None
        return asked is not None and turn_of(asked.status, asked.at_deadline, outcome) is not None

    def waits(self) -> list[RunWait]:
        return list(self._table(RunWait).values())

    def wait(self, path: str) -> RunWait | None:
        """The newest wait at a path."""
        return max((w for w in self.waits() if w.path == path), key=lambda w: w.generation, default=None)

    def open_waits(self) -> list[RunWait]:
        return [wait for wait in self.waits() if wait.status is WaitStatus.OPEN]

    def retry_wait(self, path: str) -> RunWait | None:
        """The open wait for the next attempt of a step."""
        return next((wait for wait in self.open_waits() if wait.kind is Wait.RETRY and wait.path == path), None)

    def signal(self, message_id: str) -> Signal | None:
        return self._table(Signal).get((self.run_id, message_id))

    def waiting_signals(self) -> list[Signal]:
        waiting = [signal for signal in self._table(Signal).values() if not signal.taken_by]
        return sorted(waiting, key=lambda signal: signal.seq)

    def events(self) -> list[AuditEvent]:
        """The audit events in the order of their chain."""
        return sorted(self._table(AuditEvent).values(), key=lambda event: event.seq)

    def context(self) -> Fields:
        """The context's fields after the last top-level checkpoint; constructs add theirs when they join."""
        fields: Fields = json.loads(self.start.context)
        for checkpoint in self.checkpoints():
            if checkpoint.context_changes and (is_top(checkpoint.path) or checkpoint.path.startswith(MIGRATION)):
                fields = fold(fields, json.loads(checkpoint.context_changes))
        return fields

    # What backends write

    def apply(self, batch: Batch) -> None:
        """Write a batch, all or nothing. Raises `Fenced` when a row exists that the batch inserts."""
        for row in batch.inserts:
            if row.key_values() in self._table(type(row)):
                raise Fenced(f"{type(row).__name__} {row.key_values()} is written already. Nothing was written.")
        self.follow(batch)

    def follow(self, batch: Batch) -> None:
        """Take in a batch that the store has written."""
        if batch.head is None:
            for gone in _GONE_WITH_THE_RUN:
                self.rows.pop(gone, None)
        self.head = batch.head
        for rows in (batch.inserts, batch.updates):
            for row in rows:
                self._table(type(row))[row.key_values()] = row

    def keep(self, row: Record) -> None:
        """Take in a row unless it is there."""
        self._table(type(row)).setdefault(row.key_values(), row)

    def followed_by(self, batch: Batch) -> RunDocument | None:
        """The run after a batch decided on this very document; None when another write may have come between."""
        if not self._is_of(batch.before):
            return None
        self.follow(batch)
        return self

    def decides(self, transition: Transition) -> Transition:
        """The transition as it reads these rows, and the store's only where the run is no longer as it is here."""

        def decide(view: RunView) -> Batch:
            if not self._is_of(view.head):
                return transition(view)
            return transition(RunDocument(self.run_id, view.head, self.rows, view.holders_of, view.seals))

        return decide

    def _is_of(self, head: RunHead | None) -> bool:
        """Whether a run with this head has these very rows.

        Every write moves the head, except that of a worker that begins an attempt or reports of one: hence False where
        one is at work.
        """
        return head is not None and head.status is not RunStatus.RUNNING and head == self.head

    def copy(self) -> RunDocument:
        """A document that can be written without changing this one; the rows themselves never change."""
        rows = {kind: dict(table) for kind, table in self.rows.items()}
        return RunDocument(self.run_id, self.head, rows, seals=self.seals)

    # The whole as JSON

    def records(self) -> list[Record]:
        """Every row, the head first."""
        head: list[Record] = [self.head] if self.head is not None else []
        return head + [row for table in self.rows.values() for row in table.values()]

    def to_plain(self) -> dict[str, list[dict[str, Any]]]:
        """The rows as JSON, by table."""
        plain: dict[str, list[dict[str, Any]]] = {}
        for record in self.records():
            plain.setdefault(record.table, []).append(codec.to_plain(record))
        return plain

    @classmethod
    def from_plain(cls, run_id: str, plain: dict[str, list[dict[str, Any]]]) -> RunDocument:
        """The document of such a dictionary. Raises `CorruptState`."""
        try:
            return cls.of(
                run_id, [codec.from_plain(codec.BY_TABLE[table], row) for table, rows in plain.items() for row in rows]
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptState(f"The stored state of run {run_id} cannot be read: {error}") from error

    def digest(self) -> str:
        """Identifies the document's content, in whatever order a store keeps its rows."""
        rows = {table: sorted(rows, key=canonical.dump) for table, rows in self.to_plain().items()}
        return canonical.digest(canonical.dump(rows))
