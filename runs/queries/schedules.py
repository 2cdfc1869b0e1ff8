"""The schedules of a pipeline, as its page lists them."""

from __future__ import annotations

from dataclasses import dataclass

from runs.declared_schedules import in_code
from runs.models import Run, Schedule


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """One schedule, the last run that it started, if that is still there, and whether the code here declares it."""

    schedule: Schedule
    last_run: Run | None
    in_code: bool


def schedules(pipeline: str) -> list[ScheduleLine]:
    """Those of a pipeline, by name; two queries."""
    found = list(Schedule.objects.filter(pipeline=pipeline))
    runs = Run.objects.in_bulk([schedule.last_run_id for schedule in found if schedule.last_run_id])
    return [ScheduleLine(schedule, runs.get(schedule.last_run_id), in_code(schedule)) for schedule in found]
