"""Forking a run: choose a step, edit the context, look at the changes, confirm."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from flujo.errors import FlujoError

from runs.fork_form import ForkForm
from runs.models import Run
from runs.queries import run_fork
from runs.reason import MAX_REASON
from runs.services.fork import fork as fork_run
from runs.services.origin import origin_of
from runs.views.errors import incomplete, respond
from runs.views.run import with_run

TEMPLATE = "run/fork.html"


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def fork(request: HttpRequest, run: Run) -> HttpResponse:
    page = run_fork.page(request.user, run, request.GET.get("step", ""))
    form = ForkForm(page, request)
    context = {"nav": "runs", "page": page, "header": page.header, "form": form, "max_reason": MAX_REASON}
    if request.method != "POST" or form.is_row_action:
        return render(request, TEMPLATE, context, status=422 if page.problem else 200)
    if not page.why_not and (not page.step or not form.is_valid()):
        return incomplete(request, TEMPLATE, context, run_id=run.pk)
    if not form.confirmed:
        return render(request, TEMPLATE, {**context, "review": True})
    try:
        made = fork_run(
            actor=request.user,
            run_id=run.pk,
            from_step=page.step,
            edits=form.edits,
            reason=form.reason,
            key=form.key.value,
            origin=origin_of(request),
        )
    except FlujoError as error:
        form.refuse(error)
        return respond(request, error, TEMPLATE, context)
    messages.success(request, f"This run goes on from step {page.step}; the other one was left as it was.")
    return HttpResponseRedirect(made.get_absolute_url(), status=303)
