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
from flujo.paths import bare, is_top
from flujo.records import RunHead, RunWait, Signal
from flujo.redaction import Secrets
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait, WaitStatus
from flujo.transitions.kin import GONE, message_of
from flujo.transitions.parking import is_parked

_ID_LETTERS = 32


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: the canonical JSON of its last step's output, and what of that its parent hides.

    A parent that is told hides it at once: `secrets` is not in the JSON.
    """

    status: RunStatus
    output: str
    error: str
    secrets: str = ""

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


async def ancestry(backend: StateBackend, head: RunHead) -> list[RunHead]:
    """A run behind those above it, the first of all first, as far as they are stored."""
    line = [head]
    while line[0].parent_run_id:
        parent = await backend.head(line[0].parent_run_id)
        if parent is None:
            break
        line.insert(0, parent)
    return line


def ending_of(document: RunDocument) -> Ending | None:
    """How a run ended; None while it is active."""
    head = document.head
    if head is None or head.active:
        return None
    last = [row for row in document.checkpoints() if is_top(row.path)]
    output = last[-1].output if head.status is RunStatus.COMPLETED and last else "null"
    error = f"{head.error_type}: {head.error_message}" if head.error_type else head.outcome or ""
    marked = Secrets.of_text(head.secrets)
    whole = bool(last) and marked.hides(last[-1].path)
    secrets = Secrets(marked.keys, frozenset({bare(head.parent_path)} if whole else ()))
    return Ending(head.status, output, error, secrets.to_text())


DELETED = Ending(RunStatus.CANCELLED, "null", "it was deleted")
"""How a child ended that is not there any more, and has told its parent nothing."""


def tells(signal: Signal) -> bool:
    """Whether this is what a child has told of its end."""
    return signal.message_id.startswith(message_of(signal.name))  # no message of others begins so


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


async def miss(backend: StateBackend, document: RunDocument, now: datetime) -> None:
    """Tell a run that waits for children which of them are not there: nobody else will, and it would wait for ever."""
    if document.head is None or document.head.status is not RunStatus.PAUSED or is_parked(document.head):
        return  # it may not have come to starting them
    for wait in awaited(document):
        if await backend.head(wait.name) is None:
            gone = transitions.child_ended(wait.name, DELETED.to_json(), turn=GONE, secrets="", now=now)
            await backend.transact(document.run_id, gone)


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
        text = ending.to_json()
        tells = transitions.child_ended(head.run_id, text, turn=head.round, secrets=ending.secrets, now=now)
        yield head.parent_run_id, tells
    again = {wait.name for wait in awaited(document)}
    for wait in document.waits():
        if wait.kind is Wait.CHILD and wait.status is WaitStatus.CLOSED and wait.name not in again:
            yield wait.name, transitions.disown(now=now)
    yield head.run_id, transitions.told(head.seq, now=now)
