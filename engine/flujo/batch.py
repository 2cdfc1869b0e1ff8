"""What one transition writes: decided by pure functions, applied by a backend in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from flujo import canonical
from flujo.codec import isoformat
from flujo.description import checked
from flujo.errors import RunDeleted, RunNotFound
from flujo.records import (
    Attempt,
    AuditEvent,
    Checkpoint,
    Decision,
    HumanTask,
    Record,
    RunHead,
    RunInput,
    RunWait,
    Signal,
    StepReport,
    Tombstone,
    Vote,
)
from flujo.status import EventKind, check_move

GENESIS = "0" * 64


class RunView(Protocol):
    """What a transition may read: one run, as it stands inside the backend's transaction."""

    run_id: str

    @property
    def seals(self) -> bool:
        """Whether the store encrypts values, so that none may stand in an event."""

    @property
    def head(self) -> RunHead | None: ...
    @property
    def tombstone(self) -> Tombstone | None: ...
    @property
    def start(self) -> RunInput:
        """What an existing run began with. Raises `CorruptState` when that is lost."""

    def checkpoint(self, path: str) -> Checkpoint | None: ...
    def attempts_of(self, path: str) -> list[Attempt]:
        """All attempts of a step, oldest first."""

    def open_attempts(self) -> list[Attempt]:
        """Attempts that neither ended nor made their checkpoint."""

    def step_report(self, path: str, attempt: int) -> StepReport | None: ...
    def human_task(self, path: str) -> HumanTask | None:
        """The newest generation of a human task."""

    def open_human_tasks(self) -> list[HumanTask]: ...
    def decision(self, path: str, generation: int) -> Decision | None: ...
    def votes(self, path: str, generation: int) -> list[Vote]:
        """What people have answered so far to a human task with a quorum, oldest first."""

    def open_waits(self) -> list[RunWait]:
        """The waits for timers and signals that are not over."""

    def holders_of(self, concurrency_key: str) -> list[RunHead]:
        """The other runs of this key that are running; until this write is over no other one may ask for the same key.

        Raises `BackendCannot` where the store cannot tell.
        """

    def signal(self, message_id: str) -> Signal | None: ...
    def waiting_signals(self) -> list[Signal]:
        """The signals that no step has taken, oldest first."""


@dataclass(slots=True)
class Batch:
    """The rows of one transition. `before` is the head it was decided on: the backend writes only if it still stands.

    `head` is the head after it; None deletes the run's rows and leaves `inserts` (events and the tombstone).
    `moves` says that an active run may be deleted, since it is safe in another store. A batch without rows and with an
    unchanged head writes nothing.
    """

    run_id: str
    before: RunHead | None
    head: RunHead | None
    inserts: list[Record] = field(default_factory=list)
    updates: list[Record] = field(default_factory=list)
    result: Any = None
    moves: bool = False

    @property
    def writes(self) -> bool:
        return bool(self.inserts or self.updates) or self.head != self.before

    @property
    def kept(self) -> RunHead:
        """The head after a transition that does not delete the run."""
        assert self.head is not None  # only `purge` and its callers see None
        return self.head


Transition = Callable[[RunView], Batch]


class Draft:
    """A batch in the making."""

    def __init__(self, view: RunView, now: datetime, *, actor: str = "", head: RunHead | None = None) -> None:
        self.view = view
        self.now = now
        self.actor: str = checked(actor=actor)["actor"] if actor else ""
        self.before = view.head
        self._head = head or required(view)
        self._changes: dict[str, Any] = {}
        self.inserts: list[Record] = []
        self.updates: list[Record] = []

    @property
    def head(self) -> RunHead:
        """The head as it will be. Its changes are gathered, since making one is dear: it has thirty fields."""
        if self._changes:
            self._head = self._head.changed(self._changes)
            self._changes = {}
        return self._head

    def has(self, name: str) -> Any:
        """One field of the head as it will be, without making it."""
        return self._changes[name] if name in self._changes else getattr(self._head, name)

    def set(self, **fields: Any) -> None:
        """Change the head; a change of status must be a legal move."""
        status = fields.get("status")
        if status is not None and status is not self.has("status"):
            check_move(self.has("status"), status)
        self._changes.update(fields)

    def insert(self, record: Record) -> None:
        self.inserts.append(record)

    def update(self, record: Record) -> None:
        self.updates.append(record)

    def event(self, kind: EventKind, path: str = "", **data: Any) -> None:
        """Append an audit event to the run's chain."""
        link = Link(self._head.run_id, self.has("seq"), self.has("chain"), self.has("fence"))
        event = next_event(link, kind, self.now, actor=self.actor, path=path, data=data)
        self.inserts.append(event)
        self._changes.update(seq=event.seq, chain=event.hash, updated_at=self.now)

    def batch(self, result: Any = None) -> Batch:
        return Batch(self.view.run_id, self.before, self.head, self.inserts, self.updates, result)


def unchanged(view: RunView, result: Any = None) -> Batch:
    """The batch that writes nothing."""
    return Batch(view.run_id, view.head, view.head, result=result)


def required(view: RunView) -> RunHead:
    """The run's head. Raises `RunDeleted` or `RunNotFound`."""
    if view.head is not None:
        return view.head
    if view.tombstone is not None:
        raise RunDeleted(
            f"Run {view.run_id} was deleted by {view.tombstone.actor or 'someone'}; only its audit trail is left.",
            deleted_at=view.tombstone.deleted_at,
            reason=view.tombstone.reason,
        )
    raise RunNotFound(f"No run has the id {view.run_id!r}.")


class Link(NamedTuple):
    """The end of a run's chain, where the next event is added."""

    run_id: str
    seq: int
    chain: str
    fence: int


def next_event(head: Link, kind: EventKind, at: datetime, *, actor: str, path: str, data: dict[str, Any]) -> AuditEvent:
    """The event that follows a chain's end. Its body is the canonical JSON of its fields, put together by hand."""
    seq = head.seq + 1
    body = (
        f'{{"actor":{_quoted(actor)},"at":"{isoformat(at)}","data":{canonical.dump(data, where="audit event")},'
        f'"fence":{head.fence},"kind":"{kind.value}","path":{_quoted(path)},"run_id":{_quoted(head.run_id)},"seq":{seq}}}'
    )
    return AuditEvent(head.run_id, seq, kind, at, actor, path, head.fence, body, head.chain, chained(head.chain, body))


@lru_cache(maxsize=1024)  # the same run, steps and people come again and again
def _quoted(text: str) -> str:
    return canonical.dump(text, where="audit event")


def chained(prev_hash: str, body: str) -> str:
    """The hash of an event: it covers the event's body and, through `prev_hash`, all events before it."""
    return hashlib.sha256(f"{prev_hash}\n{body}".encode()).hexdigest()
