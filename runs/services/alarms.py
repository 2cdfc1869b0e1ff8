"""What falls due at human tasks without anybody acting: recorded by the sweeper, whatever workers are there."""

from __future__ import annotations

from datetime import datetime

from flujo import transitions
from flujo.status import RunStatus, TaskStatus

from runs import dispatch
from runs.models import Run
from runs.state_backend import DjangoBackend

LIMIT = 100


def ring(now: datetime) -> None:
    """Record every deadline, escalation and reminder of waiting runs that is due, and hint at the runs that go on."""
    due = Run.objects.filter(status=RunStatus.PAUSED, wake_at__lte=now, human_tasks__status=TaskStatus.OPEN)
    for run_id in due.order_by("wake_at").values_list("run_id", flat=True).distinct()[:LIMIT]:
        if DjangoBackend().transact_now(run_id, transitions.ring(now=now)).writes:
            dispatch.hint(run_id)
