"""The inbox: open human tasks in the order a person should take them, and the ones already decided."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from django.contrib.auth.models import Group
from django.core import signing
from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import StrIndex
from flujo.status import TaskStatus

from runs import access, display
from runs.models import Decision, HumanTask
from runs.queries import keyset

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

    from runs.access import User
    from runs.inbox_filter import InboxFilter

    class _Rank(TypedDict):
        rank: int

    RankedTask = WithAnnotations[HumanTask, _Rank]
    RankedTasks = QuerySet[RankedTask]

MINE, BLOCKED, OTHERS = 0, 1, 2
SIZE = 50
_SALT = "flujo.inbox"


@dataclass(frozen=True, slots=True)
class InboxRow:
    """One request in the list."""

    task_id: int
    subject: str
    message: str
    pipeline: str
    requester: str
    step: int
    step_count: int
    step_name: str
    raised_at: datetime
    kind: str
    status: str
    candidates: list[str]
    rank: int
    blocked: str = ""
    outcome: str = ""
    decided_by: str = ""
    closed_at: datetime | None = None
    closed_reason: str = ""
    is_new: bool = False

    @property
    def state(self) -> str:
        """The word for its badge, in `display.STATE_BADGES`."""
        return display.request_state(self.status, self.kind, self.outcome)


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one rank, and how many there are in all."""

    rank: int
    rows: list[InboxRow]
    count: int


@dataclass(frozen=True, slots=True)
class InboxPage:
    """What the page shows; `older` is the cursor of the next page."""

    sections: list[Section] = field(default_factory=list)
    decided: list[InboxRow] = field(default_factory=list)
    mine_count: int = 0
    older: str = ""
    newer: str = ""

    @property
    def rows(self) -> list[InboxRow]:
        return [row for section in self.sections for row in section.rows] + self.decided


def ranked(user: User, tasks: QuerySet[HumanTask]) -> RankedTasks:
    """`tasks` with `rank`: the user can decide it, is named but lacks the permission, or others must act."""
    groups = Group.objects.filter(user=user.pk).values_list("name", flat=True)
    names = [user.get_username(), *(f"group:{name}" for name in groups)]
    needles = {f"named_{index}": _contains(name) for index, name in enumerate(names)}
    named = Q()
    for alias in needles:
        named |= Q(**{f"{alias}__gt": 0})
    granted = access.pipelines_for(user, "decide")
    may = Q(pk__isnull=False) if granted is None else Q(run__pipeline__in=granted)
    rank = Case(
        When(may & (named | Q(candidates="")), then=Value(MINE)),
        When(named, then=Value(BLOCKED)),
        default=Value(OTHERS),
        output_field=IntegerField(),
    )
    return tasks.alias(**needles).annotate(rank=rank)


def _contains(name: str) -> StrIndex:
    """Where the canonical JSON list of candidates names `name`, case and all; LIKE would ignore case on SQLite."""
    return StrIndex("candidates", Value(json.dumps(name, ensure_ascii=False)))


def waiting_for(user: User) -> RankedTasks:
    """The open human tasks that `user` can decide: the navigation's count and the inbox's first section."""
    return ranked(user, access.open_tasks(user)).filter(rank=MINE)


def next_open(user: User, wanted: InboxFilter, after: int = 0) -> HumanTask | None:
    """The oldest request that waits for `user` in this filter, other than `after`."""
    return wanted.apply(waiting_for(user)).exclude(pk=after).order_by("raised_at", "pk").first()


def pipelines(user: User) -> list[str]:
    """The pipelines whose human tasks `user` can see, for the filter."""
    names = access.visible_tasks(user).order_by("run__pipeline").values_list("run__pipeline", flat=True)
    return list(names.distinct())


def open_page(user: User, wanted: InboxFilter, shown: frozenset[int] = frozenset()) -> InboxPage:
    """The open requests by section; `shown` keeps rows on the page that were closed since, and marks the new ones."""
    tasks = ranked(user, wanted.apply(access.open_tasks(user)))
    if wanted.view == "mine":
        tasks = tasks.filter(rank__lte=BLOCKED)
    counts = dict(tasks.order_by().values_list("rank").annotate(Count("pk")))
    found = list(_after(tasks, wanted.cursor).order_by("rank", "raised_at", "pk")[: SIZE + 1])
    more, found = len(found) > SIZE, found[:SIZE]
    gone = _closed_since(user, shown - {task.pk for task in found})
    rows = _rows([*found, *gone], shown)
    sections = [
        Section(rank, own, counts.get(rank, 0))
        for rank in (MINE, BLOCKED, OTHERS)
        if (own := [row for row in rows if row.rank == rank])
    ]
    older = _cursor(found[-1]) if more else ""
    return InboxPage(sections, mine_count=waiting_for(user).count(), older=older)


def decided_page(user: User, wanted: InboxFilter) -> InboxPage:
    """The requests that are answered or closed, newest first."""
    tasks = ranked(user, wanted.apply(access.visible_tasks(user).exclude(status=TaskStatus.OPEN)))
    tasks = tasks.filter(closed_at__isnull=False)
    cursor = keyset.read(wanted.cursor) if wanted.cursor else None
    window = keyset.window(tasks, cursor, at="closed_at", key="id", size=SIZE)
    rows = _rows(window.rows, frozenset())
    return InboxPage(decided=rows, mine_count=waiting_for(user).count(), older=window.older, newer=window.newer)


def _closed_since(user: User, ids: Iterable[int]) -> list[RankedTask]:
    wanted = list(ids)
    if not wanted:
        return []
    return list(ranked(user, access.visible_tasks(user)).filter(pk__in=wanted).exclude(status=TaskStatus.OPEN))


def _rows(tasks: list[RankedTask], shown: frozenset[int]) -> list[InboxRow]:
    """The rows of `tasks` in the order of the list, with the decisions of those that have one."""
    closed = [task for task in tasks if task.status != TaskStatus.OPEN]
    decisions = (
        {
            (decision.run_id, decision.path, decision.generation): decision
            for decision in Decision.objects.filter(run__in={task.run_id for task in closed})
        }
        if closed
        else {}
    )
    rows = [
        _row(
            task, decisions.get((task.run_id, task.path, task.generation)), is_new=bool(shown) and task.pk not in shown
        )
        for task in tasks
    ]
    return rows if not shown else sorted(rows, key=lambda row: (row.rank, row.is_new, row.raised_at, row.task_id))


def _row(task: RankedTask, decision: Decision | None, *, is_new: bool) -> InboxRow:
    run, rank = task.run, task.rank
    return InboxRow(
        task_id=task.pk,
        subject=run.title or run.pipeline,
        message=task.message,
        pipeline=run.pipeline,
        requester=run.requester,
        step=task.position + 1,
        step_count=run.step_count,
        step_name=task.name,
        raised_at=task.raised_at,
        kind=task.kind,
        status=task.status,
        candidates=json.loads(task.candidates) if task.candidates else [],
        rank=rank,
        blocked=_blocked(task) if rank == BLOCKED else "",
        outcome=decision.outcome if decision else "",
        decided_by=decision.actor if decision else "",
        closed_at=task.closed_at,
        closed_reason=task.closed_reason,
        is_new=is_new,
    )


def _blocked(task: HumanTask) -> str:
    """The sentence of `access.may_decide` for someone who is named but has no permission."""
    return f"You are named, but may not decide on {task.run.pipeline}. An administrator can grant your group 'decide'."


def _after(tasks: RankedTasks, cursor: str) -> RankedTasks:
    if not cursor:
        return tasks
    rank, raised_at, pk = _read(cursor)
    later = Q(raised_at__gt=raised_at) | Q(raised_at=raised_at, pk__gt=pk)
    return tasks.filter(Q(rank__gt=rank) | (Q(rank=rank) & later))


def _cursor(task: RankedTask) -> str:
    return signing.dumps([task.rank, task.raised_at.isoformat(), task.pk], salt=_SALT)


def _read(cursor: str) -> tuple[int, datetime, int]:
    try:
        rank, raised_at, pk = signing.loads(cursor, salt=_SALT)
    except signing.BadSignature as error:
        raise keyset.InvalidCursor(keyset.InvalidCursor.__doc__) from error
    return rank, datetime.fromisoformat(raised_at), pk
