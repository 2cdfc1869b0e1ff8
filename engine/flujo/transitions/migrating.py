"""Moving an unfinished run to another version of its pipeline, as it was planned."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from flujo import canonical
from flujo.batch import Batch, Draft, RunView, Transition, required
from flujo.errors import Fenced, RunFinished, RunIsLeased
from flujo.lease import is_held
from flujo.migration import MigrationPlan
from flujo.records import HumanTask, RunHead
from flujo.status import EventKind, Outcome, RunStatus, WaitStatus
from flujo.transitions.gates import turned_at
from flujo.transitions.parking import is_parked
from flujo.transitions.rules import close_task, lose_attempts


def migrate(plan: MigrationPlan, *, actor: str, now: datetime, facts: dict[str, Any]) -> Transition:
    """Write a plan: a waiting or parked run is queued under its new version, a failed one stays failed.

    Raises `Fenced` when the run changed since the plan was made, `RunIsLeased`, `RunFinished`.
    """

    def transition(view: RunView) -> Batch:
        head = required(view)
        _check(head, plan, now)
        draft = Draft(view, now, actor=actor)
        if head.status is RunStatus.RUNNING:
            lose_attempts(draft)
        for row in plan.closes:
            if isinstance(row, HumanTask):
                close_task(draft, row, f"the run was migrated to {plan.after[0]}, which asks again")
            else:
                draft.update(dataclasses.replace(row, status=WaitStatus.CLOSED, ended_at=now))
        draft.set(
            version=plan.after[0],
            fingerprint=plan.after[1],
            step_index=plan.step_index,
            step_count=plan.step_count,
            step_name=plan.step_name,
            **_freed(view, head),
        )
        _record(draft, plan, facts)
        return draft.batch()

    return transition


def _check(head: RunHead, plan: MigrationPlan, now: datetime) -> None:
    holder = is_held(head, now)
    if holder is not None:
        raise RunIsLeased(f"Run {head.run_id} is running in {holder}. Migrate it when it waits.")
    if not head.active and head.status is not RunStatus.FAILED:
        raise RunFinished(f"Run {head.run_id} is {head.status.value}: there is nothing left to migrate.")
    if head.seq != plan.seq:
        raise Fenced(f"Run {head.run_id} changed while its migration was planned. Nothing was written.")


def _freed(view: RunView, head: RunHead) -> dict[str, Any]:
    """What changes of a run that goes on; whoever takes it waits again for what is still open."""
    if head.status is RunStatus.FAILED:
        return {}
    freed: dict[str, Any] = {
        "status": RunStatus.QUEUED,
        "wait": None,
        "wake_at": None,
        "holder": None,
        "lease_expires_at": None,
    }
    if is_parked(head):
        freed |= {"error_type": "", "error_message": ""}
    return freed | ({"outcome": turned_at(view, head.step_name)} if head.outcome is Outcome.NEEDS_ATTENTION else {})


def _record(draft: Draft, plan: MigrationPlan, facts: dict[str, Any]) -> None:
    draft.event(
        EventKind.RUN_MIGRATED,
        from_version=plan.before[0],
        from_fingerprint=plan.before[1],
        to_version=plan.after[0],
        to_fingerprint=plan.after[1],
        renamed=plan.renamed,
        given=plan.given,
        never_run=plan.removed,
        new_steps=plan.added,
        context_digest=canonical.digest(canonical.dump(plan.context_changes)),
        **facts,
    )
    head = draft.head
    for row in plan.inserts:
        draft.insert(row if row.seq else dataclasses.replace(row, seq=head.seq))
    context = plan.context_row(head)
    if context is not None:
        draft.insert(context)
    draft.update(plan.start)
    for changed in plan.updates:
        draft.update(changed)
