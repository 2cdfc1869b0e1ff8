"""The move of an unfinished run to another version of its pipeline, planned before anything is written.

A saved step never runs again, so a migration can neither repeat nor reorder one, and a step is skipped only by being
given an output.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from flujo import canonical
from flujo.context import Fields, changes, fields_of, initial
from flujo.document import RunDocument
from flujo.errors import CorruptState, InvalidInput, MigrationRefused, UnstorableValue
from flujo.human import HumanStep
from flujo.paths import bare, is_note, is_top, migration_path
from flujo.records import Checkpoint, HumanTask, RunHead, RunInput, RunWait
from flujo.registry import RegisteredPipeline
from flujo.result import output_type
from flujo.shape import Shape
from flujo.standing import Saved, node_at, standing
from flujo.status import Wait

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What a migration is given: where the run stands, as JSON values. `outputs` is by path."""

    run_id: str
    version: str
    next_step: str
    input: Any
    context: dict[str, Any]
    outputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration gives.

    `renamed` maps the paths of saved steps to what they are called now (without positions in maps and loops); `given`
    has outputs for steps that the run is to pass over; `context` is the whole new context, None for an unchanged one.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise `TypeError` in the migration itself, which parks the run."""
        for name in ("renamed", "given", "context"):
            value = getattr(self, name)
            if name == "context" and value is None:
                continue
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise TypeError(f"{name} is a dictionary whose keys are texts, not {type(value).__name__}.")
        if not all(isinstance(path, str) for path in self.renamed.values()):
            raise TypeError("renamed maps paths to paths.")


Migrate = Callable[[StoredRun], Migrated | None]


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would write. `seq` is that of the run it was planned on: it holds for that alone."""

    run_id: str
    seq: int
    before: tuple[str, str]
    after: tuple[str, str]
    step_index: int
    step_count: int
    step_name: str
    start: RunInput
    inserts: list[Checkpoint]
    updates: list[Checkpoint | HumanTask]
    closes: list[HumanTask | RunWait]
    renamed: dict[str, str]
    given: list[str]
    context_changes: Fields
    removed: list[str]
    added: list[str]

    def context_row(self, head: RunHead) -> Checkpoint | None:
        """The row that changes the context, if the migration does; `head` is the run after the migration's event."""
        if not self.context_changes:
            return None
        text, moment = canonical.dump(self.context_changes), head.updated_at
        name, position = f"migration to {self.after[0]}", max(self.step_index - 1, 0)
        path = migration_path(head.seq)
        return Checkpoint(head.run_id, path, name, position, head.seq, head.fence, 0, "null", text, moment, moment)

    def to_plain(self) -> dict[str, Any]:
        """What would happen, as JSON values."""
        return {
            "run_id": self.run_id,
            "from": {"version": self.before[0], "fingerprint": self.before[1]},
            "to": {"version": self.after[0], "fingerprint": self.after[1]},
            "next_step": self.step_name,
            "renamed": self.renamed,
            "given": self.given,
            "asked_again": [row.path for row in self.closes],
            "context_changes": self.context_changes,
            "never_run": self.removed,
            "new_steps": self.added,
        }


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
