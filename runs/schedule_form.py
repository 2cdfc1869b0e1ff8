"""The form of a schedule: its name, when it comes due, and the input of the runs that it starts."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.http import HttpRequest
from django.utils import timezone
from flujo.errors import FlujoError, InvalidInput
from flujo.registry import RegisteredPipeline

from runs.encryption import Sealed
from runs.models import Schedule
from runs.services.schedules import Terms, recurrence
from runs.site_models import LONGEST_NAME
from runs.value_form import ValueForm

MAX_MINUTES = 366 * 24 * 60


class _Fields(forms.Form):
    """What is the same for every pipeline."""

    name = forms.CharField(max_length=LONGEST_NAME, help_text="What people call it; its runs carry it as their title.")
    cron = forms.CharField(
        label="Cron expression",
        required=False,
        max_length=200,
        help_text="Minute, hour, day of month, month, weekday: “30 6 * * MON-FRI” is half past six on working days.",
    )
    zone = forms.CharField(label="Time zone", required=False, max_length=64, help_text="Such as Europe/Berlin.")
    minutes = forms.IntegerField(
        label="Or every so many minutes",
        required=False,
        min_value=1,
        max_value=MAX_MINUTES,
        help_text="In place of the cron expression; counted from when it is saved.",
    )
    skips_while_active = forms.BooleanField(label="Skip while the last run is still active", required=False)
    enabled = forms.BooleanField(label="Enabled", required=False)


class ScheduleForm:
    """`fields` are those of every schedule, `input` the form of the pipeline's input; a `sealed` one stays as it is."""

    def __init__(self, entry: RegisteredPipeline, request: HttpRequest, schedule: Schedule | None) -> None:
        self.entry = entry
        self.schedule = schedule
        posted = request.POST if request.method == "POST" else None
        self.fields = _Fields(posted, initial=_shown(schedule), label_suffix="")
        self.sealed = schedule.input if schedule is not None and isinstance(schedule.input, Sealed) else ""
        given = None if schedule is None or self.sealed else json.loads(schedule.input)
        schema = entry.input_schema()
        shown = given if schema is not None else entry.secrets.drop(given, "")  # fields hide what is secret themselves
        self.input = ValueForm(schema, request, taken=entry.input_type is not None, initial=shown)
        self.problems: list[str] = []
        self.previews = posted is not None and "preview" in posted
        self.upcoming: list[datetime] = []
        if self.previews or (posted is None and schedule is not None):
            self._look_ahead()

    @property
    def failed(self) -> bool:
        """Whether something is to be corrected."""
        return bool(self.input.failed or self.problems or (self.fields.is_bound and self.fields.errors))

    def is_valid(self) -> bool:
        """Read what was typed; both parts say what is wrong with them."""
        return all([self.fields.is_valid(), self.sealed or self.input.is_valid()])

    def _look_ahead(self) -> None:
        """Find the next instants of what is typed, or else stored; what is wrong is said at its field."""
        schedule, now = self.schedule, timezone.now()
        try:
            if not self.previews and schedule is not None:
                self.upcoming = schedule.recurrence.upcoming(now)
            elif not {"cron", "zone", "minutes"} & self.fields.errors.keys():
                self.fields.errors.pop("name", None)  # nothing is saved yet
                self.upcoming = recurrence(self.terms, schedule, now).upcoming(now)
        except InvalidInput as error:
            self.refuse(error)

    @property
    def terms(self) -> Terms:
        """What was typed, as far as it could be read: the service asks first who may save it."""
        typed = {name: self.fields.cleaned_data.get(name) for name in self.fields.fields}
        cron, minutes = " ".join((typed["cron"] or "").split()), typed["minutes"]
        return Terms(
            name=typed["name"] or "",
            cron=cron,
            zone=typed["zone"] or "" if cron else "",
            every=None if minutes is None else timedelta(minutes=minutes),
            enabled=bool(typed["enabled"]),
            skips_while_active=bool(typed["skips_while_active"]),
            data=self.input.data,
        )

    def refuse(self, error: FlujoError) -> None:
        """Show what the service refused, at the field it names if there is one."""
        field = {"every": "minutes"}.get(error.details.get("field", ""), error.details.get("field", ""))
        if field in self.fields.fields and self.fields.is_bound:
            self.fields.add_error(field, error.message)
        elif not self.input.refuse(error):
            self.problems.append(error.message)


def _shown(schedule: Schedule | None) -> dict[str, Any]:
    zone = timezone.get_default_timezone_name()
    if schedule is None:
        return {"zone": zone, "skips_while_active": True, "enabled": True}
    minutes = None if schedule.every is None else round(schedule.every / timedelta(minutes=1))
    kept = {name: getattr(schedule, name) for name in ("name", "cron", "skips_while_active", "enabled")}
    return {**kept, "zone": schedule.zone or zone, "minutes": minutes}
