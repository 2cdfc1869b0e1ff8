"""Every legal change of a run, as pure functions that decide what one transaction writes."""

from flujo.transitions.operator import Answer, cancel, decide, purge, retry
from flujo.transitions.rules import ClaimTerms
from flujo.transitions.steps import (
    AfterFailure,
    Position,
    Question,
    StepDone,
    StepError,
    begin_attempt,
    complete_step,
    fail_attempt,
    fail_run,
    finish,
    raise_human_task,
)
from flujo.transitions.worker import NewRun, cancel_here, claim, pause, release, renew, start

__all__ = [
    "AfterFailure",
    "Answer",
    "ClaimTerms",
    "NewRun",
    "Position",
    "Question",
    "StepDone",
    "StepError",
    "begin_attempt",
    "cancel",
    "cancel_here",
    "claim",
    "complete_step",
    "decide",
    "fail_attempt",
    "fail_run",
    "finish",
    "pause",
    "purge",
    "raise_human_task",
    "release",
    "renew",
    "retry",
    "start",
]
