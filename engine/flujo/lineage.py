"""Runs made from another one: a rerun on the same input, and a fork that begins behind an earlier checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from flujo import canonical
from flujo.context import Fields, changes, fields_of, fold, initial
from flujo.document import RunDocument
from flujo.errors import CorruptState, IllegalTransition, InvalidInput, PipelineChanged
from flujo.paths import MIGRATION, is_top
from flujo.records import Checkpoint, RunHead
from flujo.registry import RegisteredPipeline
from flujo.start import new_run
from flujo.transitions import NewRun
from flujo.transitions.lineage import Lineage

LONGEST_VALUE = 500


def rerun_of(
    entry: RegisteredPipeline, document: RunDocument, run_id: str, *, owner: str = "", actor: str = "", reason: str = ""
) -> NewRun:
    """A new run of `entry` on the input and the initial context of a stored one.

    Raises `InvalidInput` when `entry` is another version that does not take them.
    """
    head = _head(document)
    return dataclasses.replace(
        new_run(
            entry,
            json.loads(document.start.input),
            {**json.loads(document.start.context), "run_id": run_id},
            title=head.title,
            owner=owner or head.owner,
            requester=actor,
            tags=json.loads(head.tags),
            priority=head.priority,
            on_change=head.on_change,
        ),
        lineage=Lineage(head.run_id, reason),
    )


def fork_of(
    entry: RegisteredPipeline,
    document: RunDocument,
    run_id: str,
    *,
    from_step: str,
    edits: Fields,
    owner: str = "",
    actor: str = "",
    reason: str = "",
) -> NewRun:
    """A new run that begins with the top-level step `from_step`, behind the checkpoints of the steps before it.

    It has their outputs and the context as it was there, with `edits` set in it. Raises `PipelineChanged` under another
    fingerprint, `InvalidInput` for a step that the pipeline does not have and for edits that its context refuses, and
    `IllegalTransition` for a step that the run has not come to, or one behind a gate that turned it away.
    """
    head = _head(document)
    index = _index(entry, head, from_step)
    check_reached(document, [node.name for node in entry.pipeline.nodes[: index + 1]])
    before = context_before(document, index)
    after = _edited(entry, before, edits)
    taken = [_taken(document, node.name) for node in entry.pipeline.nodes[:index]]
    start = json.loads(document.start.context) if taken else after
    if taken:
        delta = changes(_folded(start, taken[:-1]), after)
        taken[-1] = dataclasses.replace(taken[-1], context_changes=canonical.dump(delta) if delta else None)
    lineage = Lineage(
        run_id=head.run_id,
        reason=reason,
        step=from_step,
        index=index,
        taken=tuple(taken),
        edits=tuple(_short(edit) for edit in differences(before, after)),
        seq=head.seq,
        chain=head.chain,
    )
    return NewRun(
        run_id=run_id,
        pipeline=entry.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        input=document.start.input,
        context=canonical.dump({**start, "run_id": run_id}, where="context"),
        shape=document.start.shape,
        step_count=head.step_count,
        step_name=from_step,
        title=head.title,
        owner=owner or head.owner,
        requester=actor,
        tags=tuple(json.loads(head.tags)),
        priority=head.priority,
        on_change=head.on_change,
        concurrency_key=head.concurrency_key,
        lineage=lineage,
    )


def _index(entry: RegisteredPipeline, head: RunHead, step: str) -> int:
    """The position of a top-level step in the very pipeline that the run was started by."""
    if head.fingerprint != entry.fingerprint:
        raise PipelineChanged(
            f"Run {head.run_id} was started by {head.pipeline} {head.version} with the fingerprint "
            f"{head.fingerprint[:12]}, but the registered one has {entry.fingerprint[:12]}: its checkpoints may not "
            "fit. Rerun it instead."
        )
    names = [node.name for node in entry.pipeline.nodes]
    if step not in names:
        raise InvalidInput(f"{step!r} is no top-level step of {entry.name} {entry.version}: {', '.join(names)}.")
    return names.index(step)


def check_reached(document: RunDocument, names: Sequence[str]) -> None:
    """Raise `IllegalTransition` unless a run can be forked at the last of these top-level steps, the first ones."""
    head = _head(document)
    if len(names) - 1 > head.step_index:
        raise IllegalTransition(
            f"Run {head.run_id} has not come to step {names[-1]!r}: it stands at {head.step_name or 'its end'!r}."
        )
    if any(row.path.startswith(MIGRATION) and row.position >= len(names) - 1 for row in document.checkpoints()):
        raise IllegalTransition(
            f"Run {head.run_id} was migrated from another version behind step {names[-1]!r}, where its context was "
            f"another. Fork from {head.step_name!r}, or rerun it."
        )
    turned = next((name for name in names[:-1] if document.turned_away(name)), None)
    if turned is not None:
        raise IllegalTransition(
            f"Run {head.run_id} was turned away at step {turned!r}: a person said no, or nobody answered in time. "
            f"A fork behind it would pass over that. Fork from {turned!r}."
        )


def context_before(document: RunDocument, index: int) -> Fields:
    """The context's fields as they were when the top-level step at `index` began."""
    fields: Fields = json.loads(document.start.context)
    for row in document.checkpoints():
        counts = is_top(row.path) or row.path.startswith(MIGRATION)
        if row.position < index and row.context_changes and counts:
            fields = fold(fields, json.loads(row.context_changes))
    return fields


def _folded(fields: Fields, rows: Sequence[Checkpoint]) -> Fields:
    for row in rows:
        if row.context_changes:
            fields = fold(fields, json.loads(row.context_changes))
    return fields


def differences(before: Any, after: Any, pointer: str = "") -> Iterator[dict[str, Any]]:
    """What differs between two JSON values: a JSON `pointer`, with the value `before` and `after`; None is no value.

    Objects are compared member by member, all else as a whole.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            deeper = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from differences(before.get(name), after.get(name), deeper)
    elif canonical.dump(before) != canonical.dump(after):
        yield {"pointer": pointer, "before": before, "after": after}


def _short(edit: dict[str, Any]) -> dict[str, Any]:
    """An edit as the audit keeps it: large values by their digest."""
    return {name: value if name == "pointer" else _text(value) for name, value in edit.items()}


def _text(value: Any) -> Any:
    text = canonical.dump(value)
    return value if len(text) <= LONGEST_VALUE else f"sha256:{canonical.digest(text)}"


def _edited(entry: RegisteredPipeline, before: Fields, edits: Fields) -> Fields:
    if "run_id" in edits:
        message = "The id of a run is not edited."
        raise InvalidInput(f"run_id: {message}", errors=[{"loc": ("run_id",), "msg": message, "type": "run_id"}])
    if not edits:
        return before
    return fields_of(initial(entry.context_model, {**before, **edits}))


def _taken(document: RunDocument, name: str) -> Checkpoint:
    row = document.checkpoint(name)
    if row is None:
        raise CorruptState(f"Run {document.run_id} has lost the checkpoint of step {name!r}.")
    return row


def _head(document: RunDocument) -> RunHead:
    head = document.head
    assert head is not None  # a deleted run is refused before
    return head
