"""What falls due at human tasks without anybody acting: recorded by the sweeper, whatever workers are there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from flujo import transitions
from flujo.status import RunStatus, TaskStatus

from runs import dispatch
from runs.models import Run
from runs.state_backend import DjangoBackend

LIMIT = 100


def due_runs(now: datetime, *, leaving: Collection[str] = ()) -> list[str]:
    """The waiting runs at whose human tasks a deadline, an escalation or a reminder is due, `leaving` aside."""
    due = Run.objects.filter(status=RunStatus.PAUSED, wake_at__lte=now, human_tasks__status=TaskStatus.OPEN)
    found = due.order_by("wake_at").values_list("run_id", flat=True).distinct()[: LIMIT + len(leaving)]
    return [run_id for run_id in found if run_id not in leaving]


def ring(run_id: str, now: datetime) -> None:
    """Record what is due at the human tasks of a run, and hint at it."""
    if DjangoBackend().transact_now(run_id, transitions.ring(now=now)).writes:
        dispatch.hint(run_id)
