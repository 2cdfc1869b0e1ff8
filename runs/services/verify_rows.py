"""The comparison of rows with the events that recorded them: neither decisions nor checkpoints come or go alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Exists, Max, OuterRef, QuerySet
from flujo.canonical import digest
from flujo.state.artefacts import digest_in
from flujo.status import EventKind

from runs.encryption import Sealed, as_stored, unread
from runs.models import Artefact, ArtefactUse, AuditEvent, Checkpoint, Decision, Run, Vote

AT_ONCE = 500
EVENT = ("run_id", "seq", "kind", "path", "actor", "body")
Row = Any
_SAVED = (EventKind.STEP_COMPLETED, EventKind.STEP_TAKEN_OVER)


@dataclass(frozen=True, slots=True)
class Problem:
    """The first bad event of a chain; `run_id` is empty for the site's chain.

    `what` goes on from "event n", or is the whole sentence when `seq` is 0, since no event is there to name.
    """

    run_id: str
    seq: int
    what: str

    @property
    def sentence(self) -> str:
        return f"event {self.seq} {self.what}" if self.seq else self.what


def row_problems() -> Iterator[Problem]:
    """What differs between checkpoints, decisions and votes and their events, in runs that still exist."""
    for rows in _batches(_with(Checkpoint.objects.only("run_id", "seq", "path"), "output")):
        yield from _still_there(_checkpoint_problems(rows))
    for rows in _batches(_with(Decision.objects.defer("data"), "data")):
        yield from _still_there(_decision_problems(rows))
    for rows in _batches(_with(Vote.objects.defer("data"), "data")):
        yield from _still_there(_vote_problems(rows))
    recorded = AuditEvent.objects.only(*EVENT).filter(
        Exists(Run.objects.filter(pk=OuterRef("run_id"))),
        kind__in=[*_SAVED, EventKind.DECISION_RECORDED],
    )
    for rows in _batches(recorded.order_by("pk")):
        yield from _still_there(_missing_rows(rows))
    yield from _still_there(_artefact_problems())


def _artefact_problems() -> Iterator[Problem]:
    """Artefacts that are not what their digest says; what refers to them is compared with the events by that alone."""
    for name, text in Artefact.objects.order_by("pk").values_list("digest", "text").iterator(chunk_size=1):
        if not isinstance(text, Sealed) and digest(text) != name:
            for run_id in ArtefactUse.objects.filter(artefact=name).order_by("run_id").values_list("run_id", flat=True):
                yield Problem(run_id, 0, f"the artefact {name} holds another text than was stored")


def _checkpoint_problems(checkpoints: list[Row]) -> Iterator[Problem]:
    seqs = {row.seq for row in checkpoints}
    found = AuditEvent.objects.only(*EVENT).filter(run_id__in=_runs(checkpoints), seq__in=seqs)
    events = {(event.run_id, event.seq): event for event in found}
    for row in checkpoints:
        event = events.get((row.run_id, row.seq))
        if event is None or event.path != row.path:
            yield Problem(row.run_id, row.seq, f"does not record the checkpoint of {row.path}")
            continue
        data = _data(event)
        noted = data.get("output_digest", data.get("data_digest"))
        if noted is not None and _is_another(row.value, noted):
            yield Problem(row.run_id, row.seq, f"recorded another output of {row.path} than is stored")


def _decision_problems(decisions: list[Row]) -> Iterator[Problem]:
    found = AuditEvent.objects.filter(run_id__in=_runs(decisions), kind=EventKind.DECISION_RECORDED)
    events = {(event.run_id, event.path, _data(event).get("generation")): event for event in found}
    for row in decisions:
        event = events.get((row.run_id, row.path, row.generation))
        if event is None:
            yield Problem(row.run_id, 0, f"the decision on {row.path} has no event")
            continue
        data = _data(event)
        stored = {"outcome": row.outcome, "reason": row.reason}
        changed = any(data.get(name, value) != value for name, value in stored.items())
        if event.actor != row.actor or changed or _is_another(row.value, data.get("data_digest")):
            yield Problem(row.run_id, event.seq, f"recorded another decision on {row.path} than is stored")


def _vote_problems(votes: list[Row]) -> Iterator[Problem]:
    """A person's vote is what the newest event about it says; a vote that went is in the decision's own event."""
    found = AuditEvent.objects.filter(run_id__in=_runs(votes), kind=EventKind.VOTE_RECORDED).order_by("seq")
    newest = {(event.run_id, event.path, _data(event).get("generation"), event.actor): event for event in found}
    for row in votes:
        event = newest.get((row.run_id, row.path, row.generation, row.actor))
        if event is None:
            yield Problem(row.run_id, 0, f"the vote of {row.actor} on {row.path} has no event")
        elif _is_another(row.value, _data(event).get("data_digest")):
            yield Problem(row.run_id, event.seq, f"recorded another vote on {row.path} than is stored")


def _is_another(text: str, noted: str | None) -> bool:
    """Whether a value is not the one whose digest was noted; one that no key here opens is not compared."""
    return noted is not None and not isinstance(text, Sealed) and noted != (digest_in(text) or digest(text))


def _with(rows: QuerySet[Any], field: str) -> QuerySet[Any]:
    """The rows with a `value` that is as it is stored, in a place it was not written for, too; or its reference."""
    found: QuerySet[Any] = rows.annotate(value=as_stored(field)).order_by("pk")
    return found


def unread_values() -> int:
    """How many values are not compared, since the site lacks their key."""
    compared: tuple[tuple[QuerySet[Any], str], ...] = (
        (Checkpoint.objects.order_by(), "output"),
        (Decision.objects.order_by(), "data"),
        (Vote.objects.order_by(), "data"),
        (Artefact.objects.order_by(), "text"),
    )
    return sum(unread(rows, field) for rows, field in compared)


def _missing_rows(events: list[Row]) -> Iterator[Problem]:
    runs = _runs(events)
    decisions = set(Decision.objects.filter(run__in=runs).values_list("run_id", "path", "generation"))
    checkpoints = set(Checkpoint.objects.filter(run__in=runs).values_list("run_id", "path"))
    purged = AuditEvent.objects.filter(run_id__in=runs, kind=EventKind.RUN_PURGED)
    former = dict(purged.values_list("run_id").annotate(Max("seq")))  # a reused id: the rows before went on purpose
    for event in events:
        if event.seq < former.get(event.run_id, 0):
            continue
        if event.kind in _SAVED and (event.run_id, event.path) not in checkpoints:
            yield Problem(event.run_id, event.seq, f"records a checkpoint of {event.path} that is gone")
        if event.kind == EventKind.DECISION_RECORDED:
            key = (event.run_id, event.path, _data(event).get("generation"))
            if key not in decisions:
                yield Problem(event.run_id, event.seq, f"records a decision on {event.path} that is gone")


def _still_there(problems: Iterator[Problem]) -> Iterator[Problem]:
    """A run may be deleted while it is looked at; what is gone as a whole is no problem."""
    for problem in problems:
        if Run.objects.filter(pk=problem.run_id).exists():
            yield problem


def _data(event: Row) -> dict[str, Any]:
    """An event's facts; a body that is no JSON is the chain's problem, not this one's."""
    try:
        body = json.loads(event.body)
    except ValueError:
        return {}
    data = body.get("data") if isinstance(body, dict) else None
    return data if isinstance(data, dict) else {}


def _runs(rows: list[Row]) -> set[str]:
    return {row.run_id for row in rows}


def _batches(rows: QuerySet[Any]) -> Iterator[list[Row]]:
    stream = rows.iterator(chunk_size=AT_ONCE)
    while batch := list(islice(stream, AT_ONCE)):
        yield batch
