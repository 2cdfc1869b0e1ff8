"""What outlives a run: its audit events, and the tombstone of one that was deleted."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from flujo.status import (
    EventKind,
    RunStatus,
)

from runs.run_models import choices
from runs.words import subject


class AuditEvent(models.Model):
    """An append-only fact about a run: `flujo.records.AuditEvent`. It outlives its run."""

    run_id = models.CharField(max_length=128)
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=32, choices=choices(EventKind))
    at = models.DateTimeField()
    actor = models.CharField(max_length=150, blank=True)
    path = models.CharField(max_length=500, blank=True)
    fence = models.BigIntegerField()
    body = models.TextField()
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run_id", "seq"], name="flujo_audit_event_once")]
        indexes: ClassVar = [
            models.Index(fields=["actor", "-id"], name="flujo_audit_by_actor"),
            models.Index(fields=["kind", "-id"], name="flujo_audit_by_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} #{self.seq} {self.kind}"


class Tombstone(models.Model):
    """What is left of a deleted run: `flujo.records.Tombstone`."""

    run_id = models.CharField(max_length=128, primary_key=True)
    pipeline = models.CharField(max_length=200)
    version = models.CharField(max_length=64)
    status = models.CharField(max_length=16, choices=choices(RunStatus))
    title = models.CharField(max_length=200, blank=True)
    seq = models.BigIntegerField()
    chain = models.CharField(max_length=64)
    fence = models.BigIntegerField()
    generation = models.BigIntegerField()
    deleted_at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    reason = models.TextField()

    def __str__(self) -> str:
        return f"deleted run {self.run_id}"

    @property
    def subject(self) -> str:
        return subject(self.title, self.pipeline, self.run_id)
