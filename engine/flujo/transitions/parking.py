"""Holding a run for an operator because nothing here may go on with it, and letting it go on again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flujo.batch import Batch, Draft, RunView, Transition, required, unchanged
from flujo.errors import IllegalTransition
from flujo.lease import is_held
from flujo.records import RunHead
from flujo.status import EventKind, Outcome, RunStatus, Wait
from flujo.transitions.gates import turned_at
from flujo.transitions.rules import end, lose_attempts

MOVING = "RunMoving"


def is_parked(head: RunHead) -> bool:
    """Whether an operator must look at the run before anything goes on with it."""
    return head.status is RunStatus.PAUSED and head.wait is Wait.OPERATOR


def park(judged: RunHead, why: str, *, registered: str, now: datetime, error_type: str) -> Transition:
    """Hold an unfinished run for an operator, who reads `why`; `registered` is the fingerprint that is there instead.

    The result is False, and nothing is written, when the run is no longer as it was `judged`: it has ended, a worker
    holds it, it is parked already, or it was migrated. Questions, waits and signals stay as they are.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        same_code = (head.version, head.fingerprint) == (judged.version, judged.fingerprint)
        if not (head.active and same_code) or is_parked(head) or is_held(head, now) is not None:
            return unchanged(view, result=False)
        draft = Draft(view, now)
        lose_attempts(draft)
        if head.cancel_requested:
            end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
            return draft.batch(result=False)
        draft.set(
            status=RunStatus.PAUSED,
            wait=Wait.OPERATOR,
            outcome=Outcome.NEEDS_ATTENTION,
            holder=None,
            lease_expires_at=None,
            wake_at=None,
            error_type=error_type,
            error_message=why,
        )
        draft.event(
            EventKind.RUN_PARKED,
            reason=why,
            pipeline=head.pipeline,
            version=head.version,
            fingerprint=head.fingerprint,
            registered_fingerprint=registered,
        )
        return draft.batch(result=True)

    return transition


def unpark(*, actor: str, reason: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Let a parked run go on: it is queued, and whoever takes it waits again for what is still open.

    Raises `IllegalTransition` when the run is not parked, or is a copy on its way from another store.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        if not is_parked(head):
            raise IllegalTransition(f"Run {head.run_id} is {head.status.value}: only a parked run can be un-parked.")
        if head.error_type == MOVING:
            raise IllegalTransition(f"Run {head.run_id} is being moved here. Repeat the move to finish it.")
        draft = Draft(view, now, actor=actor)
        outcome = turned_at(view, head.step_name)
        draft.set(status=RunStatus.QUEUED, wait=None, outcome=outcome, error_type="", error_message="")
        draft.event(EventKind.RUN_UNPARKED, reason=reason, **facts)
        return draft.batch()

    return transition
