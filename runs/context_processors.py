"""What every page of the console shows around its content: counts, environment, theme."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from runs import site_settings

THEMES = ("light", "dark")


def console(request: HttpRequest) -> dict[str, Any]:
    """The shell's context; the count is lazy, so a fragment that doesn't show it costs no query."""
    from runs.queries.nav import inbox_count  # imported late: settings load this module before the models exist

    theme = request.COOKIES.get("theme", "")
    return {
        "environment": environment(),
        "sign_in_url": resolve_url(settings.LOGIN_URL),
        "sign_out_url": resolve_url(site_settings.sign_out()),
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
        "theme": theme if theme in THEMES else "",
        "generated_at": timezone.now(),
        "nav_inbox_count": SimpleLazyObject(lambda: inbox_count(request.user)),
    }


def environment() -> str:
    """The name on the environment badge."""
    if settings.DEBUG:
        return "demo" if site_settings.demo() else "development"
    return str(getattr(settings, "FLUJO_ENVIRONMENT", "production"))
