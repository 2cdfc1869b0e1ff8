"""What the site asks of every request, and the response headers that neither Django nor the CSP middleware sets."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from django.conf import settings
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

PERMISSIONS_POLICY = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer", "autoplay", "camera", "display-capture", "encrypted-media", "fullscreen", "geolocation",
        "gyroscope", "magnetometer", "microphone", "midi", "payment", "picture-in-picture",
        "publickey-credentials-get", "screen-wake-lock", "usb", "xr-spatial-tracking",
    )
)  # fmt: skip


class ClientAddress(MiddlewareMixin):
    """Behind a trusted proxy, the peer is the one that the proxy saw: the last address of X-Forwarded-For.

    Those before it are whatever the client claimed. The limit of failed sign-ins and the audit count on the peer.
    """

    def process_request(self, request: HttpRequest) -> None:
        if settings.FLUJO_TRUSTED_PROXY:
            last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
            with suppress(ValueError):
                request.META["REMOTE_ADDR"] = str(ip_address(last))


class NoNul(MiddlewareMixin):
    """Answers 400 to an address with a NUL in it: no text of ours has one, and PostgreSQL cannot compare with one."""

    def process_request(self, request: HttpRequest) -> None:
        if "\0" in request.path_info or "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("An address holds no NUL character.")


class ResponseHeaders(MiddlewareMixin):
    """Turns off browser features the console never uses, and keeps signed-in pages out of every cache."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if _signed_in(request):
            response.headers.setdefault("Cache-Control", "no-store, private")
        return response


def _signed_in(request: HttpRequest) -> bool:
    """Whether the page was made for a signed-in user; a view that never looked at the session costs no query here."""
    session = getattr(request, "session", None)
    return session is not None and session.accessed and request.user.is_authenticated
