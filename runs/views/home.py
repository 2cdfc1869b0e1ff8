"""The front door: to the inbox when someone waits for you, else to the runs."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from runs.queries.nav import inbox_count


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    return redirect("runs:inbox" if inbox_count(request.user) else "runs:runs")
