"""What the end of a human task does to its run, whether a person answered or its deadline passed."""

from __future__ import annotations

from flujo.batch import Draft
from flujo.paths import is_top
from flujo.records import Checkpoint, HumanTask
from flujo.status import RunStatus, Wait
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


def wake(draft: Draft, claim: ClaimTerms | None) -> None:
    """Let a waiting run go on: `queued`, or with `claim` taken by this worker."""
    if draft.head.status is not RunStatus.PAUSED or draft.head.wait is Wait.OPERATOR:
        return  # a sibling branch is still running, or the run is parked: whoever goes on with it finds the answer
    take_or_queue(draft, claim)
