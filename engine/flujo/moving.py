"""The move of a run from one store to another, which may be repeated from wherever it was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flujo import transitions
from flujo.document import RunDocument
from flujo.errors import CorruptState, RunDeleted, RunNotFound, StaleState
from flujo.records import AuditEvent, RunHead
from flujo.state.base import StateBackend
from flujo.state.whole_state import compare_and_import
from flujo.state.workflow_state import state_of
from flujo.status import EventKind
from flujo.verify import verify_chain


@dataclass(frozen=True, slots=True)
class Place:
    """A store and its name, as the run's history and its tombstone tell it."""

    store: StateBackend
    name: str


async def move(
    run_id: str, source: Place, target: Place, *, actor: str, now: datetime, facts: dict[str, Any]
) -> RunHead:
    """Carry a run over, a paused one too; the head it has in its new store.

    First it is held here, then copied, and what arrived is compared; only then it is deleted here, leaving a tombstone
    that names the new store, and goes on there. Interrupted anywhere, it is in one store or held in both, and the same
    call finishes it. Raises `RunIsLeased`, and `StaleState` when the target has another history of this id.
    """
    stored = await source.store.whole(run_id)
    if stored is None:
        raise RunNotFound(f"No run has the id {run_id!r} in {source.name}.")
    if stored.head is None:
        await _check_moved(stored, target)
    else:
        await _check_welcome(stored, target, now)
        await source.store.transact(run_id, transitions.leave(target.name, actor=actor, now=now, facts=facts))
        held = await source.store.whole(run_id)
        if held is None or held.head is None:
            raise RunNotFound(f"Run {run_id} went away while it was moved.")
        await _copy(held, target)
        gone = transitions.depart(target.name, held.head.seq, actor=actor, now=now)
        await source.store.transact(run_id, gone)
    return await _let_go(run_id, source, target, actor=actor, now=now, facts=facts)


async def _check_moved(stored: RunDocument, target: Place) -> None:
    there = await target.store.load(stored.run_id)
    left = stored.tombstone
    if left is None or there is None or there.head is None or left.moved_to != target.name:
        why = f": {left.reason}" if left is not None and left.reason else ""
        raise RunDeleted(f"Run {stored.run_id} was deleted{why}.")


async def _check_welcome(stored: RunDocument, target: Place, now: datetime) -> None:
    """Refuse before anything is held what the target would refuse after."""
    there = await target.store.whole(stored.run_id)
    if there is not None and not _begins_with(there.events(), stored.events()):
        compare_and_import(stored, there, now)


def _begins_with(events: list[AuditEvent], first: list[AuditEvent]) -> bool:
    return events[: len(first)] == first


async def _copy(held: RunDocument, target: Place) -> None:
    """Store the held run there, unless an earlier call did, and see that it arrived."""
    there = await target.store.whole(held.run_id)
    if there is None or there.head is None or not _begins_with(there.events(), held.events()):
        await target.store.save_state(held.run_id, state_of(held))
        there = await target.store.whole(held.run_id)
    if there is None or not _begins_with(there.events(), held.events()):
        raise StaleState(f"Run {held.run_id} did not arrive in {target.name}. It is still held in its old store.")
    verify_chain(there.events(), there.head)
    missing = {row for row in held.records() if not isinstance(row, RunHead)} - set(there.records())
    if missing and there.head is not None and held.head is not None and there.head.seq == held.head.seq:
        raise CorruptState(f"{len(missing)} rows of run {held.run_id} did not arrive in {target.name}.")


async def _let_go(
    run_id: str, source: Place, target: Place, *, actor: str, now: datetime, facts: dict[str, Any]
) -> RunHead:
    events = list(await target.store.events(run_id))
    moved = [event for event in events if event.kind is EventKind.RUN_MOVED]
    if not moved:
        raise CorruptState(f"Run {run_id} is in {target.name}, but did not come from {source.name}.")
    if any(event.kind is EventKind.RUN_IMPORTED for event in events[moved[-1].seq :]):
        document = await target.store.load(run_id)
        if document is None or document.head is None:
            raise RunDeleted(f"Run {run_id} arrived in {target.name}, and was deleted there.")
        return document.head
    arriving = transitions.arrive(moved[-1], events[-1].seq, source.name, actor=actor, now=now, facts=facts)
    return (await target.store.transact(run_id, arriving)).kept
