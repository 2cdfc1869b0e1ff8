"""The audit as a CSV file: the page's own query, streamed, and itself recorded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from django.db.models import Q, QuerySet
from flujo.codec import isoformat
from flujo.errors import NotAllowed

from runs import access
from runs.audit_words import ORIGIN
from runs.models import Run, Tombstone
from runs.queries.audit import AuditFilter, events_for, facts_for
from runs.services.origin import Origin
from runs.services.refusals import recorded
from runs.services.site_audit import record

AT_ONCE = 500
COLUMNS = ("seq", "run_id", "at", "kind", "actor", "path", *ORIGIN, "reason", "data", "prev_hash", "hash")
STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(*, actor: Any, asked: AuditFilter, origin: Origin) -> Iterator[str]:
    """The events that `asked` names as pieces of CSV, newest first; the record of the export is written first.

    Site-wide events ask for the permission `audit`, events of runs for it or for `export` on their pipelines.
    Raises `NotAllowed`, which is recorded too.
    """
    with recorded("export", actor=actor.get_username(), origin=origin):
        events = _exportable(actor, asked)
    record("audit.exported", actor=actor.get_username(), origin=origin, filter=asked.terms)
    return _pieces(actor, events)


def may_export(user: Any) -> bool:
    """Whether `user` may export any event of runs."""
    return user.has_perm("flujo_runs.audit") or access.pipelines_for(user, "export") != set()


def _exportable(user: Any, asked: AuditFilter) -> QuerySet[Any]:
    events = events_for(user, asked)
    if user.has_perm("flujo_runs.audit"):
        return events
    granted = access.pipelines_for(user, "export")
    if asked.site or granted == set():
        needed = "'audit'" if asked.site else "'export' on a pipeline"
        raise NotAllowed(f"You may not export this. An administrator can grant your group {needed}.")
    if granted is None:
        return events
    runs = Run.objects.filter(pipeline__in=granted).values("run_id")
    deleted = Tombstone.objects.filter(pipeline__in=granted).values("run_id")
    return events.filter(Q(run_id__in=runs) | Q(run_id__in=deleted))


def _pieces(actor: Any, events: QuerySet[Any]) -> Iterator[str]:
    """One piece for the head, then one per 500 events: finished queries, so that no cursor stays open between."""
    yield _lines([COLUMNS])
    last = None
    while True:
        window = events if last is None else events.filter(pk__lt=last)
        batch = list(window.order_by("-pk")[:AT_ONCE])
        if not batch:
            return
        yield _lines(map(_cells, batch, facts_for(actor, batch)))
        last = batch[-1].pk


def _cells(event: Any, data: dict[str, Any]) -> list[str]:
    rest = {name: value for name, value in data.items() if name not in (*ORIGIN, "reason")}
    return [
        str(event.seq),
        event.run_id,
        isoformat(event.at),
        event.kind,
        event.actor,
        getattr(event, "path", ""),
        *(str(data.get(name) or "") for name in (*ORIGIN, "reason")),
        json.dumps(rest, sort_keys=True, ensure_ascii=False) if rest else "",
        event.prev_hash,
        event.hash,
    ]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_no_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _no_formula(cell: str) -> str:
    """A cell that a spreadsheet would run as a formula is shown as text instead."""
    return f"'{cell}" if cell.startswith(STARTS_A_FORMULA) else cell
