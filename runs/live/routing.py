"""The addresses of the site's sockets, and the wrapper that guards them."""

from __future__ import annotations

from typing import Any

from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from channels.sessions import CookieMiddleware
from django.urls import path, re_path

from runs.live.consumer import LiveConsumer
from runs.live.same_origin import SameOrigin

_live: Any = LiveConsumer.as_asgi()  # Any: the stubs of Django know views only, not ASGI applications
_closed: Any = WebsocketDenier.as_asgi()

websocket_urlpatterns: Any = [
    path("ws/live/", _live),
    re_path(r"", _closed),  # an unrouted path would be an error of ours, and a 500
]

application = SameOrigin(CookieMiddleware(URLRouter(websocket_urlpatterns)))
