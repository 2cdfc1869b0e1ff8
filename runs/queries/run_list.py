"""What the run list shows: a window of rows, status tabs with counts, and how many runs came since."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2s

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from flujo.status import RunStatus, TaskStatus

from runs import access
from runs.display import run_badge
from runs.filters import RunFilter
from runs.models import HumanTask, Run
from runs.queries import keyset
from runs.queries.bounded_counts import bounded_counts, count_words
from runs.queries.waits import WaitLine, open_waits

NEW_BOUND = 100
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
TABS = {
    RunStatus.PAUSED: "Waiting",
    RunStatus.RUNNING: "Running",
    RunStatus.QUEUED: "Queued",
    RunStatus.FAILED: "Failed",
    RunStatus.COMPLETED: "Completed",
    RunStatus.CANCELLED: "Cancelled",
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line of the list."""

    run_id: str
    subject: str
    title: str
    status: str
    wait: str | None
    outcome: str | None
    stalled: bool
    pipeline: str
    version: str
    step_name: str
    step_number: int
    step_count: int
    waiting_on: list[str] | None
    task_id: int | None
    until: WaitLine | None
    more: int
    started_at: datetime | None
    seconds: float | None
    owner: str
    tags: list[str]
    seq: int


@dataclass(frozen=True, slots=True)
class Tab:
    """One status, how many runs of this filter have it, and the link that chooses it."""

    label: str
    count: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class RunList:
    """The list and its surroundings; `live_url` asks for the same rows as they are later, `new` counts what came."""

    rows: list[RunRow]
    tabs: list[Tab]
    live_url: str = ""
    new: int = 0
    new_words: str = ""
    older: str = ""
    newer: str = ""
    newest: str = ""
    any_at_all: bool = True
    rev: str = ""


def page(user: access.User, asked: RunFilter) -> RunList:
    """The page of runs that `asked` names, as far as `user` may see them."""
    visible = access.visible_to(user)
    shown = keyset.window(asked.apply(visible), asked.cursor)
    tabs, total = _tabs(visible, asked)
    at_newest = asked.cursor is None or not shown.newer
    listed = rows_of(shown.rows)
    rev = _rev(listed, tabs, 0)
    since = _since(shown.rows) if at_newest else ""
    return RunList(
        rows=listed,
        tabs=tabs,
        live_url=_live_url(asked, ",".join(row.run_id for row in listed), since, rev),
        older=asked.url(cursor=shown.older) if shown.older else "",
        newer=asked.url(cursor=shown.newer) if shown.newer else "",
        newest="" if at_newest else asked.url(),
        any_at_all=bool(listed or total) or visible.exists(),
        rev=rev,
    )


def refresh(user: access.User, asked: RunFilter, ids: Sequence[str], since: keyset.Cursor | None) -> RunList:
    """The same rows in the same order as they are now, and how many new ones match; rows deleted meanwhile go."""
    visible = access.visible_to(user)
    found = visible.in_bulk(list(ids)[: keyset.SIZE])
    tabs, _ = _tabs(visible, asked)
    new = 0
    if since is not None:
        new = asked.apply(visible).filter(keyset.newer_than(since))[: NEW_BOUND + 1].count()
    listed = rows_of([found[run_id] for run_id in ids if run_id in found])
    rev = _rev(listed, tabs, new)
    return RunList(
        rows=listed,
        tabs=tabs,
        live_url=_live_url(asked, ",".join(ids), since.text() if since else "", rev),
        new=new,
        new_words=f"{NEW_BOUND}+ new runs" if new > NEW_BOUND else f"{new} new run{'' if new == 1 else 's'}",
        rev=rev,
    )


def _live_url(asked: RunFilter, ids: str, since: str, rev: str) -> str:
    return f"{reverse('runs:f_runs')}?{asked.query(ids=ids, since=since, rev=rev)}"


def _rev(rows: list[RunRow], tabs: list[Tab], new: int) -> str:
    """A word that changes when anything shown changes, lengths of time aside."""
    facts = [[row.run_id, row.seq, row.stalled] for row in rows], [tab.count for tab in tabs], new
    return blake2s(json.dumps(facts).encode(), digest_size=12).hexdigest()


def _since(rows: list[Run]) -> str:
    at, key = (rows[0].created_at, rows[0].run_id) if rows else (_BEFORE_ALL, "")
    return keyset.Cursor(keyset.NEWER, at, key).text()


def _tabs(visible: QuerySet[Run], asked: RunFilter) -> tuple[list[Tab], int]:
    matching = asked.apply(visible, any_status=True)
    counts = bounded_counts({str(status): matching.filter(status=status) for status in TABS})
    chosen = asked.values["status"]
    tabs = [
        Tab(label, count_words(counts[str(status)]), asked.url(status=str(status)), chosen == status)
        for status, label in TABS.items()
    ]
    total = sum(counts.values())
    return [Tab("All", count_words(total), asked.url(status=""), not chosen), *tabs], total


def rows_of(found: list[Run]) -> list[RunRow]:
    """The runs as rows, in their order, in two queries."""
    now = timezone.now()
    active = [run.run_id for run in found if run.active]
    open_tasks = HumanTask.objects.filter(run__in=active, status=TaskStatus.OPEN).defer("evidence", "schema")
    tasks = defaultdict(list)
    for task in open_tasks:
        tasks[task.run_id].append(task)
    waits = open_waits(active)
    return [_row(run, tasks[run.run_id], waits.get(run.run_id, []), now) for run in found]


def _row(run: Run, tasks: list[HumanTask], waits: list[WaitLine], now: datetime) -> RunRow:
    task = tasks[0] if tasks else None
    started, finished = run.started_at, run.finished_at or now
    return RunRow(
        run_id=run.run_id,
        subject=run.subject,
        title=run.title,
        status=run.status,
        wait=run.wait,
        outcome=run.outcome,
        stalled=is_stalled(run, now),
        pipeline=run.pipeline,
        version=run.version,
        step_name=run.step_name,
        step_number=min(run.step_index + 1, run.step_count),
        step_count=run.step_count,
        waiting_on=candidates(task) if task else None,
        task_id=task.pk if task else None,
        until=waits[0] if waits and not task else None,
        more=len(tasks) + len(waits) - 1,
        started_at=started,
        seconds=(finished - started).total_seconds() if started else None,
        owner=run.owner,
        tags=json.loads(run.tags),
        seq=run.seq,
    )


def is_stalled(run: Run, now: datetime) -> bool:
    """Whether a running run's lease has expired: its worker stopped answering."""
    return run.status == RunStatus.RUNNING and run.lease_expires_at is not None and run.lease_expires_at < now


def candidates(task: HumanTask) -> list[str]:
    """Whom a human task asks; an empty list is anyone who may decide."""
    names: list[str] = json.loads(task.candidates) if task.candidates else []
    return names


def state_word(run: Run, now: datetime) -> str:
    """A run's state as one word, for page titles."""
    return "Stalled" if is_stalled(run, now) else run_badge(run.status, run.wait, run.outcome).word
