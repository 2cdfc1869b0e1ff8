"""Worker writes about steps: checkpoints, failed attempts, questions. Each checks the fencing token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from flujo import canonical
from flujo.batch import Batch, Draft, RunView, Transition
from flujo.codec import isoformat
from flujo.frozen import frozen
from flujo.records import Attempt, Checkpoint, HumanTask, RunWait, Signal
from flujo.status import AtDeadline, AttemptOutcome, EventKind, RunStatus, TaskStatus, Wait, WaitStatus
from flujo.transitions.reports import Reports, add_reports
from flujo.transitions.rules import abandon, add_secrets, begin, end, fail, following, keep_lease, mine, pause_here


@frozen
class Position:
    """Where the run goes on after a step: the top-level index and name, and the attempt that begins, if one does."""

    index: int
    name: str
    attempt_path: str | None = None
    attempt: int = 1
    finished: bool = False


@frozen
class StepDone:
    """A finished step: what its checkpoint will hold, the wait that is over with it and the signal that ended it.

    `abandons` is the path of a part that failed and was caught: nothing inside it is waited for any longer. `secrets`
    is what the run hides from now on beside what it hid before.
    """

    path: str
    name: str
    position: int
    attempt: int
    output: str
    context_changes: str | None
    started_at: datetime
    ends: RunWait | None = None
    takes: Signal | None = None
    description: dict[str, Any] = dataclasses.field(default_factory=dict)
    abandons: str = ""
    reports: Reports | None = None
    secrets: str = ""


@frozen
class StepError:
    """Why an attempt failed."""

    type: str
    message: str
    traceback: str


@frozen
class RetryDue:
    """When a failed step is tried again, as which of how many attempts; `pauses` when nothing is done until then."""

    at: datetime
    attempt: int
    max_attempts: int
    pauses: bool


class AfterFailure(StrEnum):
    """What a failed attempt leads to."""

    RETRY = "retry"
    FAIL_RUN = "fail_run"
    CONTAINED = "contained"


@frozen
class Question:
    """A human task to be raised: the fields of its record that the step decides."""

    path: str
    name: str
    position: int
    message: str
    kind: str
    schema: str
    candidates: str
    evidence: str
    if_approved: str
    if_rejected: str
    next_step: str
    routes_rejection: bool
    due_at: datetime | None = None
    at_deadline: AtDeadline | None = None
    if_expired: str = ""
    default_answer: str = ""
    contained: bool = False
    reminders: str = ""
    escalate_at: datetime | None = None
    escalate_to: str = ""
    quorum: int = 1
    four_eyes: bool = False


def complete_step(done: StepDone, then: Position, *, fence: int, lease: timedelta, now: datetime) -> Transition:
    """Save a step's checkpoint, and with it the attempt of the step that follows or the end of the run."""

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        draft = Draft(view, now)
        draft.event(
            EventKind.STEP_COMPLETED,
            done.path,
            attempt=done.attempt,
            output_digest=canonical.digest(done.output),
            context_digest=canonical.digest(done.context_changes) if done.context_changes else None,
        )
        draft.insert(
            Checkpoint(
                head.run_id,
                done.path,
                done.name,
                done.position,
                draft.has("seq"),
                fence,
                done.attempt,
                done.output,
                done.context_changes,
                done.started_at,
                now,
            )
        )
        if done.reports is not None:
            add_reports(draft, done.reports)
        _end_wait(draft, done)
        if done.abandons:
            abandon(draft, done.abandons)
        draft.set(step_index=then.index, step_name=then.name, **_described(done))
        add_secrets(draft, done.secrets)
        keep_lease(draft, lease)
        if done.description:
            draft.event(EventKind.RUN_DESCRIBED, done.path, **done.description)
        _go_on(draft, then)
        return draft.batch()

    return decide


def _end_wait(draft: Draft, done: StepDone) -> None:
    if done.ends is not None:
        draft.update(dataclasses.replace(done.ends, status=WaitStatus.OVER, ended_at=draft.now))
        if done.ends.kind is Wait.TIMER:
            draft.event(EventKind.TIMER_FIRED, done.path)
    if done.takes is not None:
        draft.update(dataclasses.replace(done.takes, taken_by=done.path))
        draft.event(EventKind.SIGNAL_TAKEN, done.path, message_id=done.takes.message_id)


def _described(done: StepDone) -> dict[str, Any]:
    given = dict(done.description)
    if "tags" in given:
        given["tags"] = canonical.dump(given["tags"])
    return given


def _go_on(draft: Draft, then: Position) -> None:
    """Cancellation is asked for by an operator and takes effect here, between two steps."""
    if draft.has("cancel_requested"):
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
    elif then.finished:
        end(draft, RunStatus.COMPLETED, EventKind.RUN_COMPLETED)
    elif then.attempt_path is not None:
        run_id, turn, fence = draft.has("run_id"), draft.has("round"), draft.has("fence")
        draft.insert(Attempt(run_id, then.attempt_path, then.attempt, turn, fence, draft.now))


def begin_attempt(path: str, *, fence: int, now: datetime) -> Transition:
    """Record the attempt of a step that neither the claim nor the step before it could name."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        begin(draft, path)
        return draft.batch()

    return decide


def finish(*, fence: int, now: datetime) -> Transition:
    """Complete a run whose last step has its checkpoint."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        _go_on(draft, Position(draft.head.step_index, draft.head.step_name, finished=True))
        return draft.batch()

    return decide


def fail_attempt(
    path: str,
    attempt: int,
    error: StepError,
    *,
    then: AfterFailure,
    retry: RetryDue | None = None,
    reports: Reports | None = None,
    fence: int,
    lease: timedelta,
    now: datetime,
) -> Transition:
    """Record a failed attempt, and what follows: the next one, the failure of the run, or that of the step alone.

    `retry` says when the next attempt is due, where that is not at once.
    """

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        current = next(a for a in view.attempts_of(path) if a.number == attempt)
        draft.update(
            dataclasses.replace(
                current,
                finished_at=now,
                outcome=AttemptOutcome.FAILED,
                final=then is not AfterFailure.RETRY,
                error_type=error.type,
                error_message=error.message,
                traceback=error.traceback,
            )
        )
        if reports is not None:
            add_reports(draft, reports)
        facts = {"retry_at": isoformat(retry.at)} if retry else {}
        draft.event(EventKind.STEP_FAILED, path, attempt=attempt, error_type=error.type, then=then.value, **facts)
        if then is AfterFailure.RETRY:
            keep_lease(draft, lease)
            _try_again(draft, path, attempt, retry)
        elif then is AfterFailure.FAIL_RUN:
            fail(draft, path, error.type, error.message)
        return draft.batch()

    return decide


def _try_again(draft: Draft, path: str, attempt: int, retry: RetryDue | None) -> None:
    """The next attempt at once, or the wait for it: a fact, so that a crash does not bring it forward."""
    if retry is None or draft.has("cancel_requested"):
        _go_on(draft, Position(draft.head.step_index, draft.head.step_name, path, attempt + 1))
        return
    head = draft.head
    wait = RunWait(
        head.run_id,
        path,
        following(head.generation, draft.now),
        Wait.RETRY,
        path.rpartition("/")[2],
        retry.at,
        draft.now,
        attempt=retry.attempt,
        max_attempts=retry.max_attempts,
    )
    draft.insert(wait)
    draft.set(generation=wait.generation)
    if retry.pauses:
        pause_here(draft, [], [wait])


def fail_run(path: str, error: StepError, *, expired: RunWait | None = None, fence: int, now: datetime) -> Transition:
    """Fail the run at a node whose own condition, not a step inside it, went wrong, or whose wait expired."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        if expired is not None:
            _expire(draft, expired)
        fail(draft, path, error.type, error.message)
        return draft.batch()

    return decide


def expire(wait: RunWait, *, fence: int, now: datetime) -> Transition:
    """Record that a signal did not come in time, where a construct catches the failure; it stays so."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        _expire(draft, wait)
        return draft.batch()

    return decide


def _expire(draft: Draft, wait: RunWait) -> None:
    draft.update(dataclasses.replace(wait, status=WaitStatus.EXPIRED, ended_at=draft.now))
    draft.event(EventKind.SIGNAL_EXPIRED, wait.path, name=wait.name)


def raise_human_task(question: Question, *, alone: bool, fence: int, now: datetime) -> Transition:
    """Ask a person; when nothing else can be running, pause the run too: waiting holds no lease."""

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        draft = Draft(view, now)
        if head.cancel_requested:
            end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
            return draft.batch()
        shown = canonical.dump([question.message, question.kind, question.schema, question.evidence])
        task = HumanTask(
            run_id=head.run_id,
            generation=following(head.generation, now),
            digest=canonical.digest(shown),
            raised_at=now,
            status=TaskStatus.OPEN,
            **{field.name: getattr(question, field.name) for field in dataclasses.fields(question)},
        )
        draft.insert(task)
        draft.set(generation=task.generation)
        if alone:
            pause_here(draft, [task], [])
        due = {"due_at": isoformat(task.due_at)} if task.due_at else {}
        draft.event(EventKind.HUMAN_TASK_RAISED, task.path, generation=task.generation, digest=task.digest, **due)
        return draft.batch(result=task)

    return decide


_BEGAN = {
    Wait.TIMER: EventKind.TIMER_STARTED,
    Wait.SIGNAL: EventKind.SIGNAL_AWAITED,
    Wait.CHILD: EventKind.CHILD_STARTED,
}


def begin_wait(
    path: str,
    *,
    kind: Wait,
    name: str,
    due_at: datetime | None,
    alone: bool,
    fence: int,
    now: datetime,
    passes_over: Sequence[Signal] = (),
) -> Transition:
    """Begin to wait for a timer, a signal or a child; when nothing else can be running, pause the run too.

    What came before and is not waited for, `passes_over`, counts as taken.
    """

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        draft = Draft(view, now)
        if head.cancel_requested:
            end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
            return draft.batch()
        wait = RunWait(head.run_id, path, following(head.generation, now), kind, name, due_at, now)
        draft.insert(wait)
        for signal in passes_over:
            draft.update(dataclasses.replace(signal, taken_by=path))
        draft.set(generation=wait.generation)
        came = kind is Wait.SIGNAL and any(signal.name == name for signal in view.waiting_signals())
        over = due_at is not None and due_at <= now
        if alone and not (came or over):  # a signal that came since the worker looked would wake nobody
            pause_here(draft, [], [wait])
        draft.event(_BEGAN[kind], path, name=name, due_at=isoformat(due_at) if due_at else None)
        return draft.batch()

    return decide
