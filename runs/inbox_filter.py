"""What a person asked the inbox for: the query string as an object."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from runs.encryption import site_keys
from runs.models import HumanTask

DUE = {"overdue": "Overdue", "today": "Due today", "later": "Later, or at no time"}
VIEWS = {"mine": "For you", "all": "Everyone’s", "decided": "Decided"}


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """The view, the pipeline, the text, the deadline, the page."""

    view: str = "mine"
    pipeline: str = ""
    q: str = ""
    due: str = ""
    cursor: str = ""

    @classmethod
    def of(cls, query: QueryDict) -> InboxFilter:
        """The filter a query string asks for; an unknown view is the first one."""
        view = query.get("view", "mine")
        return cls(
            view=view if view in VIEWS else "mine",
            pipeline=query.get("pipeline", "").strip(),
            q=query.get("q", "").strip(),
            due=query.get("due", "") if query.get("due", "") in DUE else "",
            cursor=query.get("cursor", ""),
        )

    def apply(self, tasks: QuerySet[HumanTask]) -> QuerySet[HumanTask]:
        """`tasks` narrowed to the pipeline, the text and the deadline."""
        if self.due:
            tasks = tasks.filter(_due(self.due))
        if self.pipeline:
            tasks = tasks.filter(run__pipeline=self.pipeline)
        if self.q:
            found = (
                Q(run__title__icontains=self.q)
                | Q(run__requester__icontains=self.q)
                | Q(run__run_id__startswith=self.q)
            )
            if site_keys() is None:  # the database cannot search in what is sealed
                found |= Q(message__icontains=self.q)
            tasks = tasks.filter(found)
        return tasks

    @property
    def narrowed(self) -> bool:
        """Whether anything but the view is asked for."""
        return bool(self.pipeline or self.q or self.due)

    @property
    def narrowing(self) -> str:
        """The query string that goes along from request to request: all but the view, "" without it."""
        return self.link(view="mine", cursor="") if self.narrowed else ""

    @property
    def query_string(self) -> str:
        return self.link()

    def link(self, **changes: str) -> str:
        """The query string with `changes`; without the ones that are empty or the default."""
        parts = {
            "view": self.view,
            "pipeline": self.pipeline,
            "q": self.q,
            "due": self.due,
            "cursor": self.cursor,
        } | changes
        if parts["view"] == "mine":
            del parts["view"]
        return "?" + urlencode({name: value for name, value in parts.items() if value})

    @property
    def due_words(self) -> str:
        """The deadline that is asked for, as the form names it."""
        return DUE.get(self.due, "")


def tomorrow(now: datetime) -> datetime:
    """The first moment of the next day, in the site's time zone."""
    local = timezone.localtime(now)
    return timezone.make_aware(datetime.combine(local.date() + timedelta(days=1), time.min))


def _due(when: str) -> Q:
    now = timezone.now()
    if when == "overdue":
        return Q(due_at__lte=now)
    if when == "today":
        return Q(due_at__gt=now, due_at__lt=tomorrow(now))
    return Q(due_at__isnull=True) | Q(due_at__gte=tomorrow(now))
