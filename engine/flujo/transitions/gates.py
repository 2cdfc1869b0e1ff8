"""What the end of a human task does to its run, whether a person answered or its deadline passed."""

from __future__ import annotations

from flujo.batch import Draft, RunView
from flujo.paths import is_top
from flujo.records import Checkpoint, HumanTask
from flujo.status import Outcome, RunStatus, Wait, turn_of
from flujo.transitions.rules import ClaimTerms, take_or_queue


def pass_gate(draft: Draft, task: HumanTask, answer: str) -> None:
    """The answer is the gate's output: its checkpoint commits together with what made it the answer."""
    head = draft.head
    draft.insert(
        Checkpoint(
            run_id=head.run_id,
            path=task.path,
            name=task.name,
            position=task.position,
            seq=head.seq,
            fence=head.fence,
            attempt=0,
            output=answer,
            context_changes=None,
            started_at=task.raised_at,
            finished_at=draft.now,
        )
    )
    if is_top(task.path):  # positions inside constructs never leak into the saved step index
        draft.set(step_index=task.position + 1, step_name=task.next_step)


def turned(draft: Draft, task: HumanTask, outcome: Outcome) -> None:
    """The run goes another way at this gate; one that is parked says so when it goes on."""
    if is_top(task.path) and draft.has("wait") is not Wait.OPERATOR:
        draft.set(outcome=outcome)


def turned_at(view: RunView, step: str) -> Outcome | None:
    """How the gate at which the run stands turned it away, if one did: what its end will be called."""
    task = view.human_task(step)
    if task is None or view.checkpoint(step) is not None:
        return None
    decision = view.decision(step, task.generation)
    return turn_of(task.status, task.at_deadline, decision.outcome if decision else None)


def wake(draft: Draft, claim: ClaimTerms | None) -> None:
    """Let a waiting run go on: `queued`, or with `claim` taken by this worker."""
    if draft.head.status is not RunStatus.PAUSED or draft.head.wait is Wait.OPERATOR:
        return  # a sibling branch is still running, or the run is parked: whoever goes on with it finds the answer
    take_or_queue(draft, claim)
