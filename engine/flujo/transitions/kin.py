"""What runs write in one another's name: a child's end in its parent, and the end of a wait in its child."""

from __future__ import annotations

from datetime import datetime

from flujo import canonical
from flujo.batch import Batch, Draft, RunView, Transition, unchanged
from flujo.records import Signal
from flujo.status import EventKind, Wait
from flujo.transitions.gates import wake
from flujo.transitions.operator import CHILD_MESSAGE, cancel
from flujo.transitions.rules import add_secrets

NO_LONGER_AWAITED = "its parent run no longer waits for it"


GONE = -1
"""The round of a child that is not there."""


def message_of(child_id: str, turn: int = 0) -> str:
    """The id of the one message that tells a parent how round `turn` of its child ended."""
    return f"{CHILD_MESSAGE}{child_id}" + (f" {turn}" if turn else "")


def child_ended(child_id: str, ending: str, *, turn: int, secrets: str, now: datetime) -> Transition:
    """Store in a parent, once, how round `turn` of its child ended (canonical JSON), and wake it if it waits for that.

    `secrets` is what the parent hides of that: the child may be deleted before its output is taken.
    """

    def decide(view: RunView) -> Batch:
        head = view.head
        if head is None or not head.active or view.signal(message_of(child_id, turn)) is not None:
            return unchanged(view, result=False)
        draft = Draft(view, now)
        draft.event(EventKind.CHILD_ENDED, child=child_id, data_digest=canonical.digest(ending))
        draft.insert(Signal(head.run_id, message_of(child_id, turn), child_id, ending, "", draft.head.seq, now))
        add_secrets(draft, secrets)
        if any(wait.kind is Wait.CHILD and wait.name == child_id for wait in view.open_waits()):
            wake(draft, None)
        return draft.batch(result=True)

    return decide


def disown(*, now: datetime) -> Transition:
    """Cancel a child that its parent no longer waits for, if it has not ended."""

    def decide(view: RunView) -> Batch:
        if view.head is None or not view.head.active:
            return unchanged(view, result=False)
        return cancel(actor="", reason=NO_LONGER_AWAITED, now=now, facts={})(view)

    return decide


def told(seq: int, *, now: datetime) -> Transition:
    """Record that all who are concerned have been told; not if the run has moved on from `seq` meanwhile."""

    def decide(view: RunView) -> Batch:
        if view.head is None or view.head.seq != seq:
            return unchanged(view, result=False)
        draft = Draft(view, now)
        draft.set(untold=False)
        return draft.batch(result=True)

    return decide
