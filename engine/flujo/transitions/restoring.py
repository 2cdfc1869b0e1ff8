"""Taking up a run in a store that was put back to a backup: what was given out since the backup is refused."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from flujo.batch import Batch, Draft, RunView, Transition, required, unchanged
from flujo.codec import isoformat
from flujo.status import EventKind, RunStatus
from flujo.transitions.rules import close_task, lose_attempts, milliseconds


def restored(*, actor: str, reason: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Raise the token and the generation of a run that can still go on, end its lease, and ask its questions anew.

    Whoever worked on it before the restoring is fenced, and a form from before it is stale. Votes count from nothing.
    It may be done again, and on a run of a store that was not put back: a step that is running then runs again. The
    result is False, and nothing is written, for a run that is completed or cancelled.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        if not head.active and head.status is not RunStatus.FAILED:
            return unchanged(view, result=False)
        draft = Draft(view, now, actor=actor)
        time = milliseconds(now)  # more than were given out since, and another number each time
        draft.set(fence=head.fence + time, generation=head.generation + time)
        draft.event(EventKind.RUN_RESTORED, reason=reason, **facts)
        if head.status is RunStatus.RUNNING:
            lose_attempts(draft)
            draft.set(status=RunStatus.QUEUED, holder=None, lease_expires_at=None)
        _ask_again(draft)
        return draft.batch(result=True)

    return transition


def _ask_again(draft: Draft) -> None:
    for task in draft.view.open_human_tasks():
        close_task(draft, task, "the store was restored from a backup, and the run asks again")
        asked = dataclasses.replace(task, generation=draft.has("generation") + 1)
        draft.insert(asked)
        draft.set(generation=asked.generation)
        due = {"due_at": isoformat(asked.due_at)} if asked.due_at else {}
        draft.event(EventKind.HUMAN_TASK_RAISED, asked.path, generation=asked.generation, digest=asked.digest, **due)
