"""The response headers that neither Django nor the CSP middleware sets."""

from __future__ import annotations

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
