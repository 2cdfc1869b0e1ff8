"""The proof that recorded history stands: every audit chain is walked to the head that its store remembers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from django.db.models import Exists, OuterRef
from flujo.batch import GENESIS, chained

from runs.models import AuditEvent, Run, SiteEvent, Tombstone
from runs.services.verify_rows import Problem, row_problems, unread_values

AT_ONCE = 500
SHOWN = 20
SIGNED = ("run_id", "seq", "kind", "actor", "path", "fence")


@dataclass(slots=True)
class Report:
    """What the verification of one store found; `problems` are the first ones, in the order they were met.

    `unread` values were not compared with their events, since the site lacks the keys they are encrypted with.
    """

    store: str
    chains: int = 0
    events: int = 0
    bad: int = 0
    unread: int = 0
    head: str = ""
    problems: list[Problem] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return not self.bad

    def add(self, problem: Problem) -> None:
        self.bad += 1
        if len(self.problems) < SHOWN:
            self.problems.append(problem)


@dataclass(slots=True)
class Walk:
    """How far a chain has been followed: up to the event `seq`, or to the event before a problem."""

    seq: int = 0
    hash: str = GENESIS
    fence: int = 0
    problem: Problem | None = None


def verify(*, noted_head: str = "") -> list[Report]:
    """Verify the chains of all runs, then the chain of the site, which has to pass through `noted_head` if given."""
    return [verify_runs(), verify_site(noted_head=noted_head)]


def verify_runs() -> Report:
    """Walk every run's chain to its head, deleted runs to their tombstone, and compare rows with their events.

    The memory it takes depends on neither the number of runs nor the number of events.
    """
    report = Report("runs")
    events = AuditEvent.objects.order_by("run_id", "seq").iterator(chunk_size=AT_ONCE)
    walks = ((run_id, _follow(Walk(), group, report)) for run_id, group in groupby(events, attrgetter("run_id")))
    while batch := dict(islice(walks, AT_ONCE)):
        report.chains += len(batch)
        _check_ends(batch, report)
    own_events = AuditEvent.objects.filter(run_id=OuterRef("pk"))
    silent_ones: tuple[Any, ...] = (Run, Tombstone)
    for model in silent_ones:
        silent = model.objects.filter(~Exists(own_events)).values_list("pk", flat=True)
        for run_id in silent.iterator():
            report.add(Problem(run_id, 1, "is missing, and so is all of the run's history"))
    for problem in row_problems():
        report.add(problem)
    report.unread = unread_values()
    return report


def verify_site(*, noted_head: str = "") -> Report:
    """Walk the site's chain. A `noted_head`, "seq:hash" as an earlier report gave it, also proves its tail."""
    report = Report("site", chains=1)
    walk = _follow(Walk(), SiteEvent.objects.order_by("seq").iterator(chunk_size=AT_ONCE), report)
    report.head = f"{walk.seq}:{walk.hash}"
    problem = walk.problem or (_passed(walk, noted_head) if noted_head else None)
    if problem:
        report.add(problem)
    return report


def _passed(walk: Walk, noted_head: str) -> Problem | None:
    seq, _, noted_hash = noted_head.partition(":")
    if int(seq) > walk.seq:
        return Problem("", walk.seq + 1, f"is missing: the chain once reached {seq}")
    if int(seq) and not SiteEvent.objects.filter(seq=seq, hash=noted_hash).exists():
        return Problem("", int(seq), "is another one than was noted")
    return None


def _follow(walk: Walk, events: Iterable[Any], report: Report) -> Walk:
    """Go along a chain until its end or its first problem."""
    for event in events:
        report.events += 1
        if walk.problem is None:
            walk.problem = _fault(walk, event)
        if walk.problem is None:
            walk.seq, walk.hash, walk.fence = event.seq, event.hash, getattr(event, "fence", 0)
    return walk


def _fault(walk: Walk, event: Any) -> Problem | None:
    """Why `event` is not what follows, if it is not."""
    expected = walk.seq + 1
    faults = (
        (event.seq != expected, "is missing"),
        (event.prev_hash != walk.hash, "does not follow the event before it"),
        (chained(event.prev_hash, event.body) != event.hash, "was changed after it was recorded"),
        (not _says_the_same(event), "has columns that differ from its signed body"),
        (getattr(event, "fence", 0) < walk.fence, "was written under an older fencing token than the event before it"),
    )
    what = next((sentence for wrong, sentence in faults if wrong), None)
    return Problem(event.run_id if isinstance(event, AuditEvent) else "", expected, what) if what else None


def _says_the_same(event: Any) -> bool:
    """Whether the columns, which pages read, repeat what the hash covers."""
    try:
        body = json.loads(event.body)
        same_time = datetime.fromisoformat(body["at"]) == event.at
    except (ValueError, KeyError, TypeError):
        return False
    return same_time and all(body.get(name) == getattr(event, name) for name in SIGNED if hasattr(event, name))


def _check_ends(walks: dict[str, Walk], report: Report) -> None:
    """Compare where the walks ended with the heads that the runs and tombstones remember."""
    heads = _heads(walks)
    for run_id, walk in walks.items():
        if walk.problem is None and run_id in heads and heads[run_id][0] > walk.seq:
            later = AuditEvent.objects.filter(run_id=run_id, seq__gt=walk.seq, seq__lte=heads[run_id][0])
            _follow(walk, later.order_by("seq"), report)  # recorded since the walk began, unless someone cut the tail
        problem = walk.problem or _end_problem(run_id, walk, heads.get(run_id))
        if problem:
            report.add(problem)


def _heads(walks: dict[str, Walk]) -> dict[str, tuple[int, str]]:
    """Seq and hash of the last event by run; a run with a reused id counts more than its tombstone."""
    heads: dict[str, tuple[int, str]] = {}
    later_wins: tuple[Any, ...] = (Tombstone, Run)
    for model in later_wins:
        rows = model.objects.filter(pk__in=list(walks)).values_list("pk", "seq", "chain")
        heads |= {run_id: (seq, chain) for run_id, seq, chain in rows}
    return heads


def _end_problem(run_id: str, walk: Walk, head: tuple[int, str] | None) -> Problem | None:
    if head is None:
        return Problem(run_id, walk.seq, "is the last one, but neither the run nor its tombstone is there")
    seq, chain = head
    if walk.seq < seq:
        return Problem(run_id, walk.seq + 1, f"is missing: the run's history reached {seq}")
    if walk.seq > seq:
        return Problem(run_id, seq + 1, "was added after the end of the run's history")
    if walk.hash != chain:
        return Problem(run_id, seq, "is another one than the run remembers as its last")
    return None
