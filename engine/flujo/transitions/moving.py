"""Carrying a run to another store: it is held here, copied, deleted here, and let go there, in this order."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from flujo.batch import Batch, Draft, RunView, Transition, required, unchanged
from flujo.errors import Fenced, IllegalTransition, RunIsLeased
from flujo.lease import is_held
from flujo.records import MOVED_TO, AuditEvent, RunHead, Tombstone
from flujo.status import EventKind, Outcome, RunStatus, Wait
from flujo.transitions.gates import turned_at
from flujo.transitions.parking import MOVING
from flujo.transitions.rules import following, lose_attempts

_KEPT = ("status", "wait", "outcome", "wake_at", "error_type", "error_message")


def is_moving(head: RunHead) -> bool:
    """Whether the run is held because it is on its way to another store, or has just come from one."""
    return head.wait is Wait.OPERATOR and head.error_type == MOVING


def leave(to: str, *, actor: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Hold a run that is going to the store `to`; what it was is in the event. Asking twice changes nothing.

    Raises `RunIsLeased` while a worker holds it, `IllegalTransition` while it waits for a child or is waited for.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        holder = is_held(head, now)
        if holder is not None:
            raise RunIsLeased(f"Run {head.run_id} is running in {holder}. Move it when it waits.", holder=str(holder))
        if is_moving(head):
            return unchanged(view)
        _check_alone(view, head)
        draft = Draft(view, now, actor=actor)
        if head.status is RunStatus.RUNNING:
            lose_attempts(draft)
            draft.set(status=RunStatus.QUEUED, holder=None, lease_expires_at=None)
        kept = _KEPT if head.active else ("status",)  # an ended run stays as it is; its error may quote values
        was = {name: _plain(draft.has(name)) for name in kept}
        if head.active:
            draft.set(
                status=RunStatus.PAUSED,
                wait=Wait.OPERATOR,
                outcome=Outcome.NEEDS_ATTENTION,
                wake_at=None,
                error_type=MOVING,
                error_message=f"It is being moved to {to}. Repeat the move to finish it.",
            )
        draft.event(EventKind.RUN_MOVED, to=to, was=was, **facts)
        return draft.batch()

    return transition


def _check_alone(view: RunView, head: RunHead) -> None:
    """A parent and its child must stay in one store: each hears of the other's end there."""
    if any(wait.kind is Wait.CHILD for wait in view.open_waits()):
        raise IllegalTransition(f"Run {head.run_id} waits for a child run. Move it when that has ended.")
    if head.untold or (head.parent_run_id and head.active):
        raise IllegalTransition(
            f"Run {head.run_id} is the child of a run that waits for it. Move it when it has ended."
        )


def depart(to: str, seq: int, *, actor: str, now: datetime) -> Transition:
    """Delete a run that is safe in another store; the tombstone says where. Raises `Fenced` when it changed since."""

    def transition(view: RunView) -> Batch:
        head = required(view)
        if head.seq != seq or (head.active and not is_moving(head)):
            raise Fenced(f"Run {head.run_id} changed while it was moved. Nothing was deleted: repeat the move.")
        tombstone = Tombstone.of(head, now=now, actor=actor, reason=f"{MOVED_TO}{to}")
        batch = Batch(view.run_id, head, None, moves=True)
        (batch.inserts if view.tombstone is None else batch.updates).append(tombstone)
        return batch

    return transition


def arrive(moved: AuditEvent, seq: int, source: str, *, actor: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Let a run go on in the store that it came to, as it was before the event `moved`.

    One that was answered while it was held is queued. Its token and its generation grow, so that whoever knew the run
    in its old store stays refused. Raises `Fenced` when its history no longer ends with `seq`.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        if head.seq != seq:
            raise Fenced(f"Run {head.run_id} changed while it arrived. Repeat the move to finish it.")
        draft = Draft(view, now, actor=actor)
        draft.set(fence=following(head.fence, now), generation=following(head.generation, now))
        if is_moving(head):
            was = _restored(json.loads(moved.body)["data"]["was"])
            draft.set(status=RunStatus.QUEUED)
            if seq != moved.seq and was["wait"] is not Wait.OPERATOR:
                outcome = turned_at(view, head.step_name) or was["outcome"]
                was |= {"status": RunStatus.QUEUED, "wait": None, "wake_at": None, "outcome": outcome}
            draft.set(**was)
        draft.event(EventKind.RUN_IMPORTED, source=source, **facts)
        return draft.batch()

    return transition


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _restored(was: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": RunStatus(was["status"]),
        "wait": None if was["wait"] is None else Wait(was["wait"]),
        "outcome": None if was["outcome"] is None else Outcome(was["outcome"]),
        "wake_at": None if was["wake_at"] is None else datetime.fromisoformat(was["wake_at"]),
        "error_type": was["error_type"],
        "error_message": was["error_message"],
    }
