"""The context of a run as it was when a step was saved, and what each step changed in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.db.models import Q
from flujo.context import fold
from flujo.lineage import folded
from flujo.paths import MIGRATION

from runs import access
from runs.encryption import Sealed
from runs.models import Checkpoint, Run, RunInput
from runs.queries.payload import CUT, HIDDEN, LARGE, Payload
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
    payload: Payload
    change: str


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

    @property
    def query(self) -> str:
        """What a link to a field adds to its address, so that it is the one of this moment."""
        return f"?at={self.at.index}"


def page(user: access.User, run: Run, at: str) -> ContextPage:
    """The context when `at` top-level steps had been saved; an empty `at` is now."""
    head = header(user, run)
    start, saved = _saved(run)
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


def field_of(run: Run, at: str, name: str) -> str | None:
    """One top-level field as JSON, without what is secret, or that it is `Sealed`; None when there is none at `at`."""
    start, saved = _saved(run)
    texts = [start, *(text for position, _, text in saved if not at.isdecimal() or position < int(at))]
    sealed = next((text for text in texts if isinstance(text, Sealed)), None)
    if sealed is not None:
        return sealed
    fields: dict[str, Any] = secrets_of(run).hide(folded(_read(start), texts[1:]))
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else None


def _saved(run: Run) -> tuple[str | None, list[tuple[int, str, str | None]]]:
    """The initial context, and what each top-level step and each migration changed in it.

    What happened inside a step is not counted beside it: the step's own checkpoint has it once all of it is joined.
    """
    start = RunInput.objects.filter(run=run).values_list("context", flat=True).first()
    inside = Q(path__contains="/") | Q(path__contains="[") | Q(path__contains="#")
    top = Checkpoint.objects.filter(~inside | Q(path__startswith=MIGRATION), run=run).order_by("seq")
    return start, list(top.values_list("position", "name", "context_changes"))


def _hidden(texts: list[str | None]) -> Payload | None:
    """What says that a part of the context is sealed: the others alone would add up to another one."""
    return next((Payload("sealed", value=text) for text in texts if isinstance(text, Sealed)), None)


def _read(text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text and not isinstance(text, Sealed) else {}
    return found


Delta = tuple[int, str, dict[str, Any]]


def _moments(deltas: list[Delta]) -> list[Moment]:
    """The start and each top-level step."""
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
    text = json.dumps(value, ensure_ascii=False)
    large = Payload("large", beginning=text[:CUT], size=len(text.encode())) if len(text) > LARGE else None
    return Field(name, large or Payload("tree", value=value), change)
