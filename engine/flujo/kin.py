"""Parents and their child runs: which run is whose child, how each hears of the other's end, and who goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flujo import canonical, transitions, watch
from flujo.batch import Transition
from flujo.codec import isoformat
from flujo.document import RunDocument
from flujo.paths import is_top
from flujo.records import RunHead, RunWait, Signal
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait, WaitStatus
from flujo.transitions.kin import message_of

_ID_LETTERS = 32


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended; `output` is the canonical JSON of its last step's output."""

    status: RunStatus
    output: str
    error: str

    def to_json(self) -> str:
        return canonical.dump({"status": self.status.value, "output": json.loads(self.output), "error": self.error})

    @classmethod
    def of(cls, text: str) -> Ending:
        """The ending that a parent has stored."""
        data: dict[str, Any] = json.loads(text)
        return cls(RunStatus(data["status"]), canonical.dump(data["output"]), data["error"])


def child_id(parent: RunHead, path: str, turn: int) -> str:
    """The id of the child that a parent starts at `path` in its round `turn`: a crash starts no second one.

    A run that takes the id of a deleted one has children of its own.
    """
    life = isoformat(parent.created_at)
    return canonical.digest(canonical.dump(["child", parent.run_id, life, path, turn]))[:_ID_LETTERS]


def ending_of(document: RunDocument) -> Ending | None:
    """How a run ended; None while it is active."""
    head = document.head
    if head is None or head.active:
        return None
    last = [row for row in document.checkpoints() if is_top(row.path)]
    output = last[-1].output if head.status is RunStatus.COMPLETED and last else "null"
    error = f"{head.error_type}: {head.error_message}" if head.error_type else head.outcome or ""
    return Ending(head.status, output, error)


def tells(signal: Signal) -> bool:
    """Whether this is what a child has told of its end."""
    return signal.message_id == message_of(signal.name)


def awaited(document: RunDocument) -> list[RunWait]:
    """The children that a run waits for."""
    return [wait for wait in document.open_waits() if wait.kind is Wait.CHILD]


async def is_orphan(backend: StateBackend, head: RunHead) -> bool:
    """Whether nobody waits for this child any more. A worker that lost its parent run may have started it since."""
    if not head.parent_run_id:
        return False
    parent = await backend.load(head.parent_run_id)
    if parent is None or parent.head is None or not parent.head.active:
        return True
    return not any(wait.name == head.run_id for wait in awaited(parent))


async def disowned(backend: StateBackend, document: RunDocument, now: datetime) -> bool:
    """End a child that nobody waits for any more, before it is taken up for the first time."""
    head = document.head
    if head is None or head.started_at is not None or not head.active or not await is_orphan(backend, head):
        return False
    await backend.transact(head.run_id, transitions.disown(now=now))
    await settle(backend, head.run_id, now)
    return True


async def settle(backend: StateBackend, run_id: str, now: datetime) -> list[str]:
    """Tell those whom a run's end, or the end of its waits for children, concerns; the runs that were changed.

    Each write may be made again: what died in between is made up for by whoever settles the run next.
    """
    changed, untold = [], [run_id]
    while untold:
        document = await backend.load(untold.pop())
        if document is None or document.head is None or not document.head.untold:
            continue
        for other, transition in _messages(document, document.head, now):
            batch = await backend.transact(other, transition)
            if batch.writes:
                changed.append(other)
                watch.hint(other)
            if batch.head is not None and batch.head.untold and other != document.run_id:
                untold.append(other)
    return changed


def _messages(document: RunDocument, head: RunHead, now: datetime) -> Iterator[tuple[str, Transition]]:
    ending = ending_of(document)
    if head.parent_run_id and ending is not None:
        yield head.parent_run_id, transitions.child_ended(head.run_id, ending.to_json(), now=now)
    for wait in document.waits():
        if wait.kind is Wait.CHILD and wait.status is WaitStatus.CLOSED:
            yield wait.name, transitions.disown(now=now)
    yield head.run_id, transitions.told(head.seq, now=now)
