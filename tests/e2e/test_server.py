"""The server's limits, asked over raw connections: bodies, frames, origins, and what it says about itself."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from tests.e2e.site import Site

pytestmark = pytest.mark.slow
TOO_LARGE = 12 * 1024 * 1024


@contextmanager
def connection(site: Site) -> Iterator[http.client.HTTPConnection]:
    where = urlsplit(site.url)
    with closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=20)) as opened:
        yield opened


@contextmanager
def raw(site: Site, request: list[str]) -> Iterator[socket.socket]:
    where = urlsplit(site.url)
    with socket.create_connection((str(where.hostname), where.port or 80), timeout=20) as opened:
        opened.sendall("\r\n".join([*request, f"Host: {where.netloc}", "", ""]).encode())
        yield opened


def upgrade(site: Site, path: str = "/ws/live/", **headers: str) -> list[str]:
    key = base64.b64encode(os.urandom(16)).decode()
    fixed = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    return [f"GET {path} HTTP/1.1", *fixed, *(f"{name}: {value}" for name, value in headers.items())]


def own(site: Site) -> dict[str, str]:
    """The headers of a page of the site, signed in."""
    return {"Origin": site.url.rstrip("/"), "Cookie": f"flujo={site.sessions['operator']}"}


def hangs_up(opened: socket.socket) -> bool:
    """Whether the other side ends the connection, in order or at once; waiting in vain is an error."""
    try:
        while opened.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_server_refuses_a_large_body_before_it_has_arrived(site: Site) -> None:
    with raw(site, ["POST /sign-in/ HTTP/1.1", f"Content-Length: {10**12}"]) as opened:
        assert status(opened.recv(4096)) == 413


def test_server_refuses_a_large_body_that_does_not_say_so(site: Site) -> None:
    piece = b"x" * 65536
    with raw(site, ["POST /sign-in/ HTTP/1.1", "Transfer-Encoding: chunked"]) as opened:
        sent = 0
        while sent <= TOO_LARGE:
            opened.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            sent += len(piece)
        assert status(opened.recv(4096)) == 413


def test_server_does_not_say_what_it_is(site: Site) -> None:
    with connection(site) as http_connection:
        http_connection.request("GET", "/healthz")
        answer = http_connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Server") is None


def test_socket_opens_for_the_sites_own_pages_only(site: Site) -> None:
    other = own(site) | {"Origin": "http://127.0.0.1:1"}
    for headers, expected in ((own(site), 101), (other, 403), ({"Cookie": own(site)["Cookie"]}, 403)):
        with raw(site, upgrade(site, **headers)) as opened:
            assert status(opened.recv(4096)) == expected, headers


def test_socket_path_that_leads_nowhere_is_closed_without_an_error(site: Site) -> None:
    with raw(site, upgrade(site, "/ws/elsewhere/", **own(site))) as opened:
        assert status(opened.recv(4096)) == 403
    assert "Traceback" not in site.said


def test_socket_closes_on_a_frame_above_the_limit(site: Site) -> None:
    with raw(site, upgrade(site, **own(site))) as opened:
        assert status(opened.recv(4096)) == 101
        opened.sendall(b"\x81" + bytes([0x80 | 127]) + struct.pack("!Q", 70_000) + b"\0\0\0\0")
        assert hangs_up(opened)
