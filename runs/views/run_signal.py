"""Sending a run the signal that it waits for, or will."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from flujo.errors import FlujoError, PipelineNotFound, SignalUnknown
from flujo.waits import SignalStep

from runs.models import Run
from runs.queries.run_action import signalling
from runs.registry import registry
from runs.services.origin import origin_of
from runs.services.signal import signal as send_signal
from runs.signal_form import SignalForm
from runs.views.errors import hidden, incomplete, respond
from runs.views.run import with_run

TEMPLATE = "run/signal.html"


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@with_run
def signal(request: HttpRequest, run: Run, signal_name: str) -> HttpResponse:
    form = SignalForm(_receiving(request, run, signal_name), request)
    page = signalling(request.user, run, signal_name)
    context = {"nav": "runs", "page": page, "header": page.header, "name": signal_name, "form": form}
    if request.method != "POST" or form.data.is_row_action:
        return render(request, TEMPLATE, context)
    if not form.data.is_valid() and not page.why_not:
        return incomplete(request, TEMPLATE, context, run_id=run.pk)
    try:
        send_signal(
            actor=request.user,
            run_id=run.pk,
            name=signal_name,
            data=form.data.data,
            message_id=form.key.value,
            origin=origin_of(request),
        )
    except FlujoError as error:
        form.refuse(error)
        return respond(request, error, TEMPLATE, context)
    messages.success(request, f"The signal {signal_name} was sent.")
    return HttpResponseRedirect(run.get_absolute_url(), status=303)


def _receiving(request: HttpRequest, run: Run, name: str) -> SignalStep:
    try:
        return registry.get(run.pipeline, run.version).signal_step(name)
    except (PipelineNotFound, SignalUnknown) as error:
        raise hidden(request, error, run_id=run.pk) from error
