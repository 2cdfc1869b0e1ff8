"""The site's own tables, which belong to no run: its audit, the grants, schedules and uploads."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.urls import reverse
from flujo.errors import InvalidInput

from runs.encryption import SealedRow, SealedText
from runs.recurrence import Recurrence
from runs.words import duration_words


class SiteEvent(models.Model):
    """An append-only fact that belongs to no run's history: refusals, sign-ins, exports. Chained site-wide."""

    KINDS: ClassVar = [
        (kind, kind)
        for kind in (
            "decision.refused",
            "action.refused",
            "user.signed_in",
            "user.signed_out",
            "user.sign_in_failed",
            "audit.exported",
            "permission.changed",
            "schedule.changed",
            "schedule.failed",
        )
    ]

    seq = models.BigIntegerField(unique=True)
    kind = models.CharField(max_length=32, choices=KINDS)
    at = models.DateTimeField()
    actor = models.CharField(max_length=150, blank=True)
    run_id = models.CharField(max_length=128, blank=True)
    body = models.TextField()
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering: ClassVar = ["-seq"]
        permissions: ClassVar = [("audit", "May read the audit of the whole site")]

    def __str__(self) -> str:
        return f"#{self.seq} {self.kind}"


class PipelineGrant(models.Model):
    """What the members of a group may do with a pipeline; the pipeline `*` means all of them."""

    VERBS: ClassVar = [
        "view",
        "view_context",
        "start",
        "decide",
        "cancel",
        "retry",
        "fork",
        "signal",
        "schedule",
        "delete",
        "export",
    ]

    group = models.ForeignKey(Group, on_delete=models.CASCADE, related_name="pipeline_grants")
    pipeline = models.CharField(max_length=200)
    verb = models.CharField(max_length=16, choices=[(verb, verb) for verb in VERBS])

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["group", "pipeline", "verb"], name="flujo_grant_once")]

    def __str__(self) -> str:
        return f"{self.group}: {self.verb} {self.pipeline}"


LONGEST_NAME = 100


class ScheduleInput:
    """Where the input of a schedule belongs: it has a row, but is no part of a run."""

    table = "schedule"
    key = ("pipeline", "name")


class Schedule(SealedRow):
    """When runs of a pipeline start by themselves: at the times of `cron` in `zone`, or `every` so often.

    One that code has `declared` starts runs as long as that code declares it, as its `owner` if it names one.
    """

    sealed_as: ClassVar = ScheduleInput

    pipeline = models.CharField(max_length=200)
    name = models.CharField(max_length=LONGEST_NAME)
    cron = models.CharField(max_length=200, blank=True)
    zone = models.CharField(max_length=64, blank=True)
    every = models.DurationField(null=True)
    anchor = models.DateTimeField()
    input = SealedText()
    enabled = models.BooleanField(default=True)
    declared = models.BooleanField(default=False)
    skips_while_active = models.BooleanField(default=True)
    owner = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    next_at = models.DateTimeField()
    last_at = models.DateTimeField(null=True)
    last_run_id = models.CharField(max_length=128, blank=True)
    skipped_at = models.DateTimeField(null=True)
    problem = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["pipeline", "name"], name="flujo_schedule_name"),
            models.CheckConstraint(
                name="flujo_schedule_cron_or_interval",
                condition=models.Q(cron="", every__isnull=False) | (~models.Q(cron="") & models.Q(every__isnull=True)),
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["next_at"], name="flujo_schedule_due", condition=models.Q(enabled=True))
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.pipeline}"

    def get_absolute_url(self) -> str:
        return reverse("runs:schedule", args=[self.pipeline, self.pk])

    @property
    def recurrence(self) -> Recurrence:
        """The instants at which it is due."""
        return Recurrence(self.cron, self.zone, self.every, self.anchor)

    @property
    def upcoming(self) -> list[datetime]:
        """The next instants on its own clock; none where they cannot be understood any more."""
        try:
            return self.recurrence.upcoming(self.next_at - timedelta(microseconds=1))
        except InvalidInput:
            return []

    @property
    def when(self) -> str:
        """Its instants in a few words."""
        return (
            f"{self.cron} ({self.zone})"
            if self.every is None
            else f"every {duration_words(self.every.total_seconds())}"
        )


class Upload(models.Model):
    """A file given with a start form; the checkpoint holds the reference, the data folder the bytes."""

    digest = models.CharField(max_length=64)
    name = models.CharField(max_length=255)
    size = models.BigIntegerField()
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
