"""Letting a parked run go on."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from runs.models import Run
from runs.queries.run_action import unparking
from runs.services.origin import origin_of
from runs.services.unpark import unpark as unpark_run
from runs.views.run import with_run
from runs.views.run_action import Acted, confirm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def unpark(request: HttpRequest, run: Run) -> HttpResponse:
    def act(reason: str) -> Acted:
        after = unpark_run(actor=request.user, run_id=run.pk, reason=reason, origin=origin_of(request))
        return "The run is queued again.", after

    return confirm(request, "run/unpark.html", unparking(request.user, run), act)
