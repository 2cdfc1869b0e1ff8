"""Rerunning a run."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from runs.form_key import FormKey
from runs.models import Run
from runs.queries.run_action import rerunning
from runs.registry import registry
from runs.services.origin import origin_of
from runs.services.rerun import rerun as rerun_run
from runs.views.run import with_run
from runs.views.run_action import Acted, confirm


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def rerun(request: HttpRequest, run: Run) -> HttpResponse:
    key = FormKey.of(request.POST.get("key", ""), salt="flujo.rerun")
    versions, version = registry.versions(run.pipeline), request.POST.get("version", "")

    def act(reason: str) -> Acted:
        made = rerun_run(
            actor=request.user,
            run_id=run.pk,
            version=version or None,
            reason=reason,
            key=key.value,
            origin=origin_of(request),
        )
        return "This run does the same work anew.", made

    more = {"key": key.signed, "versions": versions, "version": version or next(iter(versions), "")}
    return confirm(request, "run/rerun.html", rerunning(request.user, run), act, more)
