"""Every legal change of a run, as pure functions that decide what one transaction writes."""

from flujo.transitions.alarms import due_alarms, expired, missed, ring
from flujo.transitions.kin import child_ended, disown, told
from flujo.transitions.migrating import migrate
from flujo.transitions.moving import arrive, depart, is_moving, leave
from flujo.transitions.operator import Answer, cancel, decide, purge, receive, retry
from flujo.transitions.parking import MOVING, is_parked, park, unpark
from flujo.transitions.reports import Reports, report
from flujo.transitions.restoring import restored
from flujo.transitions.rules import ClaimTerms, is_due, waiting
from flujo.transitions.steps import (
    AfterFailure,
    Position,
    Question,
    RetryDue,
    StepDone,
    StepError,
    begin_attempt,
    begin_wait,
    complete_step,
    expire,
    fail_attempt,
    fail_run,
    finish,
    raise_human_task,
)
from flujo.transitions.worker import (
    NewRun,
    another_input,
    cancel_here,
    check_unended,
    claim,
    pause,
    release,
    renew,
    start,
)

__all__ = [
    "MOVING",
    "AfterFailure",
    "Answer",
    "ClaimTerms",
    "NewRun",
    "Position",
    "Question",
    "Reports",
    "RetryDue",
    "StepDone",
    "StepError",
    "another_input",
    "arrive",
    "begin_attempt",
    "begin_wait",
    "cancel",
    "cancel_here",
    "check_unended",
    "child_ended",
    "claim",
    "complete_step",
    "decide",
    "depart",
    "disown",
    "due_alarms",
    "expire",
    "expired",
    "fail_attempt",
    "fail_run",
    "finish",
    "is_due",
    "is_moving",
    "is_parked",
    "leave",
    "migrate",
    "missed",
    "park",
    "pause",
    "purge",
    "raise_human_task",
    "receive",
    "release",
    "renew",
    "report",
    "restored",
    "retry",
    "ring",
    "start",
    "told",
    "unpark",
    "waiting",
]
