"""What a person sees after too many wrong passwords: the sign-in page, saying when to come back."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def locked_out(request: HttpRequest, _credentials: dict[str, Any] | None = None, *_: Any, **__: Any) -> HttpResponse:
    """Answer 429 with the sign-in form; nothing tells whether the account exists."""
    form = AuthenticationForm(request, data={"username": request.POST.get("username", ""), "password": "x"})
    form.cleaned_data = {}
    form._errors = form.error_class()  # type: ignore[attr-defined]  # validated here it would check the password
    form.add_error(None, "Too many failed sign-ins. Wait 15 minutes, then try again.")
    return render(request, "registration/login.html", {"form": form}, status=429)
