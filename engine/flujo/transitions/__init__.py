"""Every legal change of a run, as pure functions that decide what one transaction writes."""

from flujo.transitions.operator import Answer, cancel, decide, purge, retry
from flujo.transitions.worker import (
    ClaimTerms,
    NewRun,
    Position,
    Question,
    StepDone,
    StepError,
    cancel_here,
    claim,
    complete_step,
    fail_attempt,
    finish,
    raise_human_task,
    release,
    renew,
    start,
)

__all__ = [
    "Answer",
    "ClaimTerms",
    "NewRun",
    "Position",
    "Question",
    "StepDone",
    "StepError",
    "cancel",
    "cancel_here",
    "claim",
    "complete_step",
    "decide",
    "fail_attempt",
    "finish",
    "purge",
    "raise_human_task",
    "release",
    "renew",
    "retry",
    "start",
]
