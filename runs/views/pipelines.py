"""The pipelines, one pipeline, and starting a run of it."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from flujo.errors import FlujoError, PipelineNotFound
from flujo.registry import RegisteredPipeline

from runs import access
from runs.queries import pipelines
from runs.registry import registry
from runs.services.origin import origin_of
from runs.services.start import start as start_run
from runs.start_form import StartForm
from runs.views.errors import hidden, incomplete, respond

START = "pipelines/start.html"


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "pipelines/index.html", {"nav": "pipelines", "cards": pipelines.cards(request.user)})


@require_safe
@never_cache
def detail(request: HttpRequest, name: str) -> HttpResponse:
    page = pipelines.page(request.user, name, request.GET.get("version", ""))
    status = 422 if page.problem else 200
    return render(request, "pipelines/detail.html", {"nav": "pipelines", "page": page}, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def start(request: HttpRequest, name: str) -> HttpResponse:
    entry = _known(request, name)
    form = StartForm(entry, request)
    allowed = access.may(request.user, "start", name)
    context = {"nav": "pipelines", "entry": entry, "form": form, "allowed": allowed}
    if request.method != "POST" or form.input.is_row_action:
        return render(request, START, context, status=200 if allowed else 403)
    if allowed and not form.is_valid():
        return incomplete(request, START, context, pipeline=name)
    try:
        run = start_run(
            actor=request.user,
            pipeline=entry.name,
            version=entry.version,
            data=form.input.data,
            title=form.title,
            idempotency_key=form.key.value,
            origin=origin_of(request),
        )
    except FlujoError as error:
        form.refuse(error)
        return respond(request, error, START, context)
    return HttpResponseRedirect(run.get_absolute_url(), status=303)


def _known(request: HttpRequest, name: str) -> RegisteredPipeline:
    if not access.may(request.user, "view", name):
        raise hidden(request, PipelineNotFound("No such pipeline."), pipeline=name)
    try:
        return registry.get(name, request.GET.get("version") or None)
    except PipelineNotFound as error:
        raise Http404(error.message) from error
