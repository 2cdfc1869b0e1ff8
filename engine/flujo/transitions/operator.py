"""Operator writes: a person's decision, cancellation, retry or deletion, checked against what the run is now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flujo import canonical
from flujo.batch import Batch, Draft, RunView, Transition, required, unchanged
from flujo.codec import isoformat
from flujo.deadlines import is_late
from flujo.errors import (
    AlreadyDecided,
    DeadlinePassed,
    HumanTaskClosed,
    HumanTaskNotFound,
    IllegalTransition,
    InvalidInput,
    RunActive,
    RunCancelled,
    RunFinished,
    StaleDecision,
)
from flujo.lease import is_held
from flujo.records import Decision, HumanTask, RunHead, Signal, Tombstone, Vote
from flujo.status import DecisionOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait
from flujo.transitions.alarms import expired, sound
from flujo.transitions.gates import pass_gate, turned, wake
from flujo.transitions.rules import ClaimTerms, end, lose_attempts, take_or_queue
from flujo.transitions.votes import Counts, cast, check_four_eyes, everyone, repeated

CHILD_MESSAGE = "child "
"""How the ids of the messages begin by which runs hear of the end of their children."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A person's answer to one generation of a human task, whose digest covers what was shown.

    `data` is the canonical JSON of the validated answer (`null` for a rejection). The same non-empty `key` with the
    same answer gives the first result again.
    """

    path: str
    generation: int
    digest: str
    outcome: DecisionOutcome
    data: str
    actor: str
    reason: str
    channel: str
    key: str


def decide(
    answer: Answer,
    *,
    now: datetime,
    claim: ClaimTerms | None,
    facts: dict[str, Any],
    counts: Counts = everyone,
) -> Transition:
    """Record the decision and let the run go on: `queued`, or with `claim` taken by this worker.

    A yes to a request with a quorum is a vote: the result is the `Vote` until enough people whose vote `counts` have
    given the same answer, and the last vote makes the decision. A rejection ends it at once.

    `now` decides whether the answer is in time. One that comes after the deadline, but before anybody recorded that it
    passed, records just that; the result is then the `HumanTaskExpired` that the caller raises. Raises
    `HumanTaskNotFound`, `AlreadyDecided` (with who and when), `HumanTaskClosed`, `HumanTaskExpired`, `StaleDecision`,
    `NotAllowed` under four eyes, `InvalidInput` for a vote of nobody.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        task = view.human_task(answer.path)
        if task is None:
            raise HumanTaskNotFound(f"Run {head.run_id} asks nothing at {answer.path!r}.")
        earlier = view.decision(answer.path, answer.generation)
        if earlier is not None:
            repeated = _repeated(view, task, answer) if earlier.actor != answer.actor else None
            return unchanged(view, result=repeated or _same_or_refuse(earlier, answer))
        _check_open(task, answer)
        if is_late(task, now):
            late = Draft(view, now)  # the deadline is nobody's act
            over = sound(late, [task])[0]
            return late.batch(result=expired(over.closed_reason, over.closed_at))
        draft = Draft(view, now, actor=answer.actor)
        check_four_eyes(draft, task, answer.actor)
        agreed: list[str] | None = []
        if task.quorum > 1 and answer.outcome is DecisionOutcome.APPROVED:
            vote = _vote(task, answer, now)
            agreed = cast(draft, task, vote, counts, facts)
            if agreed is None:
                return draft.batch(result=_repeated(view, task, answer) or vote)
        decision = _record(draft, task, answer, facts | ({"votes": agreed} if agreed else {}))
        if answer.outcome is DecisionOutcome.APPROVED:
            pass_gate(draft, task, answer.data)
        elif task.routes_rejection:
            turned(draft, task, Outcome.REJECTED)
        else:
            _end_rejected(draft, task)
            return draft.batch(result=decision)
        wake(draft, claim)
        return draft.batch(result=decision)

    return transition


def _vote(task: HumanTask, answer: Answer, now: datetime) -> Vote:
    return Vote(
        run_id=task.run_id,
        path=task.path,
        generation=task.generation,
        actor=answer.actor,
        data=answer.data,
        reason=answer.reason,
        channel=answer.channel,
        idempotency_key=answer.key,
        voted_at=now,
    )


def _repeated(view: RunView, task: HumanTask, answer: Answer) -> Vote | None:
    """The vote that this answer gives again."""
    if task.quorum == 1 or answer.outcome is not DecisionOutcome.APPROVED or task.generation != answer.generation:
        return None
    return repeated(view.votes(task.path, task.generation), _vote(task, answer, task.raised_at))


def _same_or_refuse(earlier: Decision, answer: Answer) -> Decision:
    same_answer = (earlier.outcome, earlier.data) == (answer.outcome, answer.data)
    if answer.key and earlier.idempotency_key == answer.key and same_answer and earlier.actor == answer.actor:
        return earlier
    raise AlreadyDecided(
        f"{earlier.actor or 'Someone'} already {earlier.outcome.value} this at {earlier.decided_at:%H:%M:%S} UTC; "
        "that decision stands.",
        decided_by=earlier.actor,
        decided_at=earlier.decided_at,
        outcome=earlier.outcome,
    )


def _check_open(task: HumanTask, answer: Answer) -> None:
    if task.status is TaskStatus.EXPIRED:
        raise expired(task.closed_reason, task.closed_at)
    if task.status is TaskStatus.CLOSED:
        raise HumanTaskClosed(f"This request is closed: {task.closed_reason}.", closed_at=task.closed_at)
    if answer.generation != task.generation or answer.digest != task.digest:
        raise StaleDecision("The request changed since it was shown. Read it again, then decide.")
    if task.status is not TaskStatus.OPEN:
        raise HumanTaskClosed("This request is no longer open.")


def _record(draft: Draft, task: HumanTask, answer: Answer, facts: dict[str, Any]) -> Decision:
    decision = Decision(
        run_id=task.run_id,
        path=task.path,
        generation=task.generation,
        outcome=answer.outcome,
        data=answer.data,
        actor=draft.actor,
        reason=answer.reason,
        channel=answer.channel,
        idempotency_key=answer.key,
        decided_at=draft.now,
    )
    draft.insert(decision)
    draft.update(dataclasses.replace(task, status=TaskStatus.DECIDED, closed_at=draft.now))
    draft.event(
        EventKind.DECISION_RECORDED,
        task.path,
        generation=task.generation,
        digest=task.digest,
        outcome=answer.outcome.value,
        data_digest=canonical.digest(answer.data),
        reason=answer.reason,
        **{"channel": answer.channel, **facts},
    )
    return decision


def _end_rejected(draft: Draft, task: HumanTask) -> None:
    draft.set(outcome=Outcome.REJECTED)
    end(draft, RunStatus.CANCELLED, EventKind.RUN_REJECTED, path=task.path)


def receive(
    name: str, data: str, *, message_id: str, actor: str, now: datetime, claim: ClaimTerms | None, facts: dict[str, Any]
) -> Transition:
    """Store a signal and wake a run that waits for it; `data` is canonical JSON.

    The same `message_id` again changes nothing: the result is False. A signal may come before its wait. Raises
    `RunFinished`, and `InvalidInput` for an id by which the engine tells of the end of a child.
    """
    if message_id.startswith(CHILD_MESSAGE):
        raise InvalidInput(f"A message id does not begin with {CHILD_MESSAGE!r}: the ends of child runs have such ids.")

    def transition(view: RunView) -> Batch:
        head = required(view)
        if view.signal(message_id) is not None:
            return unchanged(view, result=False)
        if not head.active:
            raise RunFinished(f"Run {head.run_id} is {head.status.value}: it takes no more signals.")
        draft = Draft(view, now, actor=actor)
        draft.event(
            EventKind.SIGNAL_RECEIVED, name=name, message_id=message_id, data_digest=canonical.digest(data), **facts
        )
        draft.insert(Signal(head.run_id, message_id, name, data, draft.actor, draft.head.seq, now))
        if any(wait.kind is Wait.SIGNAL and wait.name == name for wait in view.open_waits()):
            wake(draft, claim)
        return draft.batch(result=True)

    return transition


def cancel(*, actor: str, reason: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Cancel a waiting run, or one whose worker is gone, at once; ask a running one to stop at its next safe point.

    Asking twice changes nothing. Raises `RunCancelled`, `RunFinished`.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        if head.status is RunStatus.CANCELLED:
            raise RunCancelled(f"Run {head.run_id} is cancelled already.")
        if not head.active:
            raise RunFinished(f"Run {head.run_id} is {head.status.value}: there is nothing to cancel.")
        held = is_held(head, now) is not None
        if held and head.cancel_requested:
            return unchanged(view)
        draft = Draft(view, now, actor=actor)
        if held:
            draft.set(cancel_requested=True)
            draft.event(EventKind.RUN_CANCEL_REQUESTED, reason=reason, **facts)
            return draft.batch()
        if head.status is RunStatus.RUNNING:
            lose_attempts(draft)
        because = f"the run was cancelled by {actor or 'its program'}"
        end(draft, RunStatus.CANCELLED, EventKind.RUN_CANCELLED, closing=because, reason=reason, **facts)
        return draft.batch()

    return transition


def retry(*, actor: str, reason: str, now: datetime, claim: ClaimTerms | None, facts: dict[str, Any]) -> Transition:
    """Let a failed run try its failed step again, with all its retries."""

    def transition(view: RunView) -> Batch:
        head = required(view)
        if head.status is not RunStatus.FAILED:
            raise IllegalTransition(f"Run {head.run_id} is {head.status.value}: only a failed run can be retried.")
        draft = Draft(view, now, actor=actor)
        draft.set(
            status=RunStatus.QUEUED,
            round=head.round + 1,
            finished_at=None,
            error_type="",
            error_message="",
            cancel_requested=False,
            outcome=None if head.error_type == DeadlinePassed.__name__ else head.outcome,
        )
        draft.event(EventKind.RUN_RETRIED, reason=reason, round=draft.head.round, **facts)
        take_or_queue(draft, claim)
        return draft.batch()

    return transition


def purge(
    *,
    actor: str,
    reason: str,
    now: datetime,
    facts: dict[str, Any],
    allowed: Callable[[RunHead], str | None] = lambda head: None,
) -> Transition:
    """Delete a terminal run's rows; its audit events stay, and a tombstone answers for it.

    `allowed` is asked inside the transaction and names the reason to keep the run, if there is one. Raises `RunActive`.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        if head.active:
            raise RunActive(f"Run {head.run_id} is {head.status.value} and cannot be deleted. Cancel it first.")
        if head.untold:
            raise IllegalTransition(f"Run {head.run_id} is kept until its parent and its children know of its end.")
        kept_because = allowed(head)
        if kept_because:
            raise IllegalTransition(kept_because)
        draft = Draft(view, now, actor=actor)
        draft.event(
            EventKind.RUN_PURGED,
            reason=reason,
            status=head.status.value,
            pipeline=head.pipeline,
            version=head.version,
            created_at=isoformat(head.created_at),
            **facts,
        )
        after = draft.head
        write = draft.insert if view.tombstone is None else draft.update
        write(Tombstone.of(after, now=now, actor=actor, reason=reason))
        batch = draft.batch()
        batch.head = None
        return batch

    return transition
