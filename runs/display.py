"""The table from (status, wait, outcome) to the word, shape and tone that every page shows."""

from __future__ import annotations

from dataclasses import dataclass

from flujo.status import AttemptOutcome, DecisionOutcome, Outcome, RunStatus, TaskStatus, Wait


@dataclass(frozen=True, slots=True)
class Badge:
    """How a state looks: its word, its silhouette (a symbol of `components/_shapes.html`) and its tone (a token)."""

    word: str
    shape: str
    tone: str
    meaning: str


QUEUED = Badge("Queued", "circle", "queued", "Ready, no worker has taken it yet")
RUNNING = Badge("Running", "half", "running", "A worker is on it")
NEEDS_PERSON = Badge("Needs a person", "hand", "person", "Someone must answer before it goes on")
WAITING = Badge("Waiting", "clock", "waiting", "Waits for a time, a signal or another run")
RETRYING = Badge("Retrying", "loop", "retrying", "A step failed and will be tried again")
COMPLETED = Badge("Completed", "check", "completed", "Finished with a result")
FAILED = Badge("Failed", "octagon", "failed", "A step failed and its retries are used up")
REJECTED = Badge("Rejected", "hand-bar", "rejected", "A person said no; not an error")
CANCELLED = Badge("Cancelled", "dash", "cancelled", "Stopped by a person")
EXPIRED = Badge("Expired", "hourglass", "expired", "Nobody answered in time")
STALLED = Badge("Stalled", "broken", "stalled", "Its worker stopped answering; it is safe to resume")
NEEDS_ATTENTION = Badge("Needs attention", "broken", "stalled", "Held: its code changed or its state is damaged")

APPROVED = Badge("Approved", "check", "completed", "A person said yes")
ANSWERED = Badge("Answered", "check", "completed", "A person answered")
CLOSED = Badge("Closed", "dash", "cancelled", "Nobody can answer it any more")
LOST = Badge("Lost", "broken", "stalled", "Its worker died or lost its lease; it does not count as a failure")
RELEASED = Badge("Released", "dash", "cancelled", "Given back by a worker that stopped")
NOT_STARTED = Badge("Not started", "circle", "queued", "Its turn has not come")

RUN_BADGES: dict[tuple[RunStatus, Wait | None, Outcome | None], Badge] = {
    (RunStatus.QUEUED, None, None): QUEUED,
    (RunStatus.RUNNING, None, None): RUNNING,
    (RunStatus.PAUSED, Wait.HUMAN_TASK, None): NEEDS_PERSON,
    (RunStatus.PAUSED, Wait.SIGNAL, None): WAITING,
    (RunStatus.PAUSED, Wait.TIMER, None): WAITING,
    (RunStatus.PAUSED, Wait.CHILD, None): WAITING,
    (RunStatus.PAUSED, Wait.RETRY, None): RETRYING,
    (RunStatus.PAUSED, Wait.OPERATOR, None): NEEDS_ATTENTION,
    (RunStatus.PAUSED, Wait.OPERATOR, Outcome.NEEDS_ATTENTION): NEEDS_ATTENTION,
    (RunStatus.COMPLETED, None, None): COMPLETED,
    (RunStatus.COMPLETED, None, Outcome.EXPIRED): EXPIRED,
    (RunStatus.COMPLETED, None, Outcome.REJECTED): REJECTED,
    (RunStatus.FAILED, None, None): FAILED,
    (RunStatus.CANCELLED, None, None): CANCELLED,
    (RunStatus.CANCELLED, None, Outcome.REJECTED): REJECTED,
    (RunStatus.CANCELLED, None, Outcome.EXPIRED): EXPIRED,
}

STATE_BADGES: dict[str, Badge] = {
    "stalled": STALLED,
    "not_started": NOT_STARTED,
    "waiting": WAITING,
    "retrying": RETRYING,
    "needs_person": NEEDS_PERSON,
    "answered": ANSWERED,
    RunStatus.QUEUED: QUEUED,
    RunStatus.RUNNING: RUNNING,
    RunStatus.COMPLETED: COMPLETED,
    RunStatus.CANCELLED: CANCELLED,
    AttemptOutcome.FAILED: FAILED,
    AttemptOutcome.LOST: LOST,
    AttemptOutcome.RELEASED: RELEASED,
    TaskStatus.OPEN: NEEDS_PERSON,
    TaskStatus.DECIDED: ANSWERED,
    TaskStatus.CLOSED: CLOSED,
    DecisionOutcome.APPROVED: APPROVED,
    DecisionOutcome.REJECTED: REJECTED,
    Outcome.EXPIRED: EXPIRED,
    Outcome.NEEDS_ATTENTION: NEEDS_ATTENTION,
}


def run_badge(status: str, wait: str | None = None, outcome: str | None = None) -> Badge:
    """The badge of a run; an outcome that adds nothing to its status (a failed run's, say) is left aside."""
    key = RunStatus(status), Wait(wait) if wait else None
    exact = RUN_BADGES.get((*key, Outcome(outcome) if outcome else None))
    return exact or RUN_BADGES[(*key, None)]


def request_state(status: str, kind: str, outcome: str = "") -> str:
    """The word of a human task for `state_badge`: its decision's outcome; an approved form or text is an answer."""
    if not outcome:
        return status
    return "answered" if outcome == DecisionOutcome.APPROVED and kind != "bool" else outcome


def state_badge(state: str) -> Badge:
    """The badge of a step, an attempt, a human task or a decision, by its one word."""
    return STATE_BADGES[state]
