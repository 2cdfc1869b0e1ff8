"""The plan of a move to another version of the pipeline, made before anything is written.

A saved step never runs again, so a migration can neither repeat nor reorder one, and a step is skipped only by being
given an output.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from flujo import canonical
from flujo.context import Fields, changes, fields_of, initial
from flujo.document import RunDocument
from flujo.errors import CorruptState, InvalidInput, MigrationRefused, UnstorableValue
from flujo.human import HumanStep
from flujo.migration import Migrate, Migrated, MigrationPlan, StoredRun
from flujo.paths import bare, is_note, is_top
from flujo.records import Checkpoint, HumanTask, RunHead, RunWait
from flujo.registry import RegisteredPipeline
from flujo.result import output_type
from flujo.shape import Shape
from flujo.standing import Saved, node_at, standing
from flujo.status import Wait

logger = logging.getLogger(__name__)


def plan(document: RunDocument, target: RegisteredPipeline, migrate: Migrate) -> MigrationPlan:
    """What moving the run to `target` would write; nothing is written. Raises `MigrationRefused` saying why not."""
    head = document.head
    assert head is not None  # who asks for a plan has the run
    result = _asked(document, head, migrate)
    shape = target.pipeline.shape()
    rows = [row for row in document.checkpoints() if not row.path.startswith("#")]
    saved = Saved.of(rows, dict(result.renamed), list(result.given))
    old_shape = json.loads(document.start.shape)
    index = standing(saved, old_shape, shape, choices=_choices(rows))
    _check_turned(document, target, saved, index)
    copies = [_copy(row, saved.path_of(row.path)) for row in rows if saved.path_of(row.path) != row.path]
    inserts = [*copies, *_given(head, target, result.given)]
    _check_outputs(target, [row for row in rows if row not in saved.renamed_rows] + inserts, document)
    context = _context(document, target, result.context)
    positions = {node["name"]: number for number, node in enumerate(shape)}
    closes, kept = _open_rows(document, target, saved, (old_shape, shape))
    names = [node["name"] for node in shape]
    known = {saved.path_of(node["name"]) for node in old_shape}
    return MigrationPlan(
        run_id=head.run_id,
        seq=head.seq,
        before=(head.version, head.fingerprint),
        after=(target.version, target.fingerprint),
        step_index=index,
        step_count=len(shape),
        step_name=names[index] if index < len(names) else "",
        start=dataclasses.replace(document.start, shape=canonical.dump(shape)),
        inserts=[_placed(row, positions) for row in inserts],
        updates=[row for old in [*rows, *kept] if (row := _placed(old, positions)) != old],
        closes=closes,
        renamed=dict(result.renamed),
        given=list(result.given),
        context_changes=context,
        removed=[node["name"] for node in old_shape[head.step_index :] if saved.path_of(node["name"]) not in names],
        added=[name for name in names[index:] if name not in known],
    )


def _asked(document: RunDocument, head: RunHead, migrate: Migrate) -> Migrated:
    rows = [row for row in document.checkpoints() if not is_note(row.path)]
    given = StoredRun(
        run_id=head.run_id,
        version=head.version,
        next_step=head.step_name,
        input=json.loads(document.start.input),
        context=document.context(),
        outputs={row.path: json.loads(row.output) for row in rows},
    )
    try:
        result = migrate(given)
    except Exception as error:  # the seam to user code
        # What it says may quote values, and this message is kept and shown to whoever sees the run.
        logger.exception("The migration of run %s failed.", head.run_id)
        raise MigrationRefused(
            f"The migration of run {head.run_id} failed with {type(error).__name__}; the program's log says more."
        ) from error
    if result is not None and not isinstance(result, Migrated):
        raise MigrationRefused(f"A migration gives Migrated(…) or None, not {type(result).__name__}.")
    return result or Migrated()


def _check_turned(document: RunDocument, target: RegisteredPipeline, saved: Saved, index: int) -> None:
    """A no stands, and so does a deadline that led another way: the new version has the gate, and the way."""
    for path in sorted({task.path for task in document.human_tasks()}):
        top = bare(path).partition("/")[0]
        if not document.turned_away(path) or path in saved.seqs or saved.path_of(top) in saved.seqs:
            continue
        gate = target.pipeline.find(path)
        routes = isinstance(gate, HumanStep) and (gate.on_reject is not None or gate.timetable.steps is not None)
        here = [node.name for node in target.pipeline.nodes[index : index + 1]] == [top]
        if not (routes and here) or saved.is_renamed(path):
            raise MigrationRefused(f"{path} turned the run away: the new version must go on with what follows that.")


def _choices(rows: list[Checkpoint]) -> dict[str, str]:
    return {row.path.removesuffix("#choice"): json.loads(row.output) for row in rows if row.path.endswith("#choice")}


def _copy(row: Checkpoint, path: str) -> Checkpoint:
    """The same result under its new path; at the top the old row still makes its changes of the context."""
    changes_ = None if is_top(row.path) else row.context_changes
    return dataclasses.replace(row, path=path, name=bare(path).rpartition("/")[2], context_changes=changes_)


def _given(head: RunHead, target: RegisteredPipeline, given: Mapping[str, Any]) -> list[Checkpoint]:
    rows = []
    for path, value in given.items():
        node = target.pipeline.find(path)
        if node is None or not is_top(path):
            raise MigrationRefused(f"{path!r} is given an output, but {target.name} {target.version} has no such step.")
        try:
            plain = canonical.encode(value, where=path)
            annotation = output_type(target.pipeline, path)
            output = canonical.encode(canonical.decode(plain, annotation), annotation, where=path)
        except (CorruptState, UnstorableValue) as error:
            raise MigrationRefused(f"The output given to {path!r} does not fit its type.") from error
        moment = head.updated_at
        rows.append(Checkpoint(head.run_id, path, path, 0, 0, head.fence, 0, output, None, moment, moment))
    return rows


def _check_outputs(target: RegisteredPipeline, rows: list[Checkpoint], document: RunDocument) -> None:
    """What the steps that are left will read must have the types they ask for."""
    checked: list[tuple[str, str, Any]] = [
        (row.path, row.output, output_type(target.pipeline, row.path)) for row in rows if not is_note(row.path)
    ]
    if not rows and target.input_type is not None:
        checked.append(("the input", document.start.input, target.input_type))
    for path, text, annotation in checked:
        try:
            canonical.decode(text, annotation)
        except CorruptState as error:
            raise MigrationRefused(f"What was saved for {path} does not fit its new type.") from error


def _context(document: RunDocument, target: RegisteredPipeline, context: Mapping[str, Any] | None) -> Fields:
    before = document.context()
    wanted = {**(before if context is None else context), "run_id": document.run_id}
    try:
        after = fields_of(initial(target.context_model, wanted))
    except (InvalidInput, UnstorableValue, ValidationError) as error:
        raise MigrationRefused(f"The new version's context does not take it: {error}") from error
    return changes({**before, "run_id": document.run_id}, after)


def _placed(row: Any, positions: dict[str, int]) -> Any:
    """The row with the top-level position that it has in the new version."""
    top = bare(row.path).partition("/")[0]
    return dataclasses.replace(row, position=positions.get(top, row.position))


Shapes = tuple[Shape, Shape]


def _open_rows(
    document: RunDocument, target: RegisteredPipeline, saved: Saved, shapes: Shapes
) -> tuple[list[HumanTask | RunWait], list[HumanTask]]:
    """The open questions and waits that begin again, and the questions that stay as they were shown."""
    closes: list[HumanTask | RunWait] = []
    kept: list[HumanTask] = []
    for task in document.open_human_tasks():
        node = target.pipeline.find(task.path)
        same = isinstance(node, HumanStep) and _same_around(task.path, shapes) and not saved.is_renamed(task.path)
        (kept if same else closes).append(task)
    for wait in document.open_waits():
        node = target.pipeline.find(wait.path)
        if node is None or node.kind != _kind(shapes[0], wait.path) or saved.is_renamed(wait.path):
            closes.append(wait)
            if wait.kind is Wait.CHILD:
                raise MigrationRefused(f"{wait.path} waits for its child {wait.name}, which the new version would not.")
    return closes, kept


def _same_around(path: str, shapes: Shapes) -> bool:
    """Whether the question's place is what the person was told: between the same steps, in the same construct."""
    top = bare(path).partition("/")[0]
    told = []
    for shape in shapes:
        names = [node["name"] for node in shape]
        if top not in names:
            return False
        index = names.index(top)
        told.append((names[:index][-1:], shape[index], names[index + 1 :][:1]))
    return told[0] == told[1]


def _kind(shape: Shape, path: str) -> str:
    node = node_at(shape, bare(path))
    return "" if node is None else str(node["kind"])
