"""The rules that worker writes and operator writes share: the fence, the lease, the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flujo import canonical
from flujo.batch import Draft, RunView
from flujo.deadlines import next_alarm
from flujo.errors import Fenced, PipelineChanged
from flujo.lease import Holder, is_held
from flujo.paths import is_within
from flujo.records import Attempt, Checkpoint, HumanTask, RunHead, RunWait
from flujo.status import AttemptOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait, WaitStatus

MAX_LOST_ATTEMPTS = 5
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class ClaimTerms:
    """Who takes the lease, for how long, with which code; `first_attempt` gives the path of the step that is next.

    `first_attempt` returns None where no attempt is to be recorded: the next step is a human task, or none is left.
    `patient` takes a run that waits for a retry before that is due, and waits here. `max_concurrency`
    is how many runs of one concurrency key may hold a lease at once; None for any number.
    """

    holder: Holder
    lease: timedelta
    fingerprint: str
    first_attempt: Callable[[RunHead], str | None]
    patient: bool = False
    max_concurrency: int | None = None


def following(last: int, now: datetime) -> int:
    """The token or generation after `last`: at least the time in milliseconds.

    So a store that was put back to a backup gives none again that it gave out since, not even for a run that the backup
    does not know, or in the place of another one.
    """
    return max(last + 1, milliseconds(now))


def milliseconds(now: datetime) -> int:
    """The time since 1970."""
    return int(now.timestamp() * 1000)


def mine(view: RunView, fence: int) -> RunHead:
    """The head, if `fence` still holds the run. Raises `Fenced`."""
    head = view.head
    if head is None or head.fence != fence or head.status is not RunStatus.RUNNING:
        now = "is gone" if head is None else f"is {head.status.value} under token {head.fence}"
        raise Fenced(f"Token {fence} no longer holds run {view.run_id}, which {now}. Nothing was written.")
    return head


def add_secrets(draft: Draft, more: str) -> None:
    """Have the run hide what a text names as secret, beside what it hides already."""
    if more:
        old, new = json.loads(draft.has("secrets") or "{}"), json.loads(more)
        both = {name: sorted({*old.get(name, ()), *new.get(name, ())}) for name in ("keys", "paths")}
        draft.set(secrets=canonical.dump(both))


def has_room(draft: Draft, terms: ClaimTerms) -> bool:
    """Whether one more run of this one's concurrency key may hold a lease. A run whose lease ended holds none."""
    key = draft.head.concurrency_key
    if not key or terms.max_concurrency is None:
        return True
    held = [other for other in draft.view.holders_of(key) if is_held(other, draft.now) is not None]
    return len(held) < terms.max_concurrency


def take_or_queue(draft: Draft, terms: ClaimTerms | None) -> None:
    """Take the lease; without terms, or where too many of its key are running, leave the run to whoever comes next."""
    if terms is not None and has_room(draft, terms):
        take(draft, terms)
    elif draft.head.status is not RunStatus.QUEUED:
        draft.set(status=RunStatus.QUEUED, wait=None, wake_at=None)


def keep_lease(draft: Draft, lease: timedelta) -> None:
    """Hold the lease from now on for its whole length. Raises `Fenced` where another run may have its place already."""
    ended = draft.has("lease_expires_at")
    if draft.has("concurrency_key") and ended is not None and ended <= draft.now:
        raise Fenced(
            f"The lease of run {draft.view.run_id} ended, and with it its place among the runs of "
            f"{draft.has('concurrency_key')!r}. Nothing was written."
        )
    draft.set(lease_expires_at=draft.now + lease)


def take(draft: Draft, terms: ClaimTerms) -> None:
    """Raise the fencing token and hold the lease; attempts that a lost worker left open are recorded as lost."""
    head = draft.head
    if head.fingerprint != terms.fingerprint:
        raise PipelineChanged(
            f"Run {head.run_id} was started by {head.pipeline} {head.version} with the fingerprint "
            f"{head.fingerprint[:12]}, but the registered one has {terms.fingerprint[:12]}: its steps changed. "
            "Register the pipeline as it was, and give the changed one a new version."
        )
    draft.set(
        status=RunStatus.RUNNING,
        wait=None,
        wake_at=None,
        fence=following(head.fence, draft.now),
        holder=terms.holder.to_json(),
        lease_expires_at=draft.now + terms.lease,
        started_at=head.started_at or draft.now,
    )
    lost = lose_attempts(draft) if head.status is RunStatus.RUNNING else []
    draft.event(EventKind.RUN_CLAIMED, holder=str(terms.holder))
    if draft.head.cancel_requested:
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
        return
    path = terms.first_attempt(draft.head)
    if path is not None:
        begin(draft, path, lost_now=len([a for a in lost if a.path == path]))


def lose_attempts(draft: Draft) -> list[Attempt]:
    """Record the attempts that a worker who is gone left open as lost."""
    abandoned = draft.view.open_attempts()
    for attempt in abandoned:
        draft.update(dataclasses.replace(attempt, finished_at=draft.now, outcome=AttemptOutcome.LOST))
        draft.event(EventKind.LEASE_LOST, attempt.path, attempt=attempt.number, lost_fence=attempt.fence)
    return abandoned


def begin(draft: Draft, path: str, *, lost_now: int = 0) -> None:
    """Record the next attempt of a step before it runs, unless it is too soon or the step has been lost too often."""
    if not _end_retry_wait(draft, path):
        return
    earlier = draft.view.attempts_of(path)
    lost = lost_now + sum(
        attempt.outcome is AttemptOutcome.LOST and attempt.round == draft.head.round for attempt in earlier
    )
    if lost >= MAX_LOST_ATTEMPTS:
        message = f"Step {path!r} was lost {lost} times: its worker died or lost its lease each time."
        fail(draft, path, "StepLost", message)
        return
    number = 1 + max((attempt.number for attempt in earlier), default=0)
    head = draft.head
    draft.insert(Attempt(head.run_id, path, number, head.round, head.fence, draft.now))


def _end_retry_wait(draft: Draft, path: str) -> bool:
    """Whether the step may be tried now: nothing delays it, or the wait for its retry is over with this."""
    if not draft.head.generation:
        return True
    wait = next((w for w in draft.view.open_waits() if w.kind is Wait.RETRY and w.path == path), None)
    if wait is None:
        return True
    if wait.due_at is not None and wait.due_at > draft.now:
        return False
    draft.update(dataclasses.replace(wait, status=WaitStatus.OVER, ended_at=draft.now))
    return True


def end(draft: Draft, status: RunStatus, kind: EventKind, *, path: str = "", closing: str = "", **data: Any) -> None:
    """Bring the run to a terminal status; questions still open close because of `closing`."""
    decided = path if kind is EventKind.RUN_REJECTED else ""
    close_human_tasks(draft, closing or f"the run is {status.value}", but=decided)
    close_waits(draft)
    if draft.has("parent_run_id"):
        draft.set(untold=True)
    if status is RunStatus.CANCELLED:
        give_up_attempts(draft, AttemptOutcome.CANCELLED)
    elif status is RunStatus.FAILED:
        give_up_attempts(draft, AttemptOutcome.RELEASED)
    if status is RunStatus.CANCELLED and draft.has("wait") is Wait.OPERATOR:  # what it was held for is over
        draft.set(error_type="", error_message="")
    if draft.has("outcome") is Outcome.NEEDS_ATTENTION:
        draft.set(outcome=None)
    draft.set(status=status, wait=None, holder=None, lease_expires_at=None, wake_at=None, finished_at=draft.now)
    if status is RunStatus.COMPLETED and draft.head.outcome is not None:
        data["outcome"] = draft.head.outcome.value
    draft.event(kind, path, **data)


def fail(draft: Draft, path: str, error_type: str, message: str, outcome: Outcome | None = None) -> None:
    """Fail the run; one that was to be cancelled is, whatever went wrong meanwhile: cancelled is final."""
    if draft.has("cancel_requested"):
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
        return
    draft.set(error_type=error_type, error_message=message, outcome=outcome or draft.has("outcome"))
    end(draft, RunStatus.FAILED, EventKind.RUN_FAILED, path=path, error_type=error_type)


def close_human_tasks(draft: Draft, reason: str, *, but: str = "") -> None:
    """Close the questions that are still open, except the one at `but`: nobody may answer for a run that has ended."""
    if not draft.head.generation:
        return
    for task in open_now(draft):
        if task.path != but:
            close_task(draft, task, reason)


def open_now(draft: Draft) -> list[HumanTask]:
    """The human tasks that are open once this draft is written."""
    over = {row.key_values(): row for row in draft.updates if isinstance(row, HumanTask)}
    tasks = [over.get(task.key_values(), task) for task in draft.view.open_human_tasks()]
    return [task for task in tasks if task.status is TaskStatus.OPEN]


def close_task(draft: Draft, task: HumanTask, reason: str) -> None:
    """Close a question that nobody can answer any more."""
    closed = dataclasses.replace(task, status=TaskStatus.CLOSED, closed_at=draft.now, closed_reason=reason[:MAX_REASON])
    draft.update(closed)
    draft.event(EventKind.HUMAN_TASK_CLOSED, task.path, generation=task.generation)


def close_waits(draft: Draft) -> None:
    """Close the waits that are still open when the run ends."""
    if not draft.head.generation:
        return
    over = {row.key_values() for row in draft.updates if isinstance(row, RunWait)}
    for wait in draft.view.open_waits():
        if wait.key_values() not in over:
            _close_wait(draft, wait)


def _close_wait(draft: Draft, wait: RunWait) -> None:
    draft.update(dataclasses.replace(wait, status=WaitStatus.CLOSED, ended_at=draft.now))
    if wait.kind is Wait.CHILD:
        draft.set(untold=True)


def abandon(draft: Draft, place: str) -> None:
    """Close what is open inside a part whose failure a construct caught: nobody would come back for an answer."""
    for task in draft.view.open_human_tasks():
        if is_within(task.path, place):
            close_task(draft, task, "the step that asked was given up after another one failed")
    for wait in draft.view.open_waits():
        if is_within(wait.path, place):
            _close_wait(draft, wait)
    for attempt in draft.view.open_attempts():
        if is_within(attempt.path, place):
            draft.update(dataclasses.replace(attempt, finished_at=draft.now, outcome=AttemptOutcome.RELEASED))


def waiting(asked: Iterable[HumanTask], waits: Iterable[RunWait]) -> set[tuple[str, int]]:
    """What a run waits for, by path and generation."""
    return {(task.path, task.generation) for task in asked} | {(wait.path, wait.generation) for wait in waits}


_RANKS = (Wait.HUMAN_TASK, Wait.SIGNAL, Wait.RETRY, Wait.CHILD, Wait.TIMER)


def pause_here(draft: Draft, tasks: Sequence[HumanTask], waits: Sequence[RunWait]) -> None:
    """Pause: nothing holds a waiting run. The first of `_RANKS` is the reason shown."""
    kinds = {wait.kind for wait in waits} | ({Wait.HUMAN_TASK} if tasks else set())
    reason = next(kind for kind in _RANKS if kind in kinds)
    wake_at = next_wake(tasks, waits)
    draft.set(status=RunStatus.PAUSED, wait=reason, holder=None, lease_expires_at=None, wake_at=wake_at)


def next_wake(tasks: Iterable[HumanTask], waits: Iterable[RunWait]) -> datetime | None:
    """When a run that waits for these has something to do by itself."""
    moments = [*map(next_alarm, tasks), *(wait.due_at for wait in waits)]
    return min((moment for moment in moments if moment is not None), default=None)


def is_due(head: RunHead, now: datetime) -> bool:
    """Whether a paused run has something to do by itself: a timer, a retry, or an alarm of a human task is due."""
    return head.status is RunStatus.PAUSED and head.wake_at is not None and head.wake_at <= now


def give_up_attempts(draft: Draft, outcome: AttemptOutcome) -> None:
    """Record why this worker gives up its open attempts, except those that this very transition ends."""
    over = {row.key_values() for row in draft.updates if isinstance(row, Attempt)}
    done = {row.path for row in draft.inserts if isinstance(row, Checkpoint)}
    for attempt in draft.view.open_attempts():
        if attempt.key_values() in over or attempt.path in done:
            continue
        draft.update(dataclasses.replace(attempt, finished_at=draft.now, outcome=outcome))
