"""The context of a run as it was when a step was saved, and what each step changed in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flujo.context import fold

from runs import access
from runs.encryption import Sealed
from runs.models import Checkpoint, Run, RunInput
from runs.queries.payload import HIDDEN, LARGE, Payload
from runs.queries.run_header import RunHeader, header
from runs.secrets import secrets_of


@dataclass(frozen=True, slots=True)
class Moment:
    """A saved step index; `name` is the step saved last, empty at the start."""

    index: int
    name: str
    fields_changed: int


@dataclass(frozen=True, slots=True)
class Field:
    """One top-level field, and what the step did to it: `new`, `changed`, or nothing."""

    name: str
    value: Any
    change: str
    large: int = 0


@dataclass(frozen=True, slots=True)
class ContextPage:
    """The context at `at`; `problem` is what could not be understood of the address.

    `hidden` stands in place of the fields where they are not shown.
    """

    header: RunHeader
    moments: list[Moment]
    at: Moment
    fields: list[Field]
    dropped: list[str]
    earlier: Moment | None
    later: Moment | None
    problem: str = ""
    hidden: Payload | None = None


def page(user: access.User, run: Run, at: str) -> ContextPage:
    """The context when `at` top-level steps had been saved; an empty `at` is now."""
    head = header(user, run)
    start = RunInput.objects.filter(run=run).values_list("context", flat=True).first()
    saved = list(Checkpoint.objects.filter(run=run).order_by("seq").values_list("position", "name", "context_changes"))
    hidden = _hidden([start, *(text for _, _, text in saved)]) if head.shows_values else HIDDEN
    deltas = [(position, name, _read(text)) for position, name, text in saved]
    moments = _moments(deltas)
    chosen = {str(moment.index): place for place, moment in enumerate(moments)}.get(at)
    place = len(moments) - 1 if chosen is None else chosen
    problem = "" if chosen is not None or not at else f"No step index “{at}” was saved. Shown is the newest, "
    fields, dropped = ([], []) if hidden else _fields(run, _read(start), deltas, moments[place].index)
    return ContextPage(
        header=head,
        moments=moments,
        at=moments[place],
        fields=fields,
        dropped=dropped,
        earlier=moments[place - 1] if place else None,
        later=moments[place + 1] if place + 1 < len(moments) else None,
        problem=problem and f"{problem}{moments[place].index}.",
        hidden=hidden,
    )


def _hidden(texts: list[str | None]) -> Payload | None:
    """What says that a part of the context is sealed: the others alone would add up to another one."""
    return next((Payload("sealed", value=text) for text in texts if isinstance(text, Sealed)), None)


def _read(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text and not isinstance(text, Sealed) else {}
    return found


Delta = tuple[int, str, dict[str, Any]]


def _moments(deltas: list[Delta]) -> list[Moment]:
    """The start and each top-level step; what happened inside a step counts to it."""
    moments = [Moment(0, "", 0)]
    for position in sorted({position for position, _, _ in deltas}):
        inside = [(name, delta) for where, name, delta in deltas if where == position]
        changed = {field for _, delta in inside for field in _touched(delta)}
        moments.append(Moment(position + 1, inside[-1][0], len(changed)))
    return moments


def _touched(delta: dict[str, Any]) -> set[str]:
    return {name for part in delta.values() for name in part}


def _fields(run: Run, context: dict[str, Any], deltas: list[Delta], at: int) -> tuple[list[Field], list[str]]:
    """The fields at `at` in their order, each with what the last step did to it, and the fields it dropped."""
    touched: set[str] = set()
    for position, _, delta in deltas:
        if position < at - 1:
            context = fold(context, delta)
    before = set(context)
    for position, _, delta in deltas:
        if position == at - 1:
            context = fold(context, delta)
            touched |= _touched(delta)
    shown: dict[str, Any] = secrets_of(run).hide(context)
    fields = [_field(name, value, before, touched, at) for name, value in sorted(shown.items())]
    return fields, sorted(before - set(context))


def _field(name: str, value: Any, before: set[str], touched: set[str], at: int) -> Field:
    change = "" if not at or name not in touched else "changed" if name in before else "new"
    size = len(json.dumps(value, ensure_ascii=False))
    return Field(name, value if size <= LARGE else None, change, size if size > LARGE else 0)
