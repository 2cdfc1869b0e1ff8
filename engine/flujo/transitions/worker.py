"""Worker writes: each checks that the fencing token is still the run's and the run is running."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flujo import canonical
from flujo.batch import GENESIS, Batch, Draft, RunView, Transition, required, unchanged
from flujo.errors import (
    Fenced,
    PipelineChanged,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunFinished,
    RunIsLeased,
    RunNotPaused,
)
from flujo.lease import Holder, is_held
from flujo.records import Attempt, Checkpoint, HumanTask, RunHead, RunInput
from flujo.status import AttemptOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait

MAX_LOST_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ClaimTerms:
    """Who takes the lease, for how long, with which code; `first_attempt` gives the path of the step that is next.

    `first_attempt` returns None where no attempt is to be recorded: the next step is a human task, or none is left.
    """

    holder: Holder
    lease: timedelta
    fingerprint: str
    first_attempt: Callable[[RunHead], str | None]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be started: canonical JSON of its input, context and shape; texts as the run row holds them."""

    run_id: str
    pipeline: str
    version: str
    fingerprint: str
    input: str
    context: str
    shape: str
    step_count: int
    step_name: str
    title: str = ""
    owner: str = ""
    requester: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where the run goes on after a step: the top-level index and name, and the attempt that begins, if one does."""

    index: int
    name: str
    attempt_path: str | None = None
    attempt: int = 1
    finished: bool = False


@dataclass(frozen=True, slots=True)
class StepDone:
    """A finished step: what its checkpoint will hold."""

    path: str
    name: str
    position: int
    attempt: int
    output: str
    context_changes: str | None
    started_at: datetime
    description: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepError:
    """Why an attempt failed."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
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


def start(
    new: NewRun, *, now: datetime, claim: ClaimTerms | None, actor: str = "", facts: dict[str, Any]
) -> Transition:
    """Create the run, `queued`, or with `claim` taken by this worker in the same transaction.

    An id that exists is left as it is: the result is False. Raises `RunConflict` when it belongs to another pipeline
    or input.
    """

    def decide(view: RunView) -> Batch:
        if view.head is not None:
            _check_same(view.head, new)
            return unchanged(view, result=False)
        draft = Draft(view, now, actor=actor, head=_first_head(view, new, now))
        draft.insert(RunInput(new.run_id, new.input, new.context, new.shape))
        draft.event(
            EventKind.RUN_STARTED,
            pipeline=new.pipeline,
            version=new.version,
            fingerprint=new.fingerprint,
            input_digest=draft.head.input_digest,
            context_digest=canonical.digest(new.context),
            title=new.title,
            requester=new.requester,
            **facts,
        )
        if claim is not None:
            take(draft, claim)
        return draft.batch(result=True)

    return decide


def _first_head(view: RunView, new: NewRun, now: datetime) -> RunHead:
    """A reused id goes on from the numbers of its tombstone, so that old workers and old forms stay refused."""
    last = view.tombstone
    return RunHead(
        run_id=new.run_id,
        pipeline=new.pipeline,
        version=new.version,
        fingerprint=new.fingerprint,
        status=RunStatus.QUEUED,
        step_index=0,
        step_count=new.step_count,
        step_name=new.step_name,
        seq=last.seq if last else 0,
        chain=last.chain if last else GENESIS,
        fence=last.fence if last else 0,
        generation=last.generation if last else 0,
        round=0,
        input_digest=canonical.digest(new.input),
        created_at=now,
        updated_at=now,
        title=new.title,
        owner=new.owner,
        requester=new.requester,
        tags=canonical.dump(list(new.tags)),
    )


def _check_same(head: RunHead, new: NewRun) -> None:
    if (head.pipeline, head.version) != (new.pipeline, new.version):
        raise RunConflict(
            f"Run {new.run_id} exists under {head.pipeline} {head.version}, not {new.pipeline} {new.version}. "
            "Use another run id."
        )
    if head.input_digest != canonical.digest(new.input):
        raise RunConflict(f"Run {new.run_id} exists with another input. Use another run id.")


def claim(terms: ClaimTerms, *, now: datetime) -> Transition:
    """Take the lease of a queued run, or of one whose holder is gone.

    Raises `RunIsLeased` naming a live holder, `PipelineChanged` under other code, and the error of its status for a run
    that is paused or finished.
    """

    def decide(view: RunView) -> Batch:
        head = required(view)
        _check_claimable(head, now)
        draft = Draft(view, now)
        take(draft, terms)
        return draft.batch()

    return decide


def _check_claimable(head: RunHead, now: datetime) -> None:
    holder = is_held(head, now)
    if holder is not None:
        raise RunIsLeased(
            f"Run {head.run_id} is running in {holder}; its lease ends at {head.lease_expires_at:%H:%M:%S} UTC.",
            holder=str(holder),
        )
    if head.status is RunStatus.PAUSED:
        raise RunNotPaused(f"Run {head.run_id} waits for a person at step {head.step_name!r}. Answer it first.")
    if head.status is RunStatus.COMPLETED:
        raise RunFinished(f"Run {head.run_id} is completed.")
    if head.status is RunStatus.FAILED:
        raise RunFailed(f"Run {head.run_id} has failed: {head.error_message}. Call retry to try again.")
    if head.status is RunStatus.CANCELLED:
        raise RunCancelled(f"Run {head.run_id} was cancelled, which is final. Start a new run instead.")


def take(draft: Draft, terms: ClaimTerms) -> None:
    """Raise the fencing token and hold the lease; attempts that a lost worker left open are recorded as lost."""
    head = draft.head
    if head.fingerprint != terms.fingerprint:
        raise PipelineChanged(
            f"Run {head.run_id} was started by {head.pipeline} {head.version} with the fingerprint "
            f"{head.fingerprint[:12]}, but the registered one has {terms.fingerprint[:12]}: its steps changed. "
            "Register the pipeline as it was, and give the changed one a new version."
        )
    abandoned = draft.view.open_attempts() if head.status is RunStatus.RUNNING else []
    draft.set(
        status=RunStatus.RUNNING,
        wait=None,
        fence=head.fence + 1,
        holder=terms.holder.to_json(),
        lease_expires_at=draft.now + terms.lease,
        started_at=head.started_at or draft.now,
    )
    for attempt in abandoned:
        draft.update(dataclasses.replace(attempt, finished_at=draft.now, outcome=AttemptOutcome.LOST))
        draft.event(EventKind.LEASE_LOST, attempt.path, attempt=attempt.number, lost_fence=attempt.fence)
    draft.event(EventKind.RUN_CLAIMED, holder=str(terms.holder))
    if draft.head.cancel_requested:
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
        return
    path = terms.first_attempt(draft.head)
    if path is not None:
        _begin(draft, path, lost_now=len([a for a in abandoned if a.path == path]))


def _begin(draft: Draft, path: str, *, lost_now: int = 0) -> None:
    """Record the next attempt of a step before it runs, unless the step has been lost too often."""
    earlier = draft.view.attempts_of(path)
    lost = lost_now + sum(
        attempt.outcome is AttemptOutcome.LOST and attempt.round == draft.head.round for attempt in earlier
    )
    if lost >= MAX_LOST_ATTEMPTS:
        message = f"Step {path!r} was lost {lost} times: its worker died or lost its lease each time."
        draft.set(error_type="StepLost", error_message=message)
        end(draft, RunStatus.FAILED, EventKind.RUN_FAILED, path=path, error_type="StepLost")
        return
    number = 1 + max((attempt.number for attempt in earlier), default=0)
    head = draft.head
    draft.insert(Attempt(head.run_id, path, number, head.round, head.fence, draft.now))


def mine(view: RunView, fence: int) -> RunHead:
    """The head, if `fence` still holds the run. Raises `Fenced`."""
    head = view.head
    if head is None or head.fence != fence or head.status is not RunStatus.RUNNING:
        now = "is gone" if head is None else f"is {head.status.value} under token {head.fence}"
        raise Fenced(f"Token {fence} no longer holds run {view.run_id}, which {now}. Nothing was written.")
    return head


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
                draft.head.seq,
                fence,
                done.attempt,
                done.output,
                done.context_changes,
                done.started_at,
                now,
            )
        )
        draft.set(step_index=then.index, step_name=then.name, lease_expires_at=now + lease, **_described(done))
        if done.description:
            draft.event(EventKind.RUN_DESCRIBED, done.path, **done.description)
        _go_on(draft, then)
        return draft.batch()

    return decide


def _described(done: StepDone) -> dict[str, Any]:
    given = dict(done.description)
    if "tags" in given:
        given["tags"] = canonical.dump(given["tags"])
    return given


def _go_on(draft: Draft, then: Position) -> None:
    """Cancellation is asked for by an operator and takes effect here, between two steps."""
    if draft.head.cancel_requested:
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
    elif then.finished:
        end(draft, RunStatus.COMPLETED, EventKind.RUN_COMPLETED)
    elif then.attempt_path is not None:
        head = draft.head
        draft.insert(Attempt(head.run_id, then.attempt_path, then.attempt, head.round, head.fence, draft.now))


def begin_attempt(path: str, *, fence: int, now: datetime) -> Transition:
    """Record the attempt of a step that neither the claim nor the step before it could name."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        _begin(draft, path)
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
    path: str, attempt: int, error: StepError, *, retry: bool, fence: int, lease: timedelta, now: datetime
) -> Transition:
    """Record a failed attempt: with `retry` the next one begins, else the run fails."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        current = next(a for a in view.attempts_of(path) if a.number == attempt)
        draft.update(
            dataclasses.replace(
                current,
                finished_at=now,
                outcome=AttemptOutcome.FAILED,
                error_type=error.type,
                error_message=error.message,
                traceback=error.traceback,
            )
        )
        draft.event(EventKind.STEP_FAILED, path, attempt=attempt, error_type=error.type, will_retry=retry)
        if retry:
            draft.set(lease_expires_at=now + lease)
            _go_on(draft, Position(draft.head.step_index, draft.head.step_name, path, attempt + 1))
        else:
            draft.set(error_type=error.type, error_message=error.message)
            end(draft, RunStatus.FAILED, EventKind.RUN_FAILED, path=path, error_type=error.type)
        return draft.batch()

    return decide


def raise_human_task(question: Question, *, fence: int, now: datetime) -> Transition:
    """Pause the run until a person answers; waiting holds no lease."""

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        draft = Draft(view, now)
        if head.cancel_requested:
            end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
            return draft.batch()
        shown = canonical.dump([question.message, question.kind, question.schema, question.evidence])
        task = HumanTask(
            run_id=head.run_id,
            generation=head.generation + 1,
            digest=canonical.digest(shown),
            raised_at=now,
            status=TaskStatus.OPEN,
            **{field.name: getattr(question, field.name) for field in dataclasses.fields(question)},
        )
        draft.insert(task)
        draft.set(
            status=RunStatus.PAUSED,
            wait=Wait.HUMAN_TASK,
            generation=task.generation,
            holder=None,
            lease_expires_at=None,
        )
        draft.event(EventKind.HUMAN_TASK_RAISED, task.path, generation=task.generation, digest=task.digest)
        return draft.batch(result=task)

    return decide


def cancel_here(*, fence: int, now: datetime) -> Transition:
    """Carry out a requested cancellation at a safe point."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        _release_attempts(draft)
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
        return draft.batch()

    return decide


def release(*, fence: int, now: datetime) -> Transition:
    """Give the run back to the queue: this worker stops, another one goes on from the last checkpoint."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        _release_attempts(draft)
        draft.set(status=RunStatus.QUEUED, holder=None, lease_expires_at=None)
        draft.event(EventKind.RUN_RELEASED)
        return draft.batch()

    return decide


def _release_attempts(draft: Draft) -> None:
    for attempt in draft.view.open_attempts():
        draft.update(dataclasses.replace(attempt, finished_at=draft.now, outcome=AttemptOutcome.RELEASED))


def renew(*, fence: int, lease: timedelta, now: datetime) -> Transition:
    """Extend the lease. It is no fact of the run's history, so no event is written."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        draft.set(lease_expires_at=now + lease)
        return draft.batch()

    return decide


def end(draft: Draft, status: RunStatus, kind: EventKind, *, path: str = "", **data: Any) -> None:
    """Bring the run to a terminal status."""
    draft.set(status=status, wait=None, holder=None, lease_expires_at=None, finished_at=draft.now)
    if status is RunStatus.COMPLETED and draft.head.outcome is Outcome.REJECTED:
        data["outcome"] = Outcome.REJECTED.value
    draft.event(kind, path, **data)
