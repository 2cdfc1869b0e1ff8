"""All tables of the app. The engine writes its records by cursor SQL; models serve reads, admin and migrations."""

from runs.artefacts import Artefact, ArtefactUse
from runs.audit_models import AuditEvent, Tombstone
from runs.human_task_models import Decision, HumanTask, Notice, Vote
from runs.run_models import Attempt, Checkpoint, LogChunk, Run, RunInput, RunWait, Signal, StepReport
from runs.site_models import PipelineGrant, Schedule, SiteEvent, Upload

__all__ = [
    "Artefact",
    "ArtefactUse",
    "Attempt",
    "AuditEvent",
    "Checkpoint",
    "Decision",
    "HumanTask",
    "LogChunk",
    "Notice",
    "PipelineGrant",
    "Run",
    "RunInput",
    "RunWait",
    "Schedule",
    "Signal",
    "SiteEvent",
    "StepReport",
    "Tombstone",
    "Upload",
    "Vote",
]
