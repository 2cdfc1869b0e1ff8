"""The schedules that code declares, next to the pipelines that they start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from flujo.errors import InvalidInput, PipelineDefinitionError

from runs.models import Schedule
from runs.recurrence import Recurrence
from runs.registry import registry
from runs.site_models import LONGEST_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSchedule:
    """What code says of a schedule: its `input` as JSON; without an `owner` it starts runs in nobody's name."""

    pipeline: str
    name: str
    cron: str
    zone: str
    every: timedelta | None
    input: str
    owner: str
    skips_while_active: bool


_declared: dict[tuple[str, str], DeclaredSchedule] = {}


def declare_schedule(
    pipeline: str,
    name: str,
    *,
    cron: str = "",
    zone: str = "",
    every: timedelta | None = None,
    data: Any = None,
    owner: str = "",
    skips_while_active: bool = True,
) -> None:
    """Have runs of a registered pipeline start at the times of `cron`, five fields, or `every` so often.

    `zone` is that of the cron expression, the site's unless given; `data` is the input of the runs. They start in the
    name of the `owner`, if there is one, who must be allowed to. Call it in `pipelines.py`, behind the registration;
    the sweeper brings it into the database when it starts. The console can switch it off; it changes and ends in code.

    Raises `PipelineNotFound`, and `PipelineDefinitionError` for what is no schedule or is declared twice.
    """
    entry, now = registry.get(pipeline), timezone.now()
    if (pipeline, name) in _declared:
        raise PipelineDefinitionError(f"The schedule {name!r} of {pipeline} is declared twice.")
    if not 0 < len(name) <= LONGEST_NAME:
        raise PipelineDefinitionError(f"A schedule has a name of 1 to {LONGEST_NAME} characters, not {name!r}.")
    zone = (zone or timezone.get_default_timezone_name()) if cron else ""
    try:
        text = entry.encode_input(data)
        Recurrence(cron, zone, every, now).after(now)
    except InvalidInput as error:
        raise PipelineDefinitionError(f"The schedule {name!r} of {pipeline}: {error.message}") from error
    _declared[pipeline, name] = DeclaredSchedule(
        pipeline=pipeline,
        name=name,
        cron=cron,
        zone=zone,
        every=every,
        input=text,
        owner=owner,
        skips_while_active=skips_while_active,
    )


def declared_schedules() -> list[DeclaredSchedule]:
    """All that the code of this process declares."""
    return list(_declared.values())


def in_code(schedule: Schedule) -> bool:
    """Whether the code of this process declares a stored schedule."""
    return schedule.declared and (schedule.pipeline, schedule.name) in _declared


def startable() -> Q:
    """The condition of schedules that this process may start: those of people, and those that its code declares."""
    found = Q(declared=False)
    for pipeline, name in _declared:
        found |= Q(declared=True, pipeline=pipeline, name=name)
    return found
