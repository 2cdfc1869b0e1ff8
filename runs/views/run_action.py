"""The confirmation of an act on a run: GET says what will happen, POST does it with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from flujo.errors import FlujoError

from runs.models import Run
from runs.queries.run_action import ActionPage
from runs.reason import MAX_REASON, reason_problem
from runs.views.errors import incomplete, respond

Acted = tuple[str, Run]


def confirm(
    request: HttpRequest,
    template: str,
    page: ActionPage,
    act: Callable[[str], Acted],
    more: Mapping[str, Any] | None = None,
) -> HttpResponse:
    """Render the page, or call `act` with the typed reason and go to the run it gives, where its sentence is shown.

    `more` is what the template needs beside the page.
    """
    reason = request.POST.get("reason", "").strip()
    context = {"nav": "runs", "page": page, "header": page.header, "reason": reason, "max_reason": MAX_REASON}
    context |= more or {}
    if request.method != "POST":
        return render(request, template, context)
    if problem := reason_problem(reason):
        return incomplete(request, template, {**context, "problem": problem}, run_id=page.header.run.pk)
    try:
        said, run = act(reason)
    except FlujoError as error:
        return respond(request, error, template, context)
    messages.success(request, said)
    return HttpResponseRedirect(run.get_absolute_url(), status=303)
