"""The gate of the socket: only a page of this very site, scheme, host and port, may open it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings

Scope = dict[str, Any]

DEFAULT_PORTS = {"http": 80, "https": 443}


class SameOrigin:
    """Refuses a socket whose Origin is missing or is not this site's.

    Cookies ignore ports, so any other application on the same host could open the socket with the operator's session;
    channels' own validators compare host names only. The site's origins are `FLUJO_ORIGINS`, where set, else the
    request's own scheme and Host.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        inner: Any = self.application if self.admits(scope) else WebsocketDenier.as_asgi()
        await inner(scope, receive, send)

    def admits(self, scope: Scope) -> bool:
        """Whether the connection comes from a page of this site."""
        origin, host = _header(scope, b"origin"), _header(scope, b"host")
        claimed = _origin(origin)
        return claimed is not None and claimed in _own_origins(scope, host)


def _own_origins(scope: Scope, host: str) -> set[tuple[str, str, int]]:
    named: Iterable[str] = getattr(settings, "FLUJO_ORIGINS", ())
    own = named or ([f"{_scheme(scope)}://{host}"] if _host_allowed(host) else [])
    return {origin for text in own if (origin := _origin(text)) is not None}


def _scheme(scope: Scope) -> str:
    """The scheme of the page: `wss`, or the header a trusted proxy sets, means https."""
    trusted = settings.SECURE_PROXY_SSL_HEADER
    if trusted is not None:
        name = trusted[0].removeprefix("HTTP_").replace("_", "-").lower().encode()
        if _header(scope, name) == trusted[1]:
            return "https"
    return "https" if scope.get("scheme") in {"wss", "https"} else "http"


def _host_allowed(host: str) -> bool:
    """The socket has no middleware that compares Host with ALLOWED_HOSTS, so it is done here."""
    from django.http.request import split_domain_port, validate_host

    domain = split_domain_port(host)[0]
    allowed = settings.ALLOWED_HOSTS or (["localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    return bool(domain) and validate_host(domain, allowed)


def _header(scope: Scope, name: bytes) -> str:
    """The header's value; "" when it is absent or given twice."""
    values = [value for key, value in scope.get("headers", ()) if key == name]
    return str(values[0].decode("latin1")) if len(values) == 1 else ""


def _origin(text: str) -> tuple[str, str, int] | None:
    """The (scheme, host, port) that `text` names, or None when it is not exactly an origin."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        return None
    if parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port if port is not None else DEFAULT_PORTS[parts.scheme]
