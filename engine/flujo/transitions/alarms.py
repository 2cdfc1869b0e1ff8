"""What falls due at a human task, recorded as facts: the deadline and its default, the escalation, reminders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from flujo import canonical
from flujo.batch import Batch, Draft, RunView, Transition, required, unchanged
from flujo.codec import isoformat
from flujo.deadlines import escalates_at, is_late, next_alarm, reminders_of
from flujo.errors import DeadlinePassed, HumanTaskExpired
from flujo.records import HumanTask
from flujo.status import AtDeadline, EventKind, Outcome, RunStatus, TaskStatus, Wait
from flujo.transitions.gates import pass_gate, turned, wake
from flujo.transitions.rules import end, fail, next_wake, open_now

_APPLIED = {
    AtDeadline.FAIL: "the step failed",
    AtDeadline.REJECT: "the default “reject” was applied",
    AtDeadline.APPROVE: "the default answer was applied",
    AtDeadline.STEPS: "the steps for this case were taken",
}


def ring(*, now: datetime) -> Transition:
    """Record every deadline, escalation and reminder of a run that is due, each once, however late it is recorded.

    No lease is needed: a paused run stays paused unless a deadline lets it go on or ends it, and the worker of a
    running one finds what happened before it pauses. Nothing due writes nothing.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        due = due_alarms(view.open_human_tasks(), now) if head.active and head.generation else []
        if not due:
            return unchanged(view)
        draft = Draft(view, now)
        sound(draft, due)
        return draft.batch()

    return transition


def due_alarms(tasks: Iterable[HumanTask], now: datetime) -> list[HumanTask]:
    """Those of the open human tasks at which something is due."""
    return [task for task in tasks if (alarm := next_alarm(task)) is not None and alarm <= now]


def sound(draft: Draft, tasks: Sequence[HumanTask]) -> list[HumanTask]:
    """Record what is due at these tasks: a deadline alone, else the escalation, and one reminder for all due ones."""
    after = [
        _expire(draft, task) if is_late(task, draft.now) else _nudge(draft, task)
        for task in tasks
        if draft.head.active  # a deadline that ended the run closed the others
    ]
    if draft.head.status is RunStatus.PAUSED and draft.head.wait is not Wait.OPERATOR:
        draft.set(wake_at=next_wake(open_now(draft), draft.view.open_waits()))
    return after


def _nudge(draft: Draft, task: HumanTask) -> HumanTask:
    after, escalation, pending = task, escalates_at(task), reminders_of(task)
    if escalation is not None and escalation <= draft.now:
        known, added = json.loads(task.candidates), json.loads(task.escalate_to)
        everyone = canonical.dump(list(dict.fromkeys([*known, *added])))
        after = dataclasses.replace(after, escalated_at=draft.now, candidates=everyone)
        draft.event(EventKind.HUMAN_TASK_ESCALATED, task.path, generation=task.generation, to=added)
    later = [moment for moment in pending if moment > draft.now]
    if later != pending:
        moments = canonical.dump([isoformat(moment) for moment in later]) if later else ""
        after = dataclasses.replace(after, reminders=moments, reminded_at=draft.now)
        due = len(pending) - len(later)
        draft.event(EventKind.HUMAN_TASK_REMINDED, task.path, generation=task.generation, due=due)
    draft.update(after)
    return after


def _expire(draft: Draft, task: HumanTask) -> HumanTask:
    """Close the request, and let the run take the declared way."""
    assert task.at_deadline is not None  # `is_late` says so
    applied, at = _APPLIED[task.at_deadline], f"{draft.now:%d %B %Y} at {draft.now:%H:%M} UTC".lstrip("0")
    reason = f"{applied} on {at}"
    after = dataclasses.replace(task, status=TaskStatus.EXPIRED, closed_at=draft.now, closed_reason=reason)
    draft.update(after)
    draft.event(
        EventKind.HUMAN_TASK_EXPIRED,
        task.path,
        generation=task.generation,
        due_at=isoformat(task.due_at) if task.due_at else None,
        applied=task.at_deadline.value,
        data_digest=canonical.digest(task.default_answer) if task.default_answer else None,
    )
    if task.at_deadline is AtDeadline.APPROVE:
        pass_gate(draft, task, task.default_answer)
    elif task.at_deadline is AtDeadline.FAIL and not task.contained:
        _fail(draft, task)
    elif task.at_deadline is AtDeadline.REJECT and not task.routes_rejection:
        draft.set(outcome=Outcome.EXPIRED)
        end(draft, RunStatus.CANCELLED, EventKind.RUN_EXPIRED, path=task.path)
    elif task.at_deadline is not AtDeadline.FAIL:
        turned(draft, task, Outcome.EXPIRED)
    if draft.head.active:
        wake(draft, None)
    return after


def _fail(draft: Draft, task: HumanTask) -> None:
    error = missed(task)
    fail(draft, task.path, type(error).__name__, error.message, Outcome.EXPIRED)


def missed(task: HumanTask) -> DeadlinePassed:
    """The failure of a step whose question nobody answered in time."""
    return DeadlinePassed(f"Nobody answered {task.name!r} by {task.due_at:%Y-%m-%d %H:%M} UTC.")


def expired(closed_reason: str, closed_at: datetime | None) -> HumanTaskExpired:
    """The refusal of an answer to a request that was closed by its deadline."""
    return HumanTaskExpired(f"The time to answer has run out: {closed_reason}.", closed_at=closed_at)
