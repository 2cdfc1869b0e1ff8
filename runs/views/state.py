"""The state pages: what is stored, which runs are stale, and their deletion after a preview."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from flujo.errors import InvalidInput, NotAllowed
from flujo.status import RunStatus

from runs import access
from runs.cleanup_form import TYPED_ABOVE, ConfirmForm, CriteriaForm
from runs.queries import state
from runs.services.origin import origin_of
from runs.services.purge import Frozen, PreviewOutdated, preview, purge, require_delete
from runs.views.errors import record_early, respond

RESULT = "cleanup_result"
REMEMBERED = 200


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """Storage use, and the form that looks for stale runs."""
    stored = state.storage(request.user)
    context = {
        "nav": "state",
        "storage": stored,
        "criteria": state.Criteria(30),
        "pipelines": sorted(use.pipeline for use in stored.pipelines),
        "statuses": list(RunStatus),
    }
    return render(request, "state/index.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def cleanup(request: HttpRequest) -> HttpResponse:
    """The preview of a cleanup; posting its confirmation deletes what it showed."""
    if "result" in request.GET:
        result = request.session.get(RESULT)
        return render(request, "state/result.html", {"nav": "state", "result": result}, status=200 if result else 404)
    return _delete(request) if request.method == "POST" else _preview(request)


def _preview(request: HttpRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    form = CriteriaForm(request.GET)
    valid = form.is_valid()
    seen = preview(request.user, form.criteria()) if valid else None
    context = {
        "nav": "state",
        "form": form,
        "criteria": form.criteria() if valid else state.Criteria(30),
        "preview": seen,
        "frozen": seen.frozen.text(request.user) if seen else "",
        "typed": seen is not None and seen.count > TYPED_ABOVE,
        "may_delete": access.pipelines_for(request.user, "delete") != set(),
        "pipelines": state.pipeline_names(request.user),
        "statuses": list(RunStatus),
        "reason": request.POST.get("reason", ""),
        **context,
    }
    return render(request, "state/cleanup.html", context, status=status if valid else 422)


def _delete(request: HttpRequest) -> HttpResponse:
    origin = origin_of(request)
    try:
        require_delete(request.user, origin)
        frozen = Frozen.read(request.POST.get("frozen", ""), request.user)
    except NotAllowed as error:
        return respond(request, error, "403.html", {"nav": "state"})
    except PreviewOutdated as error:
        record_early(request, error)
        return _preview(request, status=409, error=error)
    form = ConfirmForm(request.POST, count=len(frozen.seqs))
    if not form.is_valid():
        record_early(request, InvalidInput())
        return _preview(request, status=422, confirm=form)
    reason = form.cleaned_data["reason"]
    done = purge(
        actor=request.user,
        run_ids=frozen.seqs,
        reason=reason,
        origin=origin,
        seen=frozen.seqs,
        untouched_since=frozen.cutoff,
    )
    request.session[RESULT] = {
        "count": len(done.deleted),
        "deleted": done.deleted[:REMEMBERED],
        "skipped_count": len(done.skipped),
        "skipped": [asdict(run) for run in done.skipped[:REMEMBERED]],
        "reason": reason,
    }
    return HttpResponseRedirect(reverse("runs:state_cleanup") + "?result=1", status=303)
