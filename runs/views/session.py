"""The session as the page asks for it: am I alive, am I signed in, what does my navigation count."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@login_not_required
@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@require_safe
@never_cache
def fragment(request: HttpRequest) -> HttpResponse:
    """200 while signed in, else 401: what a live page asks after refused sockets."""
    return HttpResponse(status=200 if request.user.is_authenticated else 401)


@require_safe
@never_cache
def nav(request: HttpRequest) -> HttpResponse:
    """The navigation's count."""
    return render(request, "components/_nav_count.html")
