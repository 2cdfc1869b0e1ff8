"""The inbox: what waits for a person."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from runs import access
from runs.inbox_filter import DUE, VIEWS, InboxFilter
from runs.queries import inbox
from runs.queries.keyset import InvalidCursor

MOST_IDS = 200
LONGEST_ID = 19


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """The list, by view, pipeline and text."""
    wanted = InboxFilter.of(request.GET)
    try:
        context = _context(request, wanted)
    except InvalidCursor:
        messages.warning(request, "That link to a page of the list is damaged. This is its beginning.")
        return redirect(request.path + wanted.link(cursor=""))
    tabs = [(view, label, wanted.link(view=view, cursor="")) for view, label in VIEWS.items()]
    pipelines = inbox.pipelines(request.user)
    return render(
        request,
        "inbox/index.html",
        {**context, "tabs": tabs, "pipelines": pipelines, "due": DUE.items(), "nav": "inbox"},
    )


@require_safe
@never_cache
def fragment(request: HttpRequest) -> HttpResponse:
    """The rows again: those the page shows stay where they are, new ones come last in their section."""
    wanted = InboxFilter.of(request.GET)
    shown = frozenset(_ids(request.GET.get("shown", "")))
    try:
        return render(request, "inbox/_list.html", {**_context(request, wanted, shown), "swap": True})
    except InvalidCursor as error:
        return HttpResponse(str(error), status=400, content_type="text/plain")


@require_safe
@never_cache
def next_open(request: HttpRequest) -> HttpResponse:
    """To the request that has waited longest for you in this filter."""
    wanted = InboxFilter.of(request.GET)
    after = next(_ids(request.GET.get("after", "")), 0)
    task = inbox.next_open(request.user, wanted, after)
    if task is None:
        messages.info(request, "Nothing else waits for you.")
        return redirect("runs:inbox")
    return redirect(task.get_absolute_url() + wanted.narrowing)


def _ids(text: str) -> Iterator[int]:
    """The ids in a comma-separated text, as many as fit a page; what no row can have as its id is left out."""
    words = islice(text.split(","), MOST_IDS)
    return (int(word) for word in words if word.isdecimal() and len(word) < LONGEST_ID)


def _context(request: HttpRequest, wanted: InboxFilter, shown: frozenset[int] = frozenset()) -> dict[str, Any]:
    if wanted.view == "decided":
        page = inbox.decided_page(request.user, wanted)
    else:
        page = inbox.open_page(request.user, wanted, shown)
    return {
        "page": page,
        "filter": wanted,
        "shown": ",".join(str(row.task_id) for row in page.rows),
        "older": wanted.link(cursor=page.older) if page.older else "",
        "first": wanted.link(cursor="") if wanted.cursor else "",
        "nav_inbox_count": page.mine_count,
        "may_start": not page.rows and access.pipelines_for(request.user, "start") != set(),
    }
