"""Making, changing, switching and deleting a pipeline's schedules, and keeping those that code declares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from flujo import canonical
from flujo.errors import InvalidInput, KeyMissing, NotAllowed

from runs import access
from runs.declared_schedules import DeclaredSchedule, declared_schedules, in_code
from runs.encryption import Sealed
from runs.models import Schedule
from runs.recurrence import Recurrence
from runs.registry import registry
from runs.services import site_audit
from runs.services.refusals import recorded

if TYPE_CHECKING:
    from runs.services.origin import Origin


@dataclass(frozen=True, slots=True)
class Terms:
    """What a person says of a schedule; `data` is the JSON-ready input of the runs that it starts."""

    name: str
    cron: str
    zone: str
    every: timedelta | None
    enabled: bool
    skips_while_active: bool
    data: Any


def save(*, actor: access.User, pipeline: str, schedule: Schedule | None, terms: Terms, origin: Origin) -> Schedule:
    """Make a schedule, or change one; it is next due at its first instant from now, and starts runs as `actor`.

    An input that no key here opens stays as it is. Raises `NotAllowed`, `PipelineNotFound`, `KeyMissing`, and
    `InvalidInput`, whose details name the `field` or pydantic's `errors`.
    """
    now = timezone.now()
    with _allowed(actor, pipeline, origin):
        access.require(actor, "start", pipeline)
        _check_not_in_code(schedule)
        saved = schedule or Schedule(pipeline=pipeline, created_at=now, anchor=now)
        before = _facts(saved) if schedule is not None else {}
        _set(saved, terms, now)
        saved.owner, saved.declared = actor.get_username(), False
        saved.next_at = saved.recurrence.after(now)
        if Schedule.objects.filter(pipeline=pipeline, name=terms.name).exclude(pk=saved.pk).exists():
            raise InvalidInput(f"{pipeline} has a schedule named {terms.name!r} already.", field="name")
        saved.save()
        changed = {key: value for key, value in _facts(saved).items() if before.get(key) != value}
        _record("changed" if before else "created", saved, actor.get_username(), origin, changed)
        return saved


def delete(*, actor: access.User, schedule: Schedule, origin: Origin) -> None:
    """Delete a schedule; the runs that it started stay. Raises `NotAllowed`."""
    with _allowed(actor, schedule.pipeline, origin):
        _check_not_in_code(schedule)
        _record("deleted", schedule, actor.get_username(), origin, _facts(schedule))
        schedule.delete()


def switch(*, actor: access.User, schedule: Schedule, enabled: bool, origin: Origin) -> None:
    """Switch a schedule off, or on from its first instant from now; its owner stays. Raises `NotAllowed`."""
    now = timezone.now()
    with _allowed(actor, schedule.pipeline, origin):
        if schedule.enabled != enabled:
            schedule.enabled, schedule.updated_at = enabled, now
            schedule.next_at = schedule.recurrence.after(now) if enabled else schedule.next_at
            schedule.save(update_fields=["enabled", "updated_at", "next_at"])
            _record("changed", schedule, actor.get_username(), origin, {"enabled": enabled})


def keep_declared(now: datetime) -> None:
    """Bring what the code of this process declares into the database; what is there already as declared is left.

    A person's schedule of the same pipeline and name becomes the code's.
    """
    for wanted in declared_schedules():
        with suppress(IntegrityError), transaction.atomic():  # another process made it just now
            _keep(wanted, now)


def _keep(wanted: DeclaredSchedule, now: datetime) -> None:
    stored = Schedule.objects.filter(pipeline=wanted.pipeline, name=wanted.name).first()
    schedule = stored or Schedule(pipeline=wanted.pipeline, name=wanted.name, created_at=now)
    terms: dict[str, Any] = {
        "cron": wanted.cron,
        "zone": wanted.zone,
        "every": wanted.every,
        "input": wanted.input,
        "skips_while_active": wanted.skips_while_active,
        "owner": wanted.owner,
        "declared": True,
    }
    changed = {name: value for name, value in terms.items() if stored is None or getattr(stored, name) != value}
    if not changed:
        return
    told = _facts(stored) if stored else {}
    if changed.keys() & {"cron", "zone", "every"}:
        changed["anchor"] = now
        changed["next_at"] = Recurrence(wanted.cron, wanted.zone, wanted.every, now).after(now)
    changed |= {"updated_at": now, "problem": ""}
    for name, value in changed.items():
        setattr(schedule, name, value)
    schedule.save(update_fields=changed if stored else None)  # somebody may switch or start it just now
    facts = {key: value for key, value in _facts(schedule).items() if told.get(key) != value}
    _record("declared", schedule, "", None, facts)


def _check_not_in_code(schedule: Schedule | None) -> None:
    if schedule is not None and in_code(schedule):
        raise NotAllowed(f"{schedule.name} is declared in code, and changes there. Here it can be switched off.")


def recurrence(terms: Terms, schedule: Schedule | None, now: datetime) -> Recurrence:
    """The instants of some terms; a new interval is counted from `now`."""
    same = schedule is not None and schedule.every == terms.every
    return Recurrence(terms.cron, terms.zone, terms.every, schedule.anchor if same and schedule else now)


@contextmanager
def _allowed(actor: access.User, pipeline: str, origin: Origin) -> Iterator[None]:
    """One transaction for who may; a refusal is recorded outside of it."""
    name = actor.get_username()
    with recorded("schedule", actor=name, origin=origin, pipeline=pipeline), transaction.atomic():
        access.require(actor, "schedule", pipeline)
        yield


def _set(schedule: Schedule, terms: Terms, now: datetime) -> None:
    schedule.anchor = recurrence(terms, schedule, now).anchor
    if isinstance(schedule.input, Sealed) and schedule.name != terms.name:
        raise KeyMissing(f"Its name cannot change now. Its input: {schedule.input}.", field="name")
    schedule.name, schedule.enabled, schedule.updated_at = terms.name, terms.enabled, now
    schedule.cron, schedule.zone, schedule.every = terms.cron, terms.zone, terms.every
    schedule.skips_while_active = terms.skips_while_active
    if not isinstance(schedule.input, Sealed):
        schedule.input = registry.get(schedule.pipeline).encode_input(terms.data)
    schedule.problem = ""


def _facts(schedule: Schedule) -> dict[str, Any]:
    sealed = isinstance(schedule.input, Sealed)
    return {
        "name": schedule.name,
        "when": schedule.when,
        "enabled": schedule.enabled,
        "skips_while_active": schedule.skips_while_active,
        "owner": schedule.owner,
        "input_digest": "" if sealed else canonical.digest(schedule.input),
    }


def _record(change: str, schedule: Schedule, actor: str, origin: Origin | None, facts: dict[str, Any]) -> None:
    told = {"pipeline": schedule.pipeline, "name": schedule.name, **facts}
    site_audit.record("schedule.changed", actor=actor, origin=origin, change=change, **told)
