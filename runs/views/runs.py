"""The run list."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from runs import access
from runs.filters import RunFilter
from runs.queries import keyset, run_list
from runs.registry import registry

NOT_CHANGED = 204


@require_safe
@vary_on_headers("HX-Request")
@cache_control(no_store=True)
def index(request: HttpRequest) -> HttpResponse:
    asked = RunFilter(request.GET)
    partial = wants_fragment(request)
    context = {"asked": asked, "page": run_list.page(request.user, asked), "pipelines": _pipelines(request)}
    template = "runs/_results.html" if partial else "runs/index.html"
    answer = render(request, template, {"nav": "runs", **context}, status=422 if asked.problems else 200)
    if partial:
        answer["HX-Push-Url"] = asked.here
    return answer


@require_safe
@cache_control(no_store=True)
def fragment(request: HttpRequest) -> HttpResponse:
    query = request.GET.copy()
    ids, since, rev = (query.pop(name, [""])[-1] for name in ("ids", "since", "rev"))
    asked = RunFilter(query)
    try:
        cursor = keyset.read(since) if since else None
    except keyset.InvalidCursor as error:
        return HttpResponse(str(error), status=422)
    page = run_list.refresh(request.user, asked, ids.split(",") if ids else [], cursor)
    if page.rev == rev:
        return HttpResponse(status=NOT_CHANGED)
    return render(request, "runs/_live.html", {"asked": asked, "page": page})


def wants_fragment(request: HttpRequest) -> bool:
    """Whether htmx asks for a part; a boosted link and a restored history entry ask for the page."""
    htmx = request.htmx  # type: ignore[attr-defined]  # set by django-htmx's middleware
    return bool(htmx) and not htmx.boosted and not htmx.history_restore_request


def _pipelines(request: HttpRequest) -> list[str]:
    granted = access.pipelines_for(request.user, "view")
    return [name for name in registry.names() if granted is None or name in granted]
