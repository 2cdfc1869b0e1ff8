"""Human tasks as the engine's records have them: the request, its votes, its decision, and what people should hear."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.urls import reverse
from flujo import records
from flujo.status import (
    AtDeadline,
    DecisionOutcome,
    TaskStatus,
)

from runs.artefacts import PayloadField
from runs.encryption import SealedRow, SealedText
from runs.run_models import Run, RunRow, choices


class HumanTask(RunRow, SealedRow):
    """A request for a person: `flujo.records.HumanTask`."""

    sealed_as: ClassVar = records.HumanTask
    run = models.ForeignKey(
        Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="human_tasks"
    )
    path = models.CharField(max_length=500)
    generation = models.BigIntegerField()
    name = models.CharField(max_length=200)
    position = models.IntegerField()
    message = SealedText()
    kind = models.CharField(max_length=16)
    schema = models.TextField(blank=True)
    candidates = models.TextField(blank=True)
    evidence = PayloadField()
    digest = models.CharField(max_length=64)
    if_approved = models.CharField(max_length=300)
    if_rejected = models.CharField(max_length=300)
    next_step = models.CharField(max_length=200, blank=True)
    routes_rejection = models.BooleanField(default=False)
    raised_at = models.DateTimeField()
    status = models.CharField(max_length=16, choices=choices(TaskStatus))
    closed_at = models.DateTimeField(null=True)
    closed_reason = models.CharField(max_length=300, blank=True)
    due_at = models.DateTimeField(null=True)
    at_deadline = models.CharField(max_length=16, choices=choices(AtDeadline), null=True)
    if_expired = SealedText(blank=True)
    default_answer = PayloadField(blank=True)
    contained = models.BooleanField(default=False)
    reminders = models.TextField(blank=True)
    reminded_at = models.DateTimeField(null=True)
    escalate_at = models.DateTimeField(null=True)
    escalate_to = models.TextField(blank=True)
    escalated_at = models.DateTimeField(null=True)
    quorum = models.IntegerField(default=1)
    four_eyes = models.BooleanField(default=False)

    class Meta:
        ordering: ClassVar = ["raised_at", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "generation"], name="flujo_human_task_once")
        ]
        indexes: ClassVar = [models.Index(fields=["status", "raised_at", "id"], name="flujo_human_task_open")]

    def __str__(self) -> str:
        return f"{self.name} of {self.run_id}"

    def get_absolute_url(self) -> str:
        return reverse("runs:human_task", args=[self.pk])


class Vote(RunRow, SealedRow):
    """One person's answer to a human task with a quorum: `flujo.records.Vote`."""

    sealed_as: ClassVar = records.Vote
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", related_name="votes")
    path = models.CharField(max_length=500)
    generation = models.BigIntegerField()
    actor = models.CharField(max_length=150)
    data = PayloadField()
    reason = models.TextField(blank=True)
    channel = models.CharField(max_length=16)
    idempotency_key = models.CharField(max_length=100, blank=True)
    voted_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["voted_at", "actor"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "generation", "actor"], name="flujo_vote_once")
        ]

    def __str__(self) -> str:
        return f"{self.actor} on {self.path} of {self.run_id}"


class Decision(RunRow, SealedRow):
    """The recorded answer to a human task: `flujo.records.Decision`."""

    sealed_as: ClassVar = records.Decision
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="decisions")
    path = models.CharField(max_length=500)
    generation = models.BigIntegerField()
    outcome = models.CharField(max_length=16, choices=choices(DecisionOutcome))
    data = PayloadField()
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    channel = models.CharField(max_length=16)
    idempotency_key = models.CharField(max_length=100, blank=True)
    decided_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["decided_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "generation"], name="flujo_decision_once")
        ]

    def __str__(self) -> str:
        return f"{self.outcome} {self.path} of {self.run_id}"


class Notice(models.Model):
    """Something that people should hear about a human task, until the receivers of `runs.notices` have heard it."""

    run_id = models.CharField(max_length=128)
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=32)
    path = models.CharField(max_length=500)
    generation = models.BigIntegerField()
    attempts = models.IntegerField(default=0)
    not_before = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["run_id", "seq"], name="flujo_notice_once")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.run_id}"
