"""The live tail of a step's log: what came since the page was drawn."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from runs import access
from runs.models import Run
from runs.queries import run_step
from runs.views.run import NOT_CHANGED, count, with_run


@require_safe
@cache_control(no_store=True)
@with_run
def tail(request: HttpRequest, run: Run, step_path: str) -> HttpResponse:
    """The lines behind `after`, and the place where those that come next are put."""
    if not access.may(request.user, "view_context", run.pipeline):
        raise Http404("No such log.")
    attempt, after, number = (count(request.GET.get(name, "")) for name in ("attempt", "after", "number"))
    log = run_step.log_of(run, step_path, attempt=attempt, after=after, shown=True)
    if log is None:
        raise Http404("No such log.")
    if log.follows and log.number == number:
        return HttpResponse(status=NOT_CHANGED)
    return render(request, "run/_log_tail.html", {"log": log, "run": run, "live": True})
