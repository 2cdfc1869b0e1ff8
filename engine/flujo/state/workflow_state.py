"""A run's whole state as one JSON-ready dictionary: what the three abstract methods of a backend exchange."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flujo import canonical
from flujo.batch import GENESIS, Link, next_event
from flujo.document import RunDocument
from flujo.errors import CorruptState
from flujo.records import RunHead, RunInput, Tombstone
from flujo.status import EventKind, RunStatus, Wait


class WorkflowState(BaseModel):
    """The state of a run. `current_step_index` is the top-level position of the next step, 0…n.

    `rows` holds everything else (steps, attempts, human tasks, decisions, audit events), by table; a backend stores
    and returns it untouched. A state made by hand may leave it out.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: str
    pipeline_name: str
    pipeline_version: str
    current_step_index: int = 0
    pipeline_context: dict[str, Any] = {}
    status: RunStatus = RunStatus.QUEUED
    created_at: datetime
    updated_at: datetime
    rows: dict[str, list[dict[str, Any]]] | None = None


def state_of(document: RunDocument) -> dict[str, Any]:
    """The JSON-ready dictionary of a run or of a deleted run's remains."""
    head = document.head or document.tombstone
    assert head is not None  # a document in a store has one of them
    deleted = isinstance(head, Tombstone)
    state = WorkflowState(
        run_id=document.run_id,
        pipeline_name=head.pipeline,
        pipeline_version=head.version,
        current_step_index=0 if isinstance(head, Tombstone) else head.step_index,
        pipeline_context={} if deleted else document.context(),
        status=head.status,
        created_at=head.deleted_at if isinstance(head, Tombstone) else head.created_at,
        updated_at=head.deleted_at if isinstance(head, Tombstone) else head.updated_at,
        rows=document.to_plain(),
    )
    return state.model_dump(mode="json")


def document_of(run_id: str, state: dict[str, Any]) -> RunDocument:
    """The document of a stored state. Raises `CorruptState` when the dictionary is none."""
    try:
        parsed = WorkflowState.model_validate(state)
    except ValidationError as error:
        raise CorruptState(f"The stored state of run {run_id} cannot be read: {error}") from error
    if parsed.run_id != run_id:
        raise CorruptState(f"The state stored under {run_id!r} belongs to run {parsed.run_id!r}.")
    if parsed.rows is None:
        return _imported(parsed)
    return RunDocument.from_plain(run_id, parsed.rows)


def _imported(state: WorkflowState) -> RunDocument:
    """A state made by hand becomes a run with one event that says so; its step index is kept."""
    status = RunStatus.QUEUED if state.status is RunStatus.RUNNING else state.status
    bare = RunHead(
        run_id=state.run_id,
        pipeline=state.pipeline_name,
        version=state.pipeline_version,
        fingerprint="",
        status=status,
        step_index=state.current_step_index,
        step_count=state.current_step_index,
        step_name="",
        seq=0,
        chain=GENESIS,
        fence=0,
        generation=0,
        round=0,
        input_digest=canonical.digest("null"),
        created_at=state.created_at,
        updated_at=state.updated_at,
        wait=Wait.OPERATOR if status is RunStatus.PAUSED else None,
    )
    event = next_event(
        Link(state.run_id, 0, GENESIS, 0), EventKind.RUN_IMPORTED, state.updated_at, actor="", path="", data={}
    )
    values = {name: getattr(bare, name) for name in RunHead.__dataclass_fields__}
    head = RunHead(**values | {"seq": event.seq, "chain": event.hash})
    start = RunInput(state.run_id, "null", canonical.dump(state.pipeline_context), "[]")
    return RunDocument.of(state.run_id, [head, start, event])
