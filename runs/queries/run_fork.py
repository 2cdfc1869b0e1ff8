"""What the page says before a run is forked: where it can begin, what runs again, and the context as it was there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from flujo import lineage
from flujo.context import Fields
from flujo.document import RunDocument
from flujo.errors import IllegalTransition, KeyMissing
from flujo.redaction import Secrets
from flujo.status import ACTIVE

from runs import access
from runs.models import Run
from runs.queries.run_header import RunHeader, header, no_fork, not_granted
from runs.registry import registry
from runs.secrets import secrets_of
from runs.state_backend import DjangoBackend

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
    """The page of `run` for `user`, with `step` chosen."""
    head, why_not = header(user, run), not_granted(user, "fork", run) or no_fork(run)
    try:
        document = DjangoBackend().load_now(run.pk) if head.known else None
    except KeyMissing as error:
        return ForkPage(head, [], "", why_not or error.message)
    if document is None:
        return ForkPage(head, [], "", why_not)
    entry = registry.get(run.pipeline, run.version)
    names = [node.name for node in entry.pipeline.nodes]
    steps = [
        ForkStep(index + 1, name, NOT_REACHED if index > run.step_index else _why_not(document, names[: index + 1]))
        for index, name in enumerate(names)
    ]
    chosen = next((found for found in steps if found.name == step), None)
    if chosen is None or chosen.why_not:
        said = chosen.why_not if chosen else f"This run has no step “{step}”." if step else ""
        return ForkPage(head, steps, "", why_not, problem=said)
    shown, before = head.shows_values, lineage.context_before(document, chosen.number - 1)
    kept = _not_edited(before, secrets_of(run), lineage.secret_fields(entry.context_model))
    return ForkPage(
        header=head,
        steps=steps,
        step=step,
        why_not=why_not,
        consequences=_consequences(run, document, names, chosen.number - 1),
        before=_without(before, kept) if shown else {},
        schema=_schema(entry.secrets.mark(entry.context_model.model_json_schema()), kept) if shown else None,
        secret=lineage.secret_fields(entry.context_model) | secrets_of(run).keys,
    )


def _why_not(document: RunDocument, names: list[str]) -> str:
    try:
        lineage.check_reached(document, names)
    except IllegalTransition as error:
        return error.message
    return ""


def _consequences(run: Run, document: RunDocument, names: list[str], index: int) -> list[str]:
    said = [f"A new run begins with step {names[index]}. This one stays as it is."]
    if index:
        said.append(f"Taken over, and not run again: {', '.join(names[:index])}.")
    asked = [name for name in names[:index] if document.human_task(name) is not None]
    said += [f"The answer to {name} is taken over: nobody is asked again." for name in asked]
    begun = [name for name in names[index:] if _begun(document, name)]
    if begun:
        said.append(f"Run again, under new idempotency keys: {', '.join(begun)}. What they did outside is done again.")
    rest = [name for name in names[index:] if name not in begun]
    if rest:
        said.append(f"Run for the first time: {', '.join(rest)}.")
    if run.status in ACTIVE:
        said.append(f"This run is {run.status}: it goes on beside the new one, unless you cancel it.")
    return said


def _begun(document: RunDocument, name: str) -> bool:
    """Whether the original came so far that the step, or one inside it, may have had effects."""
    return bool(document.checkpoint(name) or document.attempts_of(name) or document.under(name))


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
