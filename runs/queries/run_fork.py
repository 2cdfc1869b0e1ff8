"""What the page says before a run is forked: where it can begin, what runs again, and the context as it was there."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q
from flujo import lineage
from flujo.context import Fields
from flujo.errors import IllegalTransition
from flujo.paths import MIGRATION
from flujo.redaction import Secrets
from flujo.status import ACTIVE, turn_of

from runs import access
from runs.encryption import Sealed
from runs.models import Attempt, Checkpoint, Decision, HumanTask, Run, RunInput
from runs.queries.run_header import RunHeader, header, no_code, not_granted
from runs.registry import registry
from runs.secrets import secrets_of

NOT_REACHED = "This run has not come so far."


@dataclass(frozen=True, slots=True)
class ForkStep:
    """A top-level step; `why_not` says why a fork cannot begin with it."""

    number: int
    name: str
    why_not: str


@dataclass(frozen=True, slots=True)
class ForkPage:
    """`step` is "" until one is chosen. `schema` describes the fields of the context, None where none can be edited."""

    header: RunHeader
    steps: list[ForkStep]
    step: str
    why_not: str
    problem: str = ""
    consequences: list[str] = field(default_factory=list)
    before: Fields = field(default_factory=dict)
    schema: dict[str, Any] | None = None
    secret: Collection[str] = ()


def page(user: access.User, run: Run, step: str) -> ForkPage:
    """The page of `run` for `user`, with `step` chosen. Of what the run's steps gave, nothing is read."""
    head, why_not = header(user, run), not_granted(user, "fork", run) or no_code(run)
    start = RunInput.objects.filter(run=run).values_list("context", flat=True).first()
    if not head.known or start is None or isinstance(start, Sealed):
        return ForkPage(head, [], "", why_not or str(start or ""))
    entry = registry.get(run.pipeline, run.version)
    names = [node.name for node in entry.pipeline.nodes]
    steps = _steps(run, names)
    chosen = next((found for found in steps if found.name == step), None)
    if chosen is None or chosen.why_not:
        said = chosen.why_not if chosen else f"This run has no step “{step}”." if step else ""
        return ForkPage(head, steps, "", why_not, problem=said)
    shown, deltas = head.shows_values, _deltas(run, names[: chosen.number - 1])
    sealed = next((text for text in deltas if isinstance(text, Sealed)), None)
    if sealed is not None:
        return ForkPage(head, steps, "", why_not or str(sealed))
    before = lineage.folded(json.loads(start), deltas)
    kept = _not_edited(before, secrets_of(run), lineage.secret_fields(entry.context_model))
    return ForkPage(
        header=head,
        steps=steps,
        step=step,
        why_not=why_not,
        consequences=_consequences(run, names, chosen.number - 1),
        before=_without(before, kept) if shown else {},
        schema=_schema(entry.secrets.mark(entry.context_model.model_json_schema()), kept) if shown else None,
        secret=lineage.secret_fields(entry.context_model) | secrets_of(run).keys,
    )


def _steps(run: Run, names: list[str]) -> list[ForkStep]:
    """The top-level steps, each with why a fork cannot begin with it."""
    migrations = Checkpoint.objects.filter(run=run, path__startswith=MIGRATION)
    migrated = list(migrations.values_list("position", flat=True))
    turned_away = _turned_away(run, names)
    steps = []
    for number, name in enumerate(names, 1):
        why_not = NOT_REACHED if number - 1 > run.step_index else ""
        try:
            if not why_not:
                lineage.check_reached(run, names[:number], migrated=migrated, turned_away=turned_away)
        except IllegalTransition as error:
            why_not = error.message
        steps.append(ForkStep(number, name, why_not))
    return steps


def _turned_away(run: Run, names: list[str]) -> set[str]:
    """The gates among the top-level steps that led another way."""
    decided = Decision.objects.filter(run=run, path__in=names).values_list("path", "generation", "outcome")
    outcomes = {(path, generation): outcome for path, generation, outcome in decided}
    asked = HumanTask.objects.filter(run=run, path__in=names).order_by("generation")
    turns = {
        path: turn_of(status, at_deadline, outcomes.get((path, generation)))
        for path, generation, status, at_deadline in asked.values_list("path", "generation", "status", "at_deadline")
    }
    return {path for path, turn in turns.items() if turn is not None}


def _deltas(run: Run, names: list[str]) -> list[str | None]:
    """What the first top-level steps, and migrations among them, changed in the context; one by one, as saved."""
    counted = Q(path__in=names) | Q(path__startswith=MIGRATION, position__lt=len(names))
    saved = Checkpoint.objects.filter(counted, run=run, context_changes__isnull=False).order_by("seq")
    return list(saved.values_list("context_changes", flat=True))


def _consequences(run: Run, names: list[str], index: int) -> list[str]:
    said = [f"A new run begins with step {names[index]}. This one stays as it is."]
    if index:
        said.append(f"Taken over, and not run again: {', '.join(names[:index])}.")
    asked = set(HumanTask.objects.filter(run=run, path__in=names[:index]).values_list("path", flat=True))
    said += [f"The answer to {name} is taken over: nobody is asked again." for name in names if name in asked]
    reached = run.step_index + _begun(run)
    if again := names[index:reached]:
        what = "What it did" if len(again) == 1 else "What they did"
        said.append(f"Run again, under new idempotency keys: {', '.join(again)}. {what} outside is done again.")
    if first := names[max(index, reached) :]:
        said.append(f"Run for the first time: {', '.join(first)}.")
    if run.status in ACTIVE:
        said.append(f"This run is {run.status}: it goes on beside the new one, unless you cancel it.")
    return said


def _begun(run: Run) -> bool:
    """Whether the step that the run stands at, or one inside it, may have had effects."""
    under = Q(path=run.step_name)
    for mark in "/[#":
        under |= Q(path__startswith=f"{run.step_name}{mark}")
    return any(rows.objects.filter(under, run=run).exists() for rows in (Attempt, Checkpoint))


def _not_edited(fields: Fields, secrets: Secrets, hides: Collection[str]) -> set[str]:
    """The fields that stay as they are: the id, and those with something secret in them that the form does not hide."""
    known = {*secrets.keys, *hides}
    return {"run_id"} | {n for n, value in fields.items() if n not in known and secrets.hide(value) != value}


def _without(fields: Fields, names: set[str]) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}


def _schema(schema: dict[str, Any], kept: set[str]) -> dict[str, Any] | None:
    """The schema of the fields that can be edited."""
    properties = _without(schema["properties"], kept)
    if not properties:
        return None
    required = [name for name in schema.get("required", []) if name in properties]
    return {**schema, "title": "", "description": "", "properties": properties, "required": required}
