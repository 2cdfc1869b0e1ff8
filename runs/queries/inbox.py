"""The inbox: open human tasks in the order a person should take them, and the ones already decided."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from django.contrib.auth.models import Group
from django.core import signing
from django.db.models import Case, Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import StrIndex
from django.utils import timezone
from flujo.status import TaskStatus
from flujo.transitions.votes import OWN_RUN

from runs import access, display
from runs.inbox_filter import tomorrow
from runs.models import Decision, HumanTask, Vote
from runs.queries import keyset
from runs.queries.votes import agreed
from runs.words import votes_words

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

    from runs.access import User
    from runs.inbox_filter import InboxFilter

    class _Rank(TypedDict):
        rank: int
        sort_at: datetime

    RankedTask = WithAnnotations[HumanTask, _Rank]
    RankedTasks = QuerySet[RankedTask]

OVERDUE, TODAY, LATER, VOTED, BLOCKED, OTHERS = range(6)
TITLES = {
    OVERDUE: "Overdue",
    TODAY: "Due today",
    LATER: "Later",
    VOTED: "Waiting for others",
    BLOCKED: "Blocked for you",
    OTHERS: "For other people",
}
SIZE = 50
_SALT = "flujo.inbox"


@dataclass(frozen=True, slots=True)
class InboxRow:
    """One request in the list."""

    task_id: int
    subject: str
    title: str
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
    due_at: datetime | None = None
    escalated: bool = False
    votes: str = ""
    is_new: bool = False

    @property
    def state(self) -> str:
        """The word for its badge, in `display.STATE_BADGES`."""
        return display.request_state(self.status, self.kind, self.outcome)


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one rank, and how many there are in all."""

    rank: int
    title: str
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
    """`tasks` with `rank`, the section they stand in for this user, and `sort_at`, by which they stand in it."""
    groups = Group.objects.filter(user=user.pk).values_list("name", flat=True)
    names = [user.get_username(), *(f"group:{name}" for name in groups)]
    needles = {f"named_{index}": _contains(name) for index, name in enumerate(names)}
    named = Q()
    for alias in needles:
        named |= Q(**{f"{alias}__gt": 0})
    granted = access.pipelines_for(user, "decide")
    may = Q(pk__isnull=False) if granted is None else Q(run__pipeline__in=granted)
    can = may & (named | Q(candidates=""))
    mine = Q(run__requester=user.get_username()) | Q(run__started_by=user.get_username())
    own = Vote.objects.filter(
        run=OuterRef("run"), path=OuterRef("path"), generation=OuterRef("generation"), actor=user.get_username()
    )
    now = timezone.now()
    rank = Case(
        When(can & Q(four_eyes=True) & mine, then=Value(BLOCKED)),
        When(can & Q(quorum__gt=1) & Exists(own), then=Value(VOTED)),
        When(can & Q(due_at__lte=now), then=Value(OVERDUE)),
        When(can & Q(due_at__lt=tomorrow(now)), then=Value(TODAY)),
        When(can, then=Value(LATER)),
        When(named, then=Value(BLOCKED)),
        default=Value(OTHERS),
        output_field=IntegerField(),
    )
    sort_at = Case(When(rank__in=[OVERDUE, TODAY], then=F("due_at")), default=F("raised_at"))
    return tasks.alias(**needles).annotate(rank=rank).annotate(sort_at=sort_at)


def _contains(name: str) -> StrIndex:
    """Where the canonical JSON list of candidates names `name`, case and all; LIKE would ignore case on SQLite."""
    return StrIndex("candidates", Value(json.dumps(name, ensure_ascii=False)))


def waiting_for(user: User) -> RankedTasks:
    """The open human tasks that `user` can decide: the navigation's count and the inbox's first section."""
    return ranked(user, access.open_tasks(user)).filter(rank__lte=LATER)


def next_open(user: User, wanted: InboxFilter, after: int = 0) -> HumanTask | None:
    """The first request that waits for `user` in this filter, other than `after`."""
    waiting = ranked(user, wanted.apply(access.open_tasks(user))).filter(rank__lte=LATER)
    return waiting.exclude(pk=after).order_by("rank", "sort_at", "pk").first()


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
    found = list(_after(tasks, wanted.cursor).order_by("rank", "sort_at", "pk")[: SIZE + 1])
    more, found = len(found) > SIZE, found[:SIZE]
    gone = _closed_since(user, shown - {task.pk for task in found})
    rows = _rows(user, [*found, *gone], shown)
    urgent = counts.keys() & {OVERDUE, TODAY}
    sections = [
        Section(rank, title if rank != LATER or urgent else "Waiting for you", own, counts.get(rank, 0))
        for rank, title in TITLES.items()
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
    rows = _rows(user, window.rows, frozenset())
    return InboxPage(decided=rows, mine_count=waiting_for(user).count(), older=window.older, newer=window.newer)


def _closed_since(user: User, ids: Iterable[int]) -> list[RankedTask]:
    wanted = list(ids)
    if not wanted:
        return []
    return list(ranked(user, access.visible_tasks(user)).filter(pk__in=wanted).exclude(status=TaskStatus.OPEN))


def _rows(user: User, tasks: list[RankedTask], shown: frozenset[int]) -> list[InboxRow]:
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
    votes = _votes([task for task in tasks if task.quorum > 1])
    rows = []
    for task in tasks:
        question = (task.run_id, task.path, task.generation)
        given = agreed(votes.get(question, []))
        rows.append(_row(task, user, decisions.get(question), given, is_new=bool(shown) and task.pk not in shown))
    if not shown:
        return rows
    order = {task.pk: task.sort_at for task in tasks}
    return sorted(rows, key=lambda row: (row.rank, row.is_new, order[row.task_id], row.task_id))


def _votes(tasks: list[RankedTask]) -> dict[tuple[str, str, int], list[Vote]]:
    """The votes on these requests, by run, path and generation."""
    found = defaultdict(list)
    if tasks:
        for vote in Vote.objects.filter(run__in={task.run_id for task in tasks}):
            found[vote.run_id, vote.path, vote.generation].append(vote)
    return found


def _row(task: RankedTask, user: User, decision: Decision | None, votes: int, *, is_new: bool) -> InboxRow:
    run, rank = task.run, task.rank
    return InboxRow(
        task_id=task.pk,
        subject=run.subject,
        title=run.title,
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
        blocked=_blocked(task, user) if rank == BLOCKED else "",
        outcome=decision.outcome if decision else "",
        decided_by=decision.actor if decision else "",
        closed_at=task.closed_at,
        closed_reason=task.closed_reason,
        due_at=task.due_at,
        escalated=task.escalated_at is not None,
        votes=votes_words(task.kind, votes, task.quorum) if task.quorum > 1 else "",
        is_new=is_new,
    )


def _blocked(task: HumanTask, user: User) -> str:
    """Why someone who is named, or could decide, may not."""
    if task.four_eyes and user.get_username() in (task.run.requester, task.run.started_by):
        return OWN_RUN
    return f"You are named, but may not decide on {task.run.pipeline}. An administrator can grant your group 'decide'."


def _after(tasks: RankedTasks, cursor: str) -> RankedTasks:
    if not cursor:
        return tasks
    rank, sort_at, pk = _read(cursor)
    later = Q(sort_at__gt=sort_at) | Q(sort_at=sort_at, pk__gt=pk)
    return tasks.filter(Q(rank__gt=rank) | (Q(rank=rank) & later))


def _cursor(task: RankedTask) -> str:
    return signing.dumps([task.rank, task.sort_at.isoformat(), task.pk], salt=_SALT)


def _read(cursor: str) -> tuple[int, datetime, int]:
    try:
        rank, sort_at, pk = signing.loads(cursor, salt=_SALT)
    except signing.BadSignature as error:
        raise keyset.InvalidCursor(keyset.InvalidCursor.__doc__) from error
    return rank, datetime.fromisoformat(sort_at), pk
