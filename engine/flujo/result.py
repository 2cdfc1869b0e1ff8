"""What a run has come to: its status, steps, output, context, and what it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flujo import canonical
from flujo.context import PipelineContext, restore_stored
from flujo.document import RunDocument
from flujo.errors import CorruptState
from flujo.human import HumanStep
from flujo.paths import is_note, is_top
from flujo.pipeline import Pipeline
from flujo.records import Attempt, Checkpoint, HumanTask
from flujo.registry import RegisteredPipeline
from flujo.status import AttemptOutcome, Outcome, RunStatus, Wait
from flujo.transitions.votes import leading


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of a run. `error` is `Type: message` of the last failed attempt when there is no output."""

    name: str
    path: str
    success: bool
    output: Any
    attempts: int
    error: str | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pause:
    """The question a paused run waits on; `schema` is the JSON Schema of a form, `candidates` None for anyone.

    After `due_at` it is too late to answer: `if_expired` says what is done then. `votes` of the `quorum` people who
    must give the same answer have given it.
    """

    path: str
    name: str
    generation: int
    message: str
    kind: str
    schema: dict[str, Any] | None
    candidates: list[str] | None
    digest: str
    raised_at: datetime
    due_at: datetime | None = None
    if_expired: str = ""
    votes: int = 0
    quorum: int = 1


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The state of a run when `run` or `resume` came back. `output` is the last step's, None before it ran.

    `children` are the child runs that it waits for, by the path of the step that does.
    """

    run_id: str
    status: RunStatus
    output: Any
    step_history: list[StepResult]
    final_pipeline_context: PipelineContext
    pause: Pause | None = None
    outcome: Outcome | None = None
    error: str | None = None
    pauses: list[Pause] = field(default_factory=list)
    children: dict[str, str] = field(default_factory=dict)


def result_of(entry: RegisteredPipeline, document: RunDocument) -> PipelineResult:
    """The result that a stored run has come to."""
    head = document.head
    if head is None:
        raise CorruptState(f"Run {document.run_id} has no head row.")
    rows = [row for row in document.checkpoints() if not is_note(row.path)]
    history = [step_result(entry.pipeline, row) for row in rows]
    last = [step for step in history if is_top(step.path)]
    history += list(_unfinished(document))
    pauses = [_pause(task, document) for task in document.open_human_tasks()]
    finished = head.status is RunStatus.COMPLETED and bool(last)
    return PipelineResult(
        run_id=head.run_id,
        status=head.status,
        output=last[-1].output if finished else None,
        step_history=history,
        final_pipeline_context=restore_stored(entry.context_model, {**document.context(), "run_id": head.run_id}),
        pause=pauses[0] if pauses else None,
        outcome=head.outcome,
        error=f"{head.error_type}: {head.error_message}" if head.error_type else None,
        pauses=pauses,
        children={wait.path: wait.name for wait in document.open_waits() if wait.kind is Wait.CHILD},
    )


def step_result(pipeline: Pipeline, row: Checkpoint) -> StepResult:
    """The result of a finished step, its output with the type that the step's annotation names."""
    return StepResult(
        name=row.name,
        path=row.path,
        success=True,
        output=canonical.decode(row.output, output_type(pipeline, row.path)),
        attempts=max(row.attempt, 1),
        error=None,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def output_type(pipeline: Pipeline, path: str) -> Any:
    """The annotation of what the step at `path` gives; `Any` when unknown."""
    node = pipeline.find(path)
    if isinstance(node, HumanStep):
        return node.result
    return Any if node is None else node.output


def _unfinished(document: RunDocument) -> Iterator[StepResult]:
    """Steps that were tried and have no checkpoint, with their last error."""
    last: dict[str, Attempt] = {}
    for attempt in document.attempts():
        if document.checkpoint(attempt.path) is None:
            last[attempt.path] = max(attempt, last.get(attempt.path, attempt), key=lambda a: a.number)
    for attempt in last.values():
        failed = attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.LOST)
        yield StepResult(
            name=attempt.path.rpartition("/")[2],
            path=attempt.path,
            success=False,
            output=None,
            attempts=attempt.number,
            error=f"{attempt.error_type or 'StepLost'}: {attempt.error_message}" if failed else None,
            started_at=attempt.started_at,
            finished_at=attempt.finished_at,
        )


def _pause(task: HumanTask, document: RunDocument) -> Pause:
    return Pause(
        path=task.path,
        name=task.name,
        generation=task.generation,
        message=task.message,
        kind=task.kind,
        schema=json.loads(task.schema) if task.schema else None,
        candidates=json.loads(task.candidates) if task.candidates else None,
        digest=task.digest,
        raised_at=task.raised_at,
        due_at=task.due_at,
        if_expired=task.if_expired,
        votes=leading(vote.data for vote in document.votes(task.path, task.generation)),
        quorum=task.quorum,
    )
