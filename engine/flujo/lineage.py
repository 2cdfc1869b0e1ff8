"""Runs made from another one: a rerun on the same input, and a fork that begins behind an earlier checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from flujo import canonical
from flujo.context import Fields, PipelineContext, changes, fields_of, fold, restore
from flujo.document import RunDocument
from flujo.errors import CorruptState, IllegalTransition, InvalidInput, PipelineChanged, UnstorableValue
from flujo.paths import MIGRATION, is_top
from flujo.records import Checkpoint, RunHead
from flujo.redaction import HIDDEN, Secrets
from flujo.registry import RegisteredPipeline
from flujo.stored_type import said
from flujo.transitions import NewRun
from flujo.transitions.lineage import Lineage

LONGEST_VALUE = 500
_WRITE_ONLY = '"writeOnly": true'


def rerun_of(
    entry: RegisteredPipeline, document: RunDocument, run_id: str, *, owner: str = "", actor: str = "", reason: str = ""
) -> NewRun:
    """A new run of `entry` on the input and the initial context of a stored one.

    Raises `InvalidInput` when `entry` is another version that does not take them.
    """
    head, start = _head(document), document.start
    new = _new(entry, head, run_id, owner=owner, actor=actor, lineage=Lineage(head.run_id, reason))
    encoded = _input_for(entry, start.input)
    fields = fields_of(restore(entry.context_model, {**json.loads(start.context), "run_id": run_id}))
    return dataclasses.replace(
        new,
        input=encoded,
        context=canonical.dump(fields, where="context"),
        concurrency_key=entry.key_for(encoded),
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
    head, start = _head(document), document.start
    index = _index(entry, head, from_step)
    names = [node.name for node in entry.pipeline.nodes[: index + 1]]
    check_reached(
        head,
        names,
        migrated=[row.position for row in document.checkpoints() if row.path.startswith(MIGRATION)],
        turned_away={name for name in names if document.turned_away(name)},
    )
    rows = [row for row in document.checkpoints() if row.position < index]
    counted = [row.context_changes for row in rows if is_top(row.path) or row.path.startswith(MIGRATION)]
    before = folded(json.loads(start.context), counted)
    after = _edited(entry, before, edits)
    secrets = Secrets.of_text(head.secrets) | entry.secrets
    taken = [_taken(document, node.name) for node in entry.pipeline.nodes[:index]]
    if taken:
        delta = changes(folded(json.loads(start.context), [row.context_changes for row in taken[:-1]]), after)
        taken[-1] = dataclasses.replace(taken[-1], context_changes=canonical.dump(delta) if delta else None)
    changed = list(differences(before, after, secret=secret_fields(entry.context_model)))
    lineage = Lineage(
        run_id=head.run_id,
        reason=reason,
        step=from_step,
        index=index,
        taken=tuple(taken),
        edits=tuple(_short(edit, secrets, LONGEST_VALUE) for edit in changed),
        edits_by_digest=tuple(_short(edit, secrets, 0) for edit in changed),
        seq=head.seq,
        chain=head.chain,
    )
    first = json.loads(start.context) if taken else after
    return dataclasses.replace(
        _new(entry, head, run_id, owner=owner, actor=actor, lineage=lineage),
        input=start.input,
        context=canonical.dump({**first, "run_id": run_id}, where="context"),
        step_name=from_step,
        concurrency_key=head.concurrency_key,
    )


def _new(entry: RegisteredPipeline, head: RunHead, run_id: str, *, owner: str, actor: str, lineage: Lineage) -> NewRun:
    """A run of `entry` with the facts of another one, on nothing yet."""
    return NewRun(
        run_id=run_id,
        pipeline=entry.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        input="null",
        context="{}",
        shape=entry.pipeline.shape_text,
        step_count=len(entry.pipeline),
        step_name=entry.pipeline.nodes[0].name,
        title=head.title,
        owner=owner or head.owner,
        requester=actor,
        tags=tuple(json.loads(head.tags)),
        priority=head.priority,
        on_change=head.on_change,
        lineage=lineage,
        secrets=(Secrets.of_text(head.secrets) | entry.secrets).to_text(),
    )


def _input_for(entry: RegisteredPipeline, text: str) -> str:
    """A stored input as the first step of `entry` takes it."""
    annotation = Any if entry.input_type is None else entry.input_type
    try:
        return canonical.encode(canonical.decode(text, annotation), annotation, where="input")
    except (CorruptState, UnstorableValue) as error:
        raise InvalidInput(f"The input does not fit {entry.name} {entry.version}: {error.message}") from error


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


class Standing(Protocol):
    """The part of a run that says how far it has come."""

    @property
    def run_id(self) -> str: ...
    @property
    def step_index(self) -> int: ...
    @property
    def step_name(self) -> str: ...


def check_reached(
    head: Standing, names: Sequence[str], *, migrated: Iterable[int], turned_away: Collection[str]
) -> None:
    """Raise `IllegalTransition` unless a run can be forked at the last of these top-level steps, the first ones.

    `migrated` are the positions at which it was moved to another version, `turned_away` the gates that led another way.
    """
    if len(names) - 1 > head.step_index:
        raise IllegalTransition(
            f"Run {head.run_id} has not come to step {names[-1]!r}: it stands at {head.step_name or 'its end'!r}."
        )
    if any(position >= len(names) - 1 for position in migrated):
        raise IllegalTransition(
            f"Run {head.run_id} was migrated from another version behind step {names[-1]!r}, where its context was "
            f"another. Fork from {head.step_name!r}, or rerun it."
        )
    turned = next((name for name in names[:-1] if name in turned_away), None)
    if turned is not None:
        raise IllegalTransition(
            f"Run {head.run_id} was turned away at step {turned!r}: a person said no, or nobody answered in time. "
            f"A fork behind it would pass over that. Fork from {turned!r}."
        )


def folded(fields: Fields, deltas: Iterable[str | None]) -> Fields:
    """The context's fields after these changes, each as its checkpoint holds them."""
    for delta in deltas:
        if delta:
            fields = fold(fields, json.loads(delta))
    return fields


def differences(before: Fields, after: Fields, *, secret: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """What differs between two contexts: a JSON `pointer`, with the value `before` and `after`; None is no value.

    Objects are compared member by member, all else as a whole. The values of `secret` fields are not told.
    """
    for name in sorted(before.keys() | after.keys()):
        for pointer, old, new in _differ(before.get(name), after.get(name), _below("", name)):
            told = (HIDDEN, HIDDEN) if name in secret else (old, new)
            yield {"pointer": pointer, "before": told[0], "after": told[1]}


def _differ(before: Any, after: Any, pointer: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _differ(before.get(name), after.get(name), _below(pointer, name))
    elif canonical.dump(before) != canonical.dump(after):
        yield pointer, before, after


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def secret_fields(model: type[PipelineContext]) -> set[str]:
    """The fields of a context that are secrets, or may hold one."""
    schema = model.model_json_schema()
    deeper = _WRITE_ONLY in json.dumps(schema.get("$defs", {}))
    texts = {name: json.dumps(part) for name, part in schema["properties"].items()}
    return {name for name, text in texts.items() if _WRITE_ONLY in text or (deeper and "$ref" in text)}


def _short(edit: dict[str, Any], secrets: Secrets, longest: int) -> dict[str, Any]:
    """An edit as the audit keeps it: values of more letters than `longest` by their digest, secret ones not at all."""
    pointer = edit["pointer"]
    if secrets.keys & set(pointer.split("/")):
        return {"pointer": pointer, "before": HIDDEN, "after": HIDDEN}
    return {name: value if name == "pointer" else _text(secrets.hide(value), longest) for name, value in edit.items()}


def _text(value: Any, longest: int) -> Any:
    text = canonical.dump(value)
    return value if len(text) <= longest or value == HIDDEN else f"sha256:{canonical.digest(text)}"


def _edited(entry: RegisteredPipeline, before: Fields, edits: Fields) -> Fields:
    if "run_id" in edits:
        message = "The id of a run is not edited."
        raise InvalidInput(f"run_id: {message}", errors=[{"loc": ("run_id",), "msg": message, "type": "run_id"}])
    merged = dict(before)
    for name, value in edits.items():
        merged[name] = json.loads(_taken_from_outside(entry.context_model, name, value))
    return fields_of(restore(entry.context_model, merged)) if edits else before


def _taken_from_outside(model: type[PipelineContext], name: str, value: Any) -> str:
    """One edited field as it is stored; a field that is not declared is left for the whole context to refuse."""
    declared = model.model_fields.get(name)
    annotation = Any if declared is None else declared.annotation
    try:
        return canonical.take(value, annotation, where=name)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        errors = [{**each, "loc": (name, *each["loc"])} for each in found]
        raise InvalidInput(f"The context does not fit {model.__name__}: {said(error, name)}", errors=errors) from error
    except UnstorableValue as error:
        refused = {"loc": (name,), "msg": error.message, "type": error.code}
        raise InvalidInput(error.message, errors=[refused]) from error


def _taken(document: RunDocument, name: str) -> Checkpoint:
    row = document.checkpoint(name)
    if row is None:
        raise CorruptState(f"Run {document.run_id} has lost the checkpoint of step {name!r}.")
    return row


def _head(document: RunDocument) -> RunHead:
    head = document.head
    assert head is not None  # a deleted run is refused before
    return head
