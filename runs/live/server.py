"""Daphne with the limits a console needs, and an end that lets requests finish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import daphne.server  # installs the asyncio reactor, and must come before anything else imports Twisted's
from daphne.http_protocol import WebRequest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorTime

WEBSOCKET_BYTES = 65536
WEBSOCKET_SECONDS = 3600
HTTP_SECONDS = 30
BODY_SECONDS = 60.0
REFUSED_SECONDS = 2.0
REQUESTS_END_SECONDS = 5.0

REFUSAL = b"The request is larger than this site accepts.\n"


class BoundedRequest(WebRequest):
    """A request whose body is bounded while it arrives.

    Daphne hands a request on when it has all of it: without this, anyone may fill the disk before Django is asked.
    """

    received = 0
    refused = False
    _deadline: Any = None

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        self._deadline = _time().callLater(BODY_SECONDS, self._abort)
        if length is not None and length > self._limit:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self._limit and not self.refused:
            self._refuse()
        if not self.refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self._stop_waiting()
        if not self.refused:
            super().requestReceived(command, path, version)

    def connectionLost(self, reason: Any) -> None:
        self._stop_waiting()
        super().connectionLost(reason)

    @property
    def _limit(self) -> int:
        return cast(int, self.server.body_limit)

    def _refuse(self) -> None:
        """Answer at once, read on for a moment so that the answer arrives, and hang up."""
        self.refused = True
        head = f"HTTP/1.1 413 Content Too Large\r\nContent-Type: text/plain\r\nContent-Length: {len(REFUSAL)}\r\n"
        self.channel.transport.write(head.encode() + b"Connection: close\r\n\r\n" + REFUSAL)
        _time().callLater(REFUSED_SECONDS, self._abort)

    def _abort(self) -> None:
        if self.channel is not None:
            self.channel.transport.loseConnection()

    def _stop_waiting(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()


class Server(daphne.server.Server):
    """Serves `application` on a socket that is already bound."""

    def __init__(self, application: Any, *, descriptor: int, body_limit: int) -> None:
        super().__init__(
            application,
            endpoints=[f"fd:fileno={descriptor}"],
            http_timeout=HTTP_SECONDS,
            websocket_timeout=WEBSOCKET_SECONDS,
            websocket_max_message_size=WEBSOCKET_BYTES,
            websocket_max_frame_size=WEBSOCKET_BYTES,
            server_name="",
            ready_callable=self._bound_requests,
        )
        self.body_limit = body_limit
        self._ports: list[Any] = []

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self._ports.append(port)

    def kill_all_applications(self) -> Any:
        """Take no more requests, let those at work finish, and end the sockets, which come back elsewhere."""
        for port in self._ports:
            port.stopListening()
        return Deferred.fromFuture(asyncio.ensure_future(self._finish()))

    async def _finish(self) -> None:
        working = []
        for protocol, details in list(self.connections.items()):
            application = details.get("application_instance")
            if application is None or application.done():
                continue
            if isinstance(protocol, WebRequest):
                working.append(application)
            else:
                protocol.serverClose(code=1000)
        if working:
            _, late = await asyncio.wait(working, timeout=REQUESTS_END_SECONDS)
            for application in late:
                application.cancel()

    def _bound_requests(self) -> None:
        build: Callable[[Any], Any] = self.http_factory.buildProtocol

        def bounded(address: Any) -> Any:
            protocol = build(address)
            protocol.requestFactory = BoundedRequest
            return protocol

        self.http_factory.buildProtocol = bounded


def when_running(begin: Callable[[], None], end: Callable[[], Any]) -> None:
    """Call `begin` when the server runs, `end` before it stops; the Deferred that `end` returns is waited for."""
    core = cast(IReactorCore, reactor)
    core.callWhenRunning(begin)
    core.addSystemEventTrigger("before", "shutdown", end)


def _time() -> IReactorTime:
    return cast(IReactorTime, reactor)
