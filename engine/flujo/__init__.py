"""Durable, resumable workflows for Python."""

from flujo.context import PipelineContext
from flujo.errors import FlujoError
from flujo.human import Reject
from flujo.migration import Migrated, StoredRun
from flujo.pipeline import Pipeline
from flujo.redaction import Secret
from flujo.registry import PipelineRegistry
from flujo.result import Pause, PipelineResult, StepResult
from flujo.retry import NonRetryable, RetryAfter, RetryPolicy
from flujo.runner import Flujo
from flujo.state.base import StateBackend
from flujo.state.workflow_state import WorkflowState
from flujo.step import Step, step
from flujo.step_context import StepContext
from flujo.timetable import Approve

__all__ = [
    "Approve",
    "Flujo",
    "FlujoError",
    "Migrated",
    "NonRetryable",
    "Pause",
    "Pipeline",
    "PipelineContext",
    "PipelineRegistry",
    "PipelineResult",
    "Reject",
    "RetryAfter",
    "RetryPolicy",
    "Secret",
    "StateBackend",
    "Step",
    "StepContext",
    "StepResult",
    "StoredRun",
    "WorkflowState",
    "step",
]
