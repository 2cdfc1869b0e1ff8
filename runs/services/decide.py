"""Deciding a human task: one transaction from the permission to the hint, the same for every way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone
from flujo import transitions
from flujo.answers import answer_to
from flujo.batch import Batch
from flujo.errors import (
    BackendError,
    FlujoError,
    HumanTaskClosed,
    HumanTaskExpired,
    HumanTaskNotFound,
    NotAllowed,
    PipelineChanged,
    PipelineNotFound,
)
from flujo.human import HumanStep, Reject
from flujo.records import Decision, Vote
from flujo.status import DecisionOutcome, TaskStatus

from runs import access, changed_code, dispatch
from runs.models import HumanTask
from runs.registry import registry
from runs.services import site_audit
from runs.services.refusals import message_of
from runs.state_backend import DjangoBackend

if TYPE_CHECKING:
    from runs.services.origin import Origin


MOVED = "The run was just moved to another version of its pipeline. Read the request again, then decide."


def decide(
    *,
    actor: access.User,
    task_id: int,
    generation: int,
    digest: str,
    outcome: DecisionOutcome,
    data: Any,
    reason: str,
    key: str,
    origin: Origin,
) -> Decision | Vote:
    """Record `actor`'s decision on a human task and wake its run; where several must decide, first their votes.

    `data` is the JSON-ready answer, which a rejection does not need; `digest` and `generation` are those of the page
    that was shown; the same `key` with the same answer gives the first result again. Raises `HumanTaskNotFound`,
    `NotAllowed`, `AlreadyDecided` and `StaleDecision` (409), `HumanTaskClosed` and `HumanTaskExpired` (410),
    `InvalidAnswer` (422); none of them touches the pause, but a deadline that had passed unnoticed is recorded then.
    What is refused is recorded in the site's audit.
    """
    try:
        with transaction.atomic():
            task = _visible_task(actor, task_id)
            _check_open_to(actor, task)
            answer = answer_to(
                _gate(task),
                Reject(reason) if outcome is DecisionOutcome.REJECTED else data,
                path=task.path,
                generation=generation,
                digest=digest,
                actor=actor.get_username(),
                reason=reason,
                channel=origin.channel,
                key=key,
                shown=task,
            )
            decided = transitions.decide(
                answer, now=timezone.now(), claim=None, facts=origin.facts(), counts=lambda voter: _counts(voter, task)
            )
            batch = DjangoBackend().transact_now(task.run_id, decided)
            if batch.writes:
                dispatch.hint_on_commit(task.run_id)
        return _decision(batch)
    except BackendError:
        raise  # nobody was refused: the store failed
    except FlujoError as error:
        moved = isinstance(error, PipelineChanged) and _moves(task_id)
        refusal = PipelineChanged(MOVED) if moved else error
        record_refusal(actor=actor, task_id=task_id, refusal=refusal, origin=origin)
        if moved:
            raise refusal from error
        raise


def _moves(task_id: int) -> bool:
    """Whether the run is moved to another version of its pipeline, as its policy says, now that it was asked for."""
    return changed_code.settle_now(HumanTask.objects.get(pk=task_id).run_id, registry, timezone.now())


def _counts(voter: str, task: HumanTask) -> bool:
    """Whether an earlier vote still counts: its voter is active and may decide, now that the last vote is cast."""
    user = get_user_model().objects.filter(username=voter, is_active=True).first()
    return user is not None and access.may_decide(user, task) is None


def _decision(batch: Batch) -> Decision | Vote:
    """What was recorded. Raises `HumanTaskExpired` when that is the deadline: the answer came too late."""
    result: Decision | Vote | HumanTaskExpired = batch.result
    if isinstance(result, HumanTaskExpired):
        raise result
    return result


def _visible_task(actor: access.User, task_id: int) -> HumanTask:
    task = access.visible_tasks(actor).filter(pk=task_id).first()
    if task is None:
        raise HumanTaskNotFound("There is no such request, or you may not see it.")
    return task


def _check_open_to(actor: access.User, task: HumanTask) -> None:
    if task.status == TaskStatus.EXPIRED:
        raise transitions.expired(task.closed_reason, task.closed_at)
    if task.status == TaskStatus.CLOSED:
        raise HumanTaskClosed(f"This request is closed: {task.closed_reason}.", closed_at=task.closed_at)
    refusal = access.may_decide(actor, task)
    if refusal is not None:
        raise NotAllowed(refusal)


def _gate(task: HumanTask) -> HumanStep:
    """The code's human step behind a stored task. Without it the answer could not be validated, nor the run go on."""
    try:
        pipeline = registry.get(task.run.pipeline, task.run.version).pipeline
    except PipelineNotFound as error:
        raise PipelineChanged(
            f"{task.run.pipeline} {task.run.version} is not registered on this server, so the answer cannot be "
            "checked. The request stays open: deploy that version, then decide."
        ) from error
    gate = pipeline.find(task.path)
    if not isinstance(gate, HumanStep):
        raise PipelineChanged(f"{task.run.pipeline} {task.run.version} has no human task {task.path!r} any more.")
    return gate


def record_refusal(*, actor: access.User, task_id: int, refusal: FlujoError, origin: Origin) -> None:
    """Record in the site's audit that `actor` was refused, unless no run ever asked this.

    It is a transaction of its own, since the refusal rolled back the decision's. Of an answer that does not fit nothing
    is told: what its errors say may quote it.
    """
    task = HumanTask.objects.filter(pk=task_id).first()
    if task is None:
        return
    site_audit.record(
        "decision.refused",
        actor=actor.get_username(),
        run_id=task.run_id,
        origin=origin,
        path=task.path,
        code=refusal.code,
        message=message_of(refusal),
    )
