"""The words of a run's life and the one table of its legal moves."""

from __future__ import annotations

from enum import StrEnum

from flujo.errors import IllegalTransition


class RunStatus(StrEnum):
    """What a run is doing now."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Wait(StrEnum):
    """Why a paused run is paused."""

    HUMAN_TASK = "human_task"
    SIGNAL = "signal"
    TIMER = "timer"
    RETRY = "retry"
    OPERATOR = "operator"
    CHILD = "child"


class Outcome(StrEnum):
    """How a run ended or why it is held, where the status alone does not say."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    NEEDS_ATTENTION = "needs_attention"


class OnChange(StrEnum):
    """What happens to an unfinished run where its own code is no longer registered."""

    REFUSE = "refuse"
    PIN = "pin"
    MIGRATE = "migrate"


class TaskStatus(StrEnum):
    """The state of a human task."""

    OPEN = "open"
    DECIDED = "decided"
    EXPIRED = "expired"
    CLOSED = "closed"


class AtDeadline(StrEnum):
    """What is done when nobody has answered a human task in time."""

    FAIL = "fail"
    REJECT = "reject"
    APPROVE = "approve"
    STEPS = "steps"
    WAIT = "wait"


class WaitStatus(StrEnum):
    """The state of a wait for a timer or a signal."""

    OPEN = "open"
    OVER = "over"
    EXPIRED = "expired"
    CLOSED = "closed"


class DecisionOutcome(StrEnum):
    """What a person decided."""

    APPROVED = "approved"
    REJECTED = "rejected"


class AttemptOutcome(StrEnum):
    """How an attempt ended without a checkpoint; an attempt that made its checkpoint has none of these."""

    FAILED = "failed"
    LOST = "lost"
    RELEASED = "released"
    CANCELLED = "cancelled"


class EventKind(StrEnum):
    """The closed list of audit events of a run."""

    RUN_STARTED = "run.started"
    RUN_IMPORTED = "run.imported"
    RUN_CLAIMED = "run.claimed"
    RUN_RELEASED = "run.released"
    RUN_DESCRIBED = "run.described"
    RUN_PAUSED = "run.paused"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_RETRIED = "run.retried"
    RUN_FORKED = "run.forked"
    RUN_CANCEL_REQUESTED = "run.cancel_requested"
    RUN_CANCELLED = "run.cancelled"
    RUN_REJECTED = "run.rejected"
    RUN_EXPIRED = "run.expired"
    RUN_PURGED = "run.purged"
    RUN_MOVED = "run.moved"
    RUN_RESTORED = "run.restored"
    RUN_PARKED = "run.parked"
    RUN_UNPARKED = "run.unparked"
    RUN_MIGRATED = "run.migrated"
    LEASE_LOST = "lease.lost"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"
    STEP_TAKEN_OVER = "step.taken_over"
    TIMER_STARTED = "timer.started"
    TIMER_FIRED = "timer.fired"
    SIGNAL_AWAITED = "signal.awaited"
    SIGNAL_RECEIVED = "signal.received"
    SIGNAL_TAKEN = "signal.taken"
    SIGNAL_EXPIRED = "signal.expired"
    CHILD_STARTED = "child.started"
    CHILD_ENDED = "child.ended"
    HUMAN_TASK_RAISED = "human_task.raised"
    HUMAN_TASK_REMINDED = "human_task.reminded"
    HUMAN_TASK_ESCALATED = "human_task.escalated"
    HUMAN_TASK_EXPIRED = "human_task.expired"
    HUMAN_TASK_CLOSED = "human_task.closed"
    VOTE_RECORDED = "vote.recorded"
    DECISION_RECORDED = "decision.recorded"


TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
ACTIVE = frozenset(RunStatus) - TERMINAL

LEGAL_MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset(RunStatus),
    RunStatus.PAUSED: frozenset({RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.FAILED: frozenset({RunStatus.QUEUED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}


def check_move(before: RunStatus, after: RunStatus) -> None:
    """Raise `IllegalTransition` unless a run may go from `before` to `after`."""
    if after not in LEGAL_MOVES[before]:
        raise IllegalTransition(f"A {before.value} run cannot become {after.value}.")


def turn_of(status: str, at_deadline: str | None, outcome: str | None) -> Outcome | None:
    """How a human task that stands so, with a decision of this outcome if there is one, led its run another way."""
    if status == TaskStatus.EXPIRED:
        return Outcome.EXPIRED if at_deadline in (AtDeadline.REJECT, AtDeadline.STEPS) else None
    return Outcome.REJECTED if outcome == DecisionOutcome.REJECTED else None
