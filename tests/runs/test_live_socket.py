"""The live socket: who may open it, what it tells them, and when it stops telling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.conf import LazySettings, settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from flujo.status import EventKind

from runs.live import consumer
from runs.live.feed import feed
from runs.live.routing import application
from runs.models import PipelineGrant, Run
from tests.runs import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio, pytest.mark.slow]

ORIGIN = "http://testserver"
SocketOf = Callable[..., Awaitable[WebsocketCommunicator]]
in_thread = sync_to_async


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Beats and pauses short enough to wait for; a channel layer of this test's loop."""
    monkeypatch.setattr(consumer, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(consumer, "COOLING_SECONDS", 0.3)
    channel_layers.backends.clear()
    yield
    channel_layers.backends.clear()


@pytest.fixture
async def open_socket() -> AsyncIterator[SocketOf]:
    """Opens sockets as a page of this site would, and closes what the test left open."""
    opened: list[WebsocketCommunicator] = []

    async def opening(cookie: str = "", *, path: str = "/ws/live/", **headers: str) -> WebsocketCommunicator:
        sent = {"origin": ORIGIN, "host": "testserver", "cookie": cookie, **headers}
        raw = [(name.encode(), value.encode()) for name, value in sent.items() if value]
        socket = WebsocketCommunicator(application, path, headers=raw)
        opened.append(socket)
        return socket

    yield opening
    for socket in opened:
        await socket.disconnect()
    assert feed._sockets == 0
    await in_thread(connections.close_all)()


def cookie_of(person: User) -> str:
    client = Client()
    client.force_login(person)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


@sync_to_async
def someone(**fields: Any) -> tuple[User, str]:
    person = factories.user(**{"can": ["view"], **fields})
    return person, cookie_of(person)


async def following(open_socket: SocketOf, cookie: str, *topics: str) -> WebsocketCommunicator:
    socket = await open_socket(cookie)
    connected, _ = await socket.connect()
    assert connected
    await socket.send_json_to({"sub": list(topics)})
    answer = await next_word(socket)
    assert answer == {"ok": list(topics), "no": []}
    return socket


async def next_word(socket: WebsocketCommunicator, timeout: float = 3.0) -> dict[str, Any]:
    """The next message that is not a heartbeat."""
    while True:
        message: dict[str, Any] = json.loads(await socket.receive_from(timeout))
        if message != {"t": "hb"} or timeout < 1:
            return {} if message == {"t": "hb"} else message


async def is_silent(socket: WebsocketCommunicator, seconds: float) -> bool:
    """Whether nothing but heartbeats comes for so long; asked last, since waiting for too long ends the socket."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if not socket.output_queue.empty() and await next_word(socket, 0.1):
            return False
        await asyncio.sleep(0.02)
    return True


async def closing_code(socket: WebsocketCommunicator) -> int:
    while True:
        message = await socket.receive_output(3)
        if message["type"] == "websocket.close":
            return int(message.get("code", 1000))


@sync_to_async
def event(run: Run, kind: str = EventKind.STEP_COMPLETED) -> int:
    return factories.audit_event(run, kind).seq


async def test_socket_refuses_a_page_of_another_origin(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    for origin in (
        "", "null", "http://testserver:9999", "https://testserver", "http://evil.example", "http://testserver.evil.example",
        "http://evil.example/http://testserver", "http://user@testserver", "chrome-extension://testserver",
        "http://testserver, http://testserver", "http://testserver/",
    ):  # fmt: skip
        socket = await open_socket(cookie, origin=origin)
        assert not (await socket.connect())[0], origin


async def test_socket_refuses_a_host_that_is_not_ours(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    socket = await open_socket(cookie, origin="http://evil.example", host="evil.example")
    connected, _ = await socket.connect()
    assert not connected


async def test_socket_accepts_the_named_origins_only(open_socket: SocketOf, settings: LazySettings) -> None:
    settings.FLUJO_ORIGINS = ["https://flujo.example"]
    _, cookie = await someone()
    named, own = await open_socket(cookie, origin="https://flujo.example:443"), await open_socket(cookie)
    assert (await named.connect())[0]
    assert not (await own.connect())[0]


async def test_socket_refuses_a_path_that_leads_nowhere(open_socket: SocketOf) -> None:
    socket = await open_socket(path="/ws/elsewhere/")
    connected, _ = await socket.connect()
    assert not connected


@pytest.mark.parametrize("session", ["", "nonsense", "x" * 5000])
async def test_socket_tells_the_anonymous_to_sign_in(open_socket: SocketOf, session: str) -> None:
    cookie = f"{settings.SESSION_COOKIE_NAME}={session}" if session else ""
    socket = await open_socket(cookie)
    assert (await socket.connect())[0]
    assert await closing_code(socket) == 4401


async def test_socket_answers_which_topics_the_page_may_follow(open_socket: SocketOf) -> None:
    _, cookie = await someone(on="orders")
    await sync_to_async(factories.run)("mine", pipeline="orders")
    await sync_to_async(factories.run)("theirs", pipeline="payroll")
    socket = await open_socket(cookie)
    await socket.connect()
    await socket.send_json_to({"sub": ["run:mine", "run:theirs", "run:absent", "runs", "inbox", "everything"]})
    assert await next_word(socket) == {
        "ok": ["run:mine", "runs", "inbox"], "no": ["run:theirs", "run:absent", "everything"],
    }  # fmt: skip


async def test_socket_pings_the_run_that_changed_and_no_other(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    one, other = await sync_to_async(factories.run)("one"), await sync_to_async(factories.run)("other")
    socket = await following(open_socket, cookie, "run:one")
    await event(other)
    seq = await event(one)
    assert await next_word(socket) == {"t": "run", "id": "one", "rev": seq}
    assert await is_silent(socket, 0.6)


async def test_socket_pings_the_lists_without_values(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    run = await sync_to_async(factories.run)("one", title="Secret title")
    socket = await following(open_socket, cookie, "runs", "inbox")
    await event(run, EventKind.HUMAN_TASK_RAISED)
    words = [await next_word(socket), await next_word(socket)]
    assert sorted(words, key=str) == [{"t": "inbox"}, {"t": "runs"}]


async def test_socket_pings_the_lists_only_about_pipelines_the_user_sees(open_socket: SocketOf) -> None:
    _, cookie = await someone(on="orders")
    theirs = await sync_to_async(factories.run)("theirs", pipeline="payroll")
    socket = await following(open_socket, cookie, "runs", "inbox")
    await event(theirs, EventKind.HUMAN_TASK_RAISED)
    assert await is_silent(socket, 0.9)


async def test_socket_pings_at_once_then_at_most_once_a_pause_with_the_newest_rev(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    run = await sync_to_async(factories.run)("busy")
    socket = await following(open_socket, cookie, "run:busy")
    loop = asyncio.get_running_loop()
    start, last = loop.time(), 0
    while loop.time() - start < 1.2:
        last = await event(run)
    heard: list[dict[str, Any]] = []
    while not heard or heard[-1]["rev"] < last:
        heard.append(await next_word(socket))
    assert heard[0]["rev"] < last
    assert len(heard) <= 7  # 1.2 s and the poll after it, one per 0.3 s


async def test_socket_ends_with_the_session(open_socket: SocketOf) -> None:
    person, cookie = await someone()
    socket = await following(open_socket, cookie, "runs")
    await sync_to_async(person.set_password)("another one")
    await person.asave()
    assert await closing_code(socket) == 4401


async def test_socket_ends_with_the_account(open_socket: SocketOf) -> None:
    person, cookie = await someone()
    socket = await following(open_socket, cookie, "runs")
    person.is_active = False
    await person.asave()
    assert await closing_code(socket) == 4401


async def test_socket_ends_when_no_topic_is_left_to_follow(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    await sync_to_async(factories.run)("one")
    socket = await following(open_socket, cookie, "run:one")
    await PipelineGrant.objects.all().adelete()
    assert await next_word(socket) == {"ok": [], "no": ["run:one"]}
    assert await closing_code(socket) == 4403


async def test_socket_is_silent_about_a_run_from_the_moment_it_may_not_be_seen(
    open_socket: SocketOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "BEAT_SECONDS", 60.0)
    _, cookie = await someone(on="orders")
    run = await sync_to_async(factories.run)("one", pipeline="orders")
    socket = await following(open_socket, cookie, "run:one", "runs")
    await PipelineGrant.objects.all().aupdate(pipeline="payroll")
    await event(run)
    assert await next_word(socket) == {"ok": ["runs"], "no": ["run:one"]}
    assert await is_silent(socket, 0.6)


async def test_socket_survives_what_it_does_not_understand(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    socket = await open_socket(cookie)
    await socket.connect()
    for frame in (
        " ", "{", "[]", "null", '"sub"', '{"sub": "runs"}', '{"sub": [1]}', '{"sub": [["runs"]]}', "[" * 200_000,
        "9" * 5000, json.dumps({"sub": ["runs"] * 1000}), json.dumps({"sub": ["run:" + "x" * 70_000]}), '{"decide": 1}',
    ):  # fmt: skip
        await socket.send_to(text_data=frame)
        assert await next_word(socket) == {"error": "malformed"}, frame[:40]
    await socket.send_to(bytes_data=b"\x00\xff")
    assert await next_word(socket) == {"error": "malformed"}
    await socket.send_json_to({"sub": ["runs"]})
    assert await next_word(socket) == {"ok": ["runs"], "no": []}


async def test_socket_follows_the_last_list_it_was_given(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    run = await sync_to_async(factories.run)("one")
    socket = await following(open_socket, cookie, "run:one")
    await socket.send_json_to({"sub": ["inbox"]})
    assert await next_word(socket) == {"ok": ["inbox"], "no": []}
    await event(run)
    assert await is_silent(socket, 0.8)


async def test_socket_says_that_it_is_alive(open_socket: SocketOf) -> None:
    _, cookie = await someone()
    socket = await following(open_socket, cookie, "runs")
    assert json.loads(await socket.receive_from(3)) == {"t": "hb"}
