"""The confirmation of an act on a run: GET says what will happen, POST does it with a reason."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from flujo.errors import FlujoError

from runs.queries.run_action import ActionPage
from runs.views.errors import respond

MAX_REASON = 1_000


def confirm(request: HttpRequest, template: str, page: ActionPage, act: Callable[[str], str]) -> HttpResponse:
    """Render the page, or call `act` with the typed reason and go to the run, where its sentence is shown."""
    reason = request.POST.get("reason", "").strip()
    context = {"nav": "runs", "page": page, "header": page.header, "reason": reason, "max_reason": MAX_REASON}
    if request.method != "POST":
        return render(request, template, context)
    if problem := _problem(reason):
        return render(request, template, {**context, "problem": problem}, status=422)
    try:
        said = act(reason)
    except FlujoError as error:
        return respond(request, error, template, context)
    messages.success(request, said)
    return HttpResponseRedirect(page.header.run.get_absolute_url(), status=303)


def _problem(reason: str) -> str:
    if not reason:
        return "Say why: the reason stays in the run's history."
    return (
        f"A reason has at most {MAX_REASON} characters; this one has {len(reason)}." if len(reason) > MAX_REASON else ""
    )
