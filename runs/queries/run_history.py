"""The history of a run: its audit events as sentences' parts, newest last, a window at a time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from runs import access
from runs.audit_words import EventWords, event_words, fact_label
from runs.models import AuditEvent, Run
from runs.queries.run_header import RunHeader, header

SIZE = 200
_IN_THE_AUDIT = {"user_agent", "request_id", "generation"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
_ALWAYS_SHOWN = {
    "reason",
    "run",
    "rerun_of",
    "channel",
    "attempt",
    "error_type",
    "outcome",
    "holder",
    "round",
}


@dataclass(frozen=True, slots=True)
class EventRow:
    """One audit event; `facts` are those that fit a line, digests cut short. The audit shows them whole."""

    seq: int
    kind: str
    words: EventWords
    at: datetime
    actor: str
    path: str
    fence: int
    facts: list[tuple[str, str]]
    hash: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A window of events; `after` and `before` are sequence numbers for the links around it."""

    header: RunHeader
    rows: list[EventRow]
    before: int | None
    newest: bool
    problem: str = ""


def page(user: access.User, run: Run, before: str) -> HistoryPage:
    """The newest events of `run`, or those with a sequence number below `before`."""
    head = header(user, run)
    bad = bool(before) and not (before.isascii() and before.isdigit() and len(before) < 19)
    events = AuditEvent.objects.filter(run_id=run.pk).order_by("-seq")
    if before and not bad:
        events = events.filter(seq__lt=int(before))
    found = list(events[: SIZE + 1])
    return HistoryPage(
        header=head,
        rows=[_row(event, shows_values=head.shows_values) for event in found[:SIZE]],
        before=found[SIZE - 1].seq if len(found) > SIZE else None,
        newest=not before or bad,
        problem=f"“before” is the number of an event, not “{before}”. Shown are the newest events." if bad else "",
    )


def _row(event: AuditEvent, *, shows_values: bool) -> EventRow:
    data: dict[str, Any] = json.loads(event.body).get("data", {})
    facts = [
        (fact_label(name), _short(value))
        for name, value in data.items()
        if value not in (None, "", [], 0) and name not in _IN_THE_AUDIT and (shows_values or name in _ALWAYS_SHOWN)
    ]
    return EventRow(
        seq=event.seq,
        kind=event.kind,
        words=event_words(event.kind),
        at=event.at,
        actor=event.actor,
        path=event.path,
        fence=event.fence,
        facts=facts,
        hash=event.hash,
    )


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if _DIGEST.fullmatch(text):
        return text[:12] + "…"
    if _MOMENT.fullmatch(text):
        return timezone.localtime(datetime.fromisoformat(text)).strftime("%d %b %Y, %H:%M:%S %Z")
    return text if len(text) <= 200 else text[:200] + "…"
