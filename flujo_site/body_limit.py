"""The size limit of a request body, kept before Django reads it."""

from __future__ import annotations

from typing import Any

from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope


class _BodyTooLarge(BaseException):
    """Leaves the application from inside `receive`; a BaseException, so that no handler there takes it for its own."""


class BodyLimit:
    """Wraps an ASGI application: a body above `limit` bytes is answered with 413, whatever its header says."""

    def __init__(self, application: Any, *, limit: int) -> None:
        self.application: ASGI3Application = application
        self.limit = limit

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        if _declared(scope["headers"]) > self.limit:
            await _refuse(send)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.limit:
                    raise _BodyTooLarge
            return message

        try:
            await self.application(scope, counted, send)
        except _BodyTooLarge:
            await _refuse(send)


def _declared(headers: Any) -> int:
    """The largest length any Content-Length header claims; a malformed one counts as none, the bytes are counted."""
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    return max((int(value) for value in lengths if value.isdigit()), default=0)


async def _refuse(send: ASGISendCallable) -> None:
    body = b"The request is larger than this site accepts.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": body, "more_body": False})
