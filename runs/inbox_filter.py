"""What a person asked the inbox for: the query string as an object."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import QueryDict

from runs.models import HumanTask

VIEWS = {"mine": "For you", "all": "Everyone’s", "decided": "Decided"}


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """The view, the pipeline, the text, the page."""

    view: str = "mine"
    pipeline: str = ""
    q: str = ""
    cursor: str = ""

    @classmethod
    def of(cls, query: QueryDict) -> InboxFilter:
        """The filter a query string asks for; an unknown view is the first one."""
        view = query.get("view", "mine")
        return cls(
            view=view if view in VIEWS else "mine",
            pipeline=query.get("pipeline", "").strip(),
            q=query.get("q", "").strip(),
            cursor=query.get("cursor", ""),
        )

    def apply(self, tasks: QuerySet[HumanTask]) -> QuerySet[HumanTask]:
        """`tasks` narrowed to the pipeline and the text."""
        if self.pipeline:
            tasks = tasks.filter(run__pipeline=self.pipeline)
        if self.q:
            tasks = tasks.filter(
                Q(run__title__icontains=self.q)
                | Q(message__icontains=self.q)
                | Q(run__requester__icontains=self.q)
                | Q(run__run_id__startswith=self.q)
            )
        return tasks

    @property
    def narrowed(self) -> bool:
        """Whether anything but the view is asked for."""
        return bool(self.pipeline or self.q)

    @property
    def narrowing(self) -> str:
        """The query string that goes along from request to request: the pipeline and the text, "" without them."""
        return self.link(view="mine", cursor="") if self.narrowed else ""

    @property
    def query_string(self) -> str:
        return self.link()

    def link(self, **changes: str) -> str:
        """The query string with `changes`; without the ones that are empty or the default."""
        parts = {"view": self.view, "pipeline": self.pipeline, "q": self.q, "cursor": self.cursor} | changes
        if parts["view"] == "mine":
            del parts["view"]
        return "?" + urlencode({name: value for name, value in parts.items() if value})
