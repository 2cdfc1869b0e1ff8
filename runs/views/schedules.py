"""Making, changing, switching and deleting the schedules of a pipeline."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from flujo.errors import FlujoError, InvalidInput, NotAllowed, PipelineNotFound
from flujo.registry import RegisteredPipeline

from runs import access
from runs.declared_schedules import in_code
from runs.models import Schedule
from runs.registry import registry
from runs.schedule_form import ScheduleForm
from runs.services import schedules
from runs.services.origin import origin_of
from runs.views.errors import hidden, incomplete, respond

FORM, DELETE = "schedules/form.html", "schedules/delete.html"


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def new(request: HttpRequest, name: str) -> HttpResponse:
    return _form(request, _known(request, name), None)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def change(request: HttpRequest, name: str, schedule_id: int) -> HttpResponse:
    entry = _known(request, name)
    return _form(request, entry, get_object_or_404(Schedule, pk=schedule_id, pipeline=name))


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def delete(request: HttpRequest, name: str, schedule_id: int) -> HttpResponse:
    allowed = _seen(request, name)
    schedule = get_object_or_404(Schedule, pk=schedule_id, pipeline=name)
    fixed = in_code(schedule)
    context = {"nav": "pipelines", "schedule": schedule, "allowed": allowed and not fixed, "fixed": fixed}
    if request.method != "POST":
        return render(request, DELETE, context, status=200 if context["allowed"] else 403)
    try:
        schedules.delete(actor=request.user, schedule=schedule, origin=origin_of(request))
    except FlujoError as error:
        return respond(request, error, DELETE, context)
    messages.success(request, f"The schedule {schedule.name} is deleted.")
    return HttpResponseRedirect(reverse("runs:pipeline", args=[name]), status=303)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def switch(request: HttpRequest, name: str, schedule_id: int, *, enabled: bool) -> HttpResponse:
    """Switch a schedule off, or on again; a look leads to the page that has the buttons."""
    _seen(request, name)
    schedule = get_object_or_404(Schedule, pk=schedule_id, pipeline=name)
    if request.method == "POST":
        try:
            schedules.switch(actor=request.user, schedule=schedule, enabled=enabled, origin=origin_of(request))
            messages.success(request, f"The schedule {schedule.name} is switched {'on' if enabled else 'off'}.")
        except NotAllowed as error:
            return respond(request, error, "403.html")
        except InvalidInput as error:  # its time zone is gone
            messages.error(request, f"{schedule.name} was not switched on. {error.message}")
    return HttpResponseRedirect(reverse("runs:pipeline", args=[name]), status=303)


def _form(request: HttpRequest, entry: RegisteredPipeline, schedule: Schedule | None) -> HttpResponse:
    fixed = schedule is not None and in_code(schedule)
    may = access.verbs_on(request.user, entry.name)
    lacking = next((verb for verb in ("schedule", "start") if verb not in may), "")
    allowed = not lacking and not fixed
    form = ScheduleForm(entry, request, schedule if allowed else None)
    context = {
        "nav": "pipelines",
        "entry": entry,
        "schedule": schedule,
        "form": form,
        "allowed": allowed,
        "fixed": fixed,
        "lacking": lacking,
    }
    if request.method != "POST" or form.input.is_row_action or form.previews:
        return render(
            request, FORM, context, status=403 if not allowed else 422 if form.previews and form.failed else 200
        )
    if not form.is_valid() and allowed:
        return incomplete(request, FORM, context, pipeline=entry.name)
    try:
        saved = _save(request, entry, schedule, form)
    except FlujoError as error:
        form.refuse(error)
        return respond(request, error, FORM, context)
    messages.success(request, f"The schedule {saved.name} is saved.")
    return HttpResponseRedirect(reverse("runs:pipeline", args=[entry.name]), status=303)


def _save(request: HttpRequest, entry: RegisteredPipeline, schedule: Schedule | None, form: ScheduleForm) -> Schedule:
    return schedules.save(
        actor=request.user, pipeline=entry.name, schedule=schedule, terms=form.terms, origin=origin_of(request)
    )


def _seen(request: HttpRequest, name: str) -> bool:
    if not access.may(request.user, "view", name):
        raise hidden(request, PipelineNotFound("No such pipeline."), pipeline=name)
    return access.may(request.user, "schedule", name)


def _known(request: HttpRequest, name: str) -> RegisteredPipeline:
    _seen(request, name)
    try:
        return registry.get(name)
    except PipelineNotFound as error:
        raise Http404(error.message) from error
