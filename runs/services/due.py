"""Starting what is due: one run for each instant of a schedule, however many processes look."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import QuerySet
from flujo import transitions
from flujo.admission import run_id_for
from flujo.clock import SystemClock
from flujo.codec import isoformat
from flujo.errors import InvalidInput, KeyMissing, NotAllowed, RunConflict
from flujo.registry import PipelineRegistry
from flujo.start import new_run
from flujo.status import ACTIVE

from runs import access, dispatch
from runs.declared_schedules import startable
from runs.encryption import Sealed
from runs.models import Run, Schedule
from runs.registry import registry as site_registry
from runs.services import site_audit
from runs.services.origin import Origin
from runs.state_backend import DjangoBackend

LIMIT = 100
AFTER_FAILURE = timedelta(hours=1)


def due_schedules(now: datetime, *, registry: PipelineRegistry = site_registry) -> list[int]:
    """The ids of schedules that are due and may start here, those that wait longest first: the code must have the
    pipeline, and declare the schedule if it was declared.
    """
    due = _due(now).filter(startable(), pipeline__in=registry.names())
    return list(due.order_by("next_at").values_list("pk", flat=True)[:LIMIT])


def _due(now: datetime) -> QuerySet[Schedule]:
    return Schedule.objects.filter(enabled=True, next_at__lte=now)


def start(schedule_id: int, now: datetime, *, registry: PipelineRegistry = site_registry) -> str | None:
    """Start the run of a schedule that is due, as its owner, who must be allowed to; its id, None when none started.

    A schedule whose instants were missed starts one run, for the earliest of them, and is next due after `now`. One
    whose last run is still active starts none where it says so.
    """
    schedule, next_at = _due(now).filter(pk=schedule_id).first(), now + AFTER_FAILURE
    if schedule is None:
        return None  # somebody else was faster
    try:
        next_at = schedule.recurrence.after(now)
        with transaction.atomic():
            return _start_or_skip(schedule, now, registry) if _take(schedule, next_at) else None
    except (InvalidInput, KeyMissing, NotAllowed, RunConflict) as error:  # at once it would fail the same way
        with transaction.atomic():
            if _take(schedule, next_at) and schedule.problem != error.message:  # else it was told before
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
    _check_owner(schedule)
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


def _check_owner(schedule: Schedule) -> None:
    """Raise `NotAllowed` unless the owner may start the pipeline now, as if by hand; code may do without one."""
    name, pipeline = schedule.owner, schedule.pipeline
    if schedule.declared and not name:
        return
    owner = get_user_model().objects.filter(username=name).first()
    if owner is None:
        why = f"{name} has no account any more"
    elif not owner.is_active:
        why = f"the account of {name} is switched off"
    elif not access.may(owner, "start", pipeline):
        why = f"{name} may not start {pipeline}"
    else:
        return
    saved = f"somebody who may start {pipeline} saves the schedule, and is its owner then"
    raise NotAllowed(
        f"No run was started: a schedule starts runs in its owner’s name, and {why}. An administrator can change that; "
        f"or {'the code that declares it names another owner' if schedule.declared else saved}."
    )
