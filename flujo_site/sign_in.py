"""What a person sees after too many wrong passwords: the sign-in page, saying when to come back."""

from __future__ import annotations

from typing import Any, NoReturn

from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


class _Refused(AuthenticationForm):
    """Refuses without a look at the password, so that the answer tells nothing about it."""

    def clean(self) -> NoReturn:
        raise ValidationError("Too many failed sign-ins. Wait 15 minutes, then try again.")


def locked_out(request: HttpRequest, *_: Any, **__: Any) -> HttpResponse:
    """Answer 429 with the sign-in form; nothing says whether the account exists."""
    return render(request, "registration/login.html", {"form": _Refused(request, data=request.POST)}, status=429)
