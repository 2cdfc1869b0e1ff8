"""What people should hear about human tasks: noted together with the change, and told until every receiver took it."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

from django.db.models import F
from django.dispatch import Signal
from flujo.batch import Batch
from flujo.records import AuditEvent
from flujo.status import EventKind

from runs.models import HumanTask, Notice

logger = logging.getLogger(__name__)

human_task_noticed = Signal()
"""Sent by the sweeper, at least once for each notice, and again after a while when a receiver raised.

`kind` is one of `TOLD`, `task` the `HumanTask` as it is now, `seq` the number of the event in the run's history.
"""

TOLD = frozenset(
    {
        EventKind.HUMAN_TASK_RAISED,
        EventKind.HUMAN_TASK_REMINDED,
        EventKind.HUMAN_TASK_ESCALATED,
        EventKind.HUMAN_TASK_EXPIRED,
    }
)
AT_ONCE = 100
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)


def told_of(batch: Batch) -> list[AuditEvent]:
    """What a write says that receivers should hear; nothing where nobody listens."""
    if not human_task_noticed.has_listeners(HumanTask):
        return []
    return [row for row in batch.inserts if isinstance(row, AuditEvent) and row.kind in TOLD]


def note(batch: Batch, using: str) -> None:
    """Note what a write says, in its own transaction: what is committed is told, and nothing else is."""
    notices = [
        Notice(
            run_id=event.run_id,
            seq=event.seq,
            kind=event.kind,
            path=event.path,
            generation=json.loads(event.body)["data"]["generation"],
            not_before=event.at,
        )
        for event in told_of(batch)
    ]
    if notices:
        Notice.objects.using(using).bulk_create(notices)


def deliver(now: datetime) -> None:
    """Tell the receivers what is noted, oldest first. A process that dies meanwhile leaves it to be told again."""
    for notice in Notice.objects.filter(not_before__lte=now).order_by("pk")[:AT_ONCE]:
        if _taken(notice, now) and _told(notice):
            notice.delete()


def _taken(notice: Notice, now: datetime) -> bool:
    """Whether this process tells it; until `not_before` has come again no other one does."""
    pause = min(FIRST_PAUSE * 2 ** min(notice.attempts, 10), LONGEST_PAUSE)
    mine = Notice.objects.filter(pk=notice.pk, attempts=notice.attempts)
    return mine.update(attempts=F("attempts") + 1, not_before=now + pause) == 1


def _told(notice: Notice) -> bool:
    found = HumanTask.objects.select_related("run")
    task = found.filter(run=notice.run_id, path=notice.path, generation=notice.generation).first()
    if task is None:
        return True  # its run was deleted
    kind = EventKind(notice.kind)
    answers = human_task_noticed.send_robust(sender=HumanTask, kind=kind, task=task, seq=notice.seq)
    failed = [answer for _, answer in answers if isinstance(answer, Exception)]
    for error in failed:
        logger.warning("A receiver failed on %s of run %s; it is told again: %s", kind, notice.run_id, error)
    return not failed
