"""Retrying a failed run."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from runs.models import Run
from runs.queries.run_action import retrying
from runs.services.origin import origin_of
from runs.services.retry import retry as retry_run
from runs.views.run import with_run
from runs.views.run_action import Acted, confirm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def retry(request: HttpRequest, run: Run) -> HttpResponse:
    def act(reason: str) -> Acted:
        after = retry_run(actor=request.user, run_id=run.pk, reason=reason, origin=origin_of(request))
        return f"The run will try {run.step_name} again.", after

    return confirm(request, "run/retry.html", retrying(request.user, run), act)
