"""A run and the rows that go with it, as the engine's records have them: what it was given, did, said and waits for."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from django.db import models
from django.urls import reverse
from flujo import records
from flujo.status import (
    ACTIVE,
    AttemptOutcome,
    OnChange,
    Outcome,
    RunStatus,
    Wait,
    WaitStatus,
)

from runs.artefacts import PayloadField
from runs.encryption import SealedRow, SealedText
from runs.words import subject


def choices(words: type[StrEnum]) -> list[tuple[str, str]]:
    return [(word.value, word.value.replace("_", " ")) for word in words]


class Run(SealedRow):
    """One execution of a pipeline on one input: `flujo.records.RunHead`."""

    sealed_as: ClassVar = records.RunHead
    run_id = models.CharField(max_length=128, primary_key=True)
    pipeline = models.CharField(max_length=200)
    version = models.CharField(max_length=64)
    fingerprint = models.CharField(max_length=64)
    status = models.CharField(max_length=16, choices=choices(RunStatus))
    wait = models.CharField(max_length=16, choices=choices(Wait), null=True)
    outcome = models.CharField(max_length=16, choices=choices(Outcome), null=True)
    step_index = models.IntegerField()
    step_count = models.IntegerField()
    step_name = models.CharField(max_length=200, blank=True)
    seq = models.BigIntegerField()
    chain = models.CharField(max_length=64)
    fence = models.BigIntegerField()
    generation = models.BigIntegerField()
    round = models.IntegerField()
    input_digest = models.CharField(max_length=64)
    holder = models.TextField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    wake_at = models.DateTimeField(null=True)
    cancel_requested = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    title = models.CharField(max_length=200, blank=True)
    owner = models.CharField(max_length=150, blank=True)
    requester = models.CharField(max_length=150, blank=True)
    tags = models.TextField(default="[]")
    error_type = models.CharField(max_length=200, blank=True)
    error_message = SealedText(blank=True)
    secrets = models.TextField(blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)
    priority = models.IntegerField(default=0)
    on_change = models.CharField(max_length=16, choices=choices(OnChange), null=True)
    concurrency_key = models.CharField(max_length=401, blank=True)
    derived_from = models.CharField(max_length=128, blank=True)
    derived_at = models.CharField(max_length=200, blank=True)
    started_by = models.CharField(max_length=150, blank=True)
    parent_run_id = models.CharField(max_length=128, blank=True)
    parent_path = models.CharField(max_length=500, blank=True)
    untold = models.BooleanField(default=False)

    class Meta:
        ordering: ClassVar = ["-created_at", "-run_id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="flujo_run_status", condition=models.Q(status__in=[s.value for s in RunStatus])
            ),
            models.CheckConstraint(
                name="flujo_run_paused_has_wait",
                condition=models.Q(status=RunStatus.PAUSED, wait__isnull=False)
                | (~models.Q(status=RunStatus.PAUSED) & models.Q(wait__isnull=True)),
            ),
            models.CheckConstraint(
                name="flujo_run_running_has_lease",
                condition=~models.Q(status=RunStatus.RUNNING) | models.Q(lease_expires_at__isnull=False),
            ),
            models.CheckConstraint(
                name="flujo_run_step_index_in_range",
                condition=models.Q(step_index__gte=0, step_index__lte=models.F("step_count")),
            ),
        ]
        # None of what a step changes: such an index would be written with every step.
        indexes: ClassVar = [
            models.Index(fields=["-created_at", "-run_id"], name="flujo_run_newest"),
            models.Index(fields=["status", "-created_at", "-run_id"], name="flujo_run_by_status"),
            models.Index(fields=["pipeline", "-created_at", "-run_id"], name="flujo_run_by_pipeline"),
            models.Index(
                fields=["status", "-priority", "created_at", "fingerprint", "concurrency_key"],
                name="flujo_run_queued",
                condition=models.Q(status=RunStatus.QUEUED),
            ),
            models.Index(
                fields=["status", "concurrency_key"],
                name="flujo_run_running",
                condition=models.Q(status=RunStatus.RUNNING),
            ),
            models.Index(fields=["parent_run_id"], name="flujo_run_children", condition=~models.Q(parent_run_id="")),
            models.Index(fields=["untold"], name="flujo_run_untold", condition=models.Q(untold=True)),
            models.Index(fields=["derived_from"], name="flujo_run_derived", condition=~models.Q(derived_from="")),
            models.Index(fields=["wake_at"], name="flujo_run_timers", condition=models.Q(wake_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.title or self.pipeline} ({self.run_id})"

    def get_absolute_url(self) -> str:
        return reverse("runs:run", args=[self.run_id])

    @property
    def why_held(self) -> str:
        """Why it waits for an operator, for its own page, which has its id already."""
        named = f"Run {self.run_id} "
        said = self.error_message
        return f"It {said.removeprefix(named)}" if said.startswith(named) else said

    @property
    def subject(self) -> str:
        """What pages call the run."""
        return subject(self.title, self.pipeline, self.run_id)

    @property
    def active(self) -> bool:
        """Whether the run still moves, and so cannot be deleted."""
        return self.status in ACTIVE


class RunRow(models.Model):
    """A row that belongs to a run and goes when the run is deleted; its unique key begins with the run, as an index."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="+")

    class Meta:
        abstract = True


class RunInput(SealedRow):
    """What a run was started with: `flujo.records.RunInput`."""

    sealed_as: ClassVar = records.RunInput
    run = models.OneToOneField(
        Run, on_delete=models.PROTECT, db_column="run_id", primary_key=True, related_name="start"
    )
    input = PayloadField()
    context = PayloadField()
    shape = models.TextField()

    def __str__(self) -> str:
        return f"input of {self.run_id}"


class Checkpoint(RunRow, SealedRow):
    """The saved result of a finished step: `flujo.records.Checkpoint`."""

    sealed_as: ClassVar = records.Checkpoint
    run = models.ForeignKey(
        Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="checkpoints"
    )
    path = models.CharField(max_length=500)
    name = models.CharField(max_length=200)
    position = models.IntegerField()
    seq = models.BigIntegerField()
    fence = models.BigIntegerField()
    attempt = models.IntegerField()
    output = PayloadField()
    context_changes = PayloadField(null=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["seq"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "path"], name="flujo_checkpoint_once")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.path}"


class Attempt(RunRow, SealedRow):
    """One try of one step: `flujo.records.Attempt`."""

    sealed_as: ClassVar = records.Attempt
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="attempts")
    path = models.CharField(max_length=500)
    number = models.IntegerField()
    round = models.IntegerField()
    fence = models.BigIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=16, choices=choices(AttemptOutcome), null=True)
    final = models.BooleanField(default=False)
    error_type = models.CharField(max_length=200, blank=True)
    error_message = SealedText(blank=True)
    traceback = SealedText(blank=True)

    class Meta:
        ordering: ClassVar = ["started_at", "number"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "path", "number"], name="flujo_attempt_once")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.path} attempt {self.number}"


class StepReport(RunRow, SealedRow):
    """What an attempt last said of itself: `flujo.records.StepReport`."""

    sealed_as: ClassVar = records.StepReport
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", related_name="step_reports")
    path = models.CharField(max_length=500)
    attempt = models.IntegerField()
    number = models.IntegerField()
    reported_at = models.DateTimeField(db_index=True)
    done = models.FloatField(null=True)
    total = models.FloatField(null=True)
    note = SealedText(blank=True)
    log_chunks = models.IntegerField(default=0)
    log_lines = models.IntegerField(default=0)
    log_dropped = models.IntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["reported_at", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "attempt"], name="flujo_step_report_once")
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.path} attempt {self.attempt}: report {self.number}"


class LogChunk(RunRow, SealedRow):
    """Log lines of an attempt that were written together: `flujo.records.LogChunk`."""

    sealed_as: ClassVar = records.LogChunk
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", related_name="log_chunks")
    path = models.CharField(max_length=500)
    attempt = models.IntegerField()
    number = models.IntegerField()
    lines = PayloadField()
    written_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["attempt", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "attempt", "number"], name="flujo_log_chunk_once")
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.path} attempt {self.attempt}: lines {self.number}"


class RunWait(RunRow):
    """A wait for a timer, a signal or a retry: `flujo.records.RunWait`."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="waits")
    path = models.CharField(max_length=500)
    generation = models.BigIntegerField()
    kind = models.CharField(max_length=16, choices=choices(Wait))
    name = models.CharField(max_length=200)
    due_at = models.DateTimeField(null=True)
    began_at = models.DateTimeField()
    status = models.CharField(max_length=16, choices=choices(WaitStatus))
    ended_at = models.DateTimeField(null=True)
    attempt = models.IntegerField(default=0)
    max_attempts = models.IntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["began_at", "id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "path", "generation"], name="flujo_run_wait_once")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.path} of {self.run_id}"


class Signal(RunRow, SealedRow):
    """A message to a run: `flujo.records.Signal`."""

    sealed_as: ClassVar = records.Signal
    run = models.ForeignKey(Run, on_delete=models.PROTECT, db_column="run_id", db_index=False, related_name="signals")
    message_id = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    data = PayloadField()
    actor = models.CharField(max_length=150, blank=True)
    seq = models.BigIntegerField()
    received_at = models.DateTimeField()
    taken_by = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering: ClassVar = ["seq"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "message_id"], name="flujo_signal_once")]

    def __str__(self) -> str:
        return f"signal {self.name} to {self.run_id}"
