"""The instants at which an open request is repeated, escalated or too late to answer."""

from __future__ import annotations

import json
from datetime import datetime

from flujo.records import HumanTask
from flujo.status import AtDeadline, TaskStatus


def is_late(task: HumanTask, now: datetime) -> bool:
    """Whether an open request's deadline has passed, so that an answer would come too late."""
    return task.status is TaskStatus.OPEN and _ends(task) and task.due_at is not None and task.due_at <= now


def escalates_at(task: HumanTask) -> datetime | None:
    """When the request is escalated; None when it is not, or was already."""
    return task.escalate_at if task.escalated_at is None else None


def reminders_of(task: HumanTask) -> list[datetime]:
    """The reminders that are still to come, the next one first."""
    return [datetime.fromisoformat(moment) for moment in json.loads(task.reminders)] if task.reminders else []


def next_alarm(task: HumanTask) -> datetime | None:
    """When an open request's deadline, escalation or next reminder is due, whichever comes first."""
    moments = [task.due_at if _ends(task) else None, escalates_at(task), *reminders_of(task)[:1]]
    return min((moment for moment in moments if moment is not None), default=None)


def _ends(task: HumanTask) -> bool:
    return task.at_deadline not in (None, AtDeadline.WAIT)
