"""Cancelling a run."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from runs.models import Run
from runs.queries.run_action import cancelling
from runs.services.cancel import cancel as cancel_run
from runs.services.origin import origin_of
from runs.views.run import with_run
from runs.views.run_action import Acted, confirm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def cancel(request: HttpRequest, run: Run) -> HttpResponse:
    def act(reason: str) -> Acted:
        after = cancel_run(actor=request.user, run_id=run.pk, reason=reason, origin=origin_of(request))
        return "The run is being stopped." if after.active else "The run is cancelled.", after

    return confirm(request, "run/cancel.html", cancelling(request.user, run), act)
