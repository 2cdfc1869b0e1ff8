"""Starting what is due: one run for each instant of a schedule, however many processes look."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from django.db import transaction
from flujo import transitions
from flujo.admission import run_id_for
from flujo.clock import SystemClock
from flujo.codec import isoformat
from flujo.errors import InvalidInput, KeyMissing, RunConflict
from flujo.registry import PipelineRegistry
from flujo.start import new_run
from flujo.status import ACTIVE

from runs import dispatch
from runs.encryption import Sealed
from runs.models import Run, Schedule
from runs.registry import registry as site_registry
from runs.services import site_audit
from runs.services.origin import Origin
from runs.state_backend import DjangoBackend

LIMIT = 100
AFTER_FAILURE = timedelta(hours=1)


def start_due(now: datetime, *, registry: PipelineRegistry = site_registry) -> list[str]:
    """Start a run of every schedule that is due and whose pipeline is registered here; their ids.

    A schedule whose instants were missed starts one run, for the earliest of them, and is next due after `now`. One
    whose last run is still active starts none where it says so.
    """
    due = Schedule.objects.filter(enabled=True, next_at__lte=now, pipeline__in=registry.names())
    started = [_start(schedule, now, registry) for schedule in due.order_by("next_at")[:LIMIT]]
    return [run_id for run_id in started if run_id is not None]


def _start(schedule: Schedule, now: datetime, registry: PipelineRegistry) -> str | None:
    next_at = now + AFTER_FAILURE
    try:
        next_at = schedule.recurrence.after(now)
        with transaction.atomic():
            return _start_or_skip(schedule, now, registry) if _take(schedule, next_at) else None
    except (InvalidInput, KeyMissing, RunConflict) as error:  # at once it would fail the same way
        with transaction.atomic():
            if _take(schedule, next_at):
                Schedule.objects.filter(pk=schedule.pk).update(problem=error.message)
                told = {"pipeline": schedule.pipeline, "name": schedule.name, "message": error.message}
                site_audit.record("schedule.failed", actor="", origin=None, **told)
        return None


def _take(schedule: Schedule, next_at: datetime) -> bool:
    """Move the schedule on; False when another process has done so, or a person changed it."""
    unchanged = Schedule.objects.filter(pk=schedule.pk, enabled=True, next_at=schedule.next_at)
    return bool(unchanged.update(next_at=next_at))


def _start_or_skip(schedule: Schedule, now: datetime, registry: PipelineRegistry) -> str | None:
    stored = Schedule.objects.filter(pk=schedule.pk)
    if schedule.skips_while_active and Run.objects.filter(pk=schedule.last_run_id, status__in=ACTIVE).exists():
        stored.update(skipped_at=schedule.next_at)
        return None
    if isinstance(schedule.input, Sealed):
        raise KeyMissing(f"{schedule.input}.")
    due_at = isoformat(schedule.next_at)
    key = f"schedule {schedule.pk} at {due_at}"
    entry = registry.get(schedule.pipeline)
    run_id = run_id_for(entry.name, key, None, SystemClock())
    new = new_run(
        entry,
        json.loads(schedule.input),
        {"run_id": run_id},
        title=schedule.name,
        owner=schedule.owner,
        idempotency_key=key,
    )
    facts = {"schedule": schedule.name, "due_at": due_at, **Origin(channel="schedule").facts()}
    DjangoBackend().transact_now(run_id, transitions.start(new, now=now, claim=None, actor=schedule.owner, facts=facts))
    stored.update(last_at=schedule.next_at, last_run_id=run_id, problem="")
    dispatch.hint_on_commit(run_id)
    return run_id
