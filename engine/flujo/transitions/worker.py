"""Worker writes about the run: start, claim, renew, pause, release. All but the first two check the fencing token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flujo import canonical
from flujo.batch import GENESIS, Batch, Draft, RunView, Transition, required, unchanged
from flujo.errors import (
    AtMaxConcurrency,
    IdempotencyConflict,
    RunCancelled,
    RunConflict,
    RunDeleted,
    RunFailed,
    RunFinished,
    RunIsLeased,
    RunWaits,
)
from flujo.lease import is_held
from flujo.records import RunHead, RunInput, RunWait
from flujo.status import AttemptOutcome, EventKind, OnChange, RunStatus, Wait
from flujo.transitions.alarms import due_alarms, sound
from flujo.transitions.lineage import Lineage, take_over
from flujo.transitions.rules import (
    ClaimTerms,
    end,
    give_up_attempts,
    has_room,
    is_due,
    keep_lease,
    mine,
    pause_here,
    take,
    take_or_queue,
    waiting,
)


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
    idempotency_key: str = ""
    priority: int = 0
    on_change: OnChange | None = None
    concurrency_key: str = ""
    parent_run_id: str = ""
    parent_path: str = ""
    lineage: Lineage | None = None
    secrets: str = ""


def start(
    new: NewRun, *, now: datetime, claim: ClaimTerms | None, actor: str = "", facts: dict[str, Any]
) -> Transition:
    """Create the run, `queued`, or with `claim` taken by this worker in the same transaction.

    An id that exists is left as it is: the result is False. Raises `RunConflict` when it belongs to another pipeline
    or input, or to a fork with other edits; under an idempotency key (`IdempotencyConflict`) the version may be another
    one. Raises `RunDeleted` when the run went to another store: it goes on there.
    """

    def decide(view: RunView) -> Batch:
        if view.head is not None:
            _check_same(view.head, new)
            _check_same_edits(view, new)
            return unchanged(view, result=False)
        if view.tombstone is not None and view.tombstone.moved_to:
            where = view.tombstone.moved_to
            raise RunDeleted(f"Run {new.run_id} was moved to {where} and goes on there. Use another id for a run here.")
        draft = Draft(view, now, actor=actor, head=_first_head(view, new, now, actor))
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
            **_where_given(idempotency_key=new.idempotency_key, priority=new.priority, on_change=new.on_change),
            **_rerun(new.lineage),
            **facts,
        )
        if new.lineage is not None and new.lineage.step:
            take_over(draft, new.lineage, facts)
        take_or_queue(draft, claim)
        return draft.batch(result=True)

    return decide


def _where_given(**facts: Any) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def _rerun(lineage: Lineage | None) -> dict[str, Any]:
    if lineage is None or lineage.step:
        return {}
    return {"rerun_of": lineage.run_id, "reason": lineage.reason}


def _first_head(view: RunView, new: NewRun, now: datetime, actor: str) -> RunHead:
    """A reused id goes on from the numbers of its tombstone, so that old workers and old forms stay refused."""
    last, lineage = view.tombstone, new.lineage
    return RunHead(
        run_id=new.run_id,
        pipeline=new.pipeline,
        version=new.version,
        fingerprint=new.fingerprint,
        status=RunStatus.QUEUED,
        step_index=lineage.index if lineage else 0,
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
        idempotency_key=new.idempotency_key,
        priority=new.priority,
        on_change=new.on_change,
        concurrency_key=new.concurrency_key,
        parent_run_id=new.parent_run_id,
        parent_path=new.parent_path,
        derived_from=lineage.run_id if lineage else "",
        derived_at=lineage.step if lineage else "",
        started_by=actor,
        secrets=new.secrets,
    )


def _check_same(head: RunHead, new: NewRun) -> None:
    same_input = head.input_digest == canonical.digest(new.input)
    if new.idempotency_key and head.idempotency_key == new.idempotency_key:
        if not same_input:
            raise another_input(head, new.idempotency_key)
        return
    if (head.pipeline, head.version) != (new.pipeline, new.version):
        raise RunConflict(
            f"Run {new.run_id} exists under {head.pipeline} {head.version}, not {new.pipeline} {new.version}. "
            "Use another run id."
        )
    if not same_input:
        raise another_input(head, "")
    lineage = new.lineage
    if lineage is not None and (head.derived_from, head.derived_at) != (lineage.run_id, lineage.step):
        raise RunConflict(f"Run {new.run_id} exists and comes from elsewhere. Use another run id.")


def _check_same_edits(view: RunView, new: NewRun) -> None:
    lineage = new.lineage
    if lineage is None or not lineage.step:
        return
    last = lineage.taken[-1] if lineage.taken else None
    stored = view.checkpoint(last.path) if last is not None else None
    if view.start.context != new.context or (last and stored and stored.context_changes != last.context_changes):
        raise RunConflict(f"Run {new.run_id} exists as a fork with another context. Use another run id.")


def another_input(head: RunHead, idempotency_key: str) -> RunConflict:
    """What a start is told that means a stored run, by its id or an idempotency key, on another input."""
    if not idempotency_key:
        return RunConflict(f"Run {head.run_id} exists with another input. Use another run id.")
    return IdempotencyConflict(
        f"The idempotency key {idempotency_key!r} started run {head.run_id} on another input. "
        "Use another key for another run."
    )


def claim(terms: ClaimTerms, *, now: datetime) -> Transition:
    """Take the lease of a queued run, or of one whose holder is gone.

    Raises `RunIsLeased` naming a live holder, `AtMaxConcurrency` where too many of its key are running,
    `PipelineChanged` under other code, and the error of its status for a run that is paused or finished.
    """

    def decide(view: RunView) -> Batch:
        head = required(view)
        _check_claimable(head, now, patient=terms.patient)
        draft = Draft(view, now)
        if not has_room(draft, terms):
            raise AtMaxConcurrency(
                f"Run {head.run_id} waits: {terms.max_concurrency} runs of {head.concurrency_key!r} are running.",
                key=head.concurrency_key,
            )
        take(draft, terms)
        return draft.batch()

    return decide


def _check_claimable(head: RunHead, now: datetime, *, patient: bool) -> None:
    holder = is_held(head, now)
    if holder is not None:
        raise RunIsLeased(
            f"Run {head.run_id} is running in {holder}; its lease ends at {head.lease_expires_at:%H:%M:%S} UTC.",
            holder=str(holder),
        )
    if head.status is RunStatus.PAUSED and not is_due(head, now) and not (patient and head.wait is Wait.RETRY):
        raise RunWaits(f"Run {head.run_id} waits at step {head.step_name!r} ({head.wait}).")
    check_unended(head)


def check_unended(head: RunHead) -> None:
    """Raise the error of its status for a run that has ended: `RunFinished`, `RunFailed`, `RunCancelled`."""
    if head.status is RunStatus.COMPLETED:
        raise RunFinished(f"Run {head.run_id} is completed.")
    if head.status is RunStatus.FAILED:
        raise RunFailed(f"Run {head.run_id} has failed: {head.error_message}. Call retry to try again.")
    if head.status is RunStatus.CANCELLED:
        raise RunCancelled(f"Run {head.run_id} was cancelled, which is final. Start a new run instead.")


def _can_go_on(view: RunView, waits: list[RunWait], now: datetime) -> bool:
    names = {wait.name for wait in waits if wait.kind in (Wait.SIGNAL, Wait.CHILD)}
    due = any(wait.due_at is not None and wait.due_at <= now for wait in waits)
    return due or (bool(names) and any(signal.name in names for signal in view.waiting_signals()))


def pause(known: set[tuple[str, int]], *, fence: int, now: datetime) -> Transition:
    """Pause a run whose branches all wait.

    The result is False when one of the `known` questions was answered meanwhile, a signal came or a timer is due:
    nothing is written, and the worker goes on with it. So too when something is due at a human task, which is recorded.
    """

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        asked, waits = view.open_human_tasks(), view.open_waits()
        late = due_alarms(asked, now)
        if late and not head.cancel_requested:
            draft = Draft(view, now)
            sound(draft, late)
            return draft.batch(result=False)
        if waiting(asked, waits) != known or head.cancel_requested or _can_go_on(view, waits, now):
            return unchanged(view, result=False)
        draft = Draft(view, now)
        pause_here(draft, asked, waits)
        draft.event(EventKind.RUN_PAUSED, waiting=len(known))
        return draft.batch(result=True)

    return decide


def cancel_here(*, fence: int, now: datetime) -> Transition:
    """Carry out a requested cancellation at a safe point."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
        return draft.batch()

    return decide


def release(*, fence: int, now: datetime) -> Transition:
    """Give the run back to the queue: this worker stops, another one goes on from the last checkpoint."""

    def decide(view: RunView) -> Batch:
        head = mine(view, fence)
        draft = Draft(view, now)
        if head.cancel_requested:  # perhaps nobody would take the run up again, only to end it
            end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED)
            return draft.batch()
        give_up_attempts(draft, AttemptOutcome.RELEASED)
        draft.set(status=RunStatus.QUEUED, holder=None, lease_expires_at=None)
        draft.event(EventKind.RUN_RELEASED)
        return draft.batch()

    return decide


def renew(*, fence: int, lease: timedelta, now: datetime) -> Transition:
    """Extend the lease, and record what is due at human tasks while a step beside them is running.

    The lease itself is no fact of the run's history, so no event is written for it.
    """

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        keep_lease(draft, lease)
        if draft.has("generation"):
            sound(draft, due_alarms(view.open_human_tasks(), now))
        return draft.batch()

    return decide
