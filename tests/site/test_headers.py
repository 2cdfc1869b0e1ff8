"""What every answer carries, and what the site refuses before Django reads it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings

from flujo_site.body_limit import BodyLimit
from flujo_site.logs import JsonLines, PlainLines

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin_browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_every_page_has_the_strict_policy_and_no_browser_features(client: Client) -> None:
    headers = client.get("/sign-in/").headers
    policy = headers["Content-Security-Policy"]
    assert {"default-src 'none'", "script-src 'self'"} <= set(policy.split("; "))
    assert "unsafe" not in policy
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("page", ["/admin/", "/admin/auth/user/", "/admin/auth/user/add/", "/admin/auth/group/add/"])
def test_admin_pages_work_under_the_policy_and_stay_out_of_caches(admin_browser: Client, page: str) -> None:
    response = admin_browser.get(page)
    html = response.content.decode()
    assert response.status_code == 200
    assert "<style" not in html
    assert " style=" not in html
    assert " onclick=" not in html
    assert "<script>" not in html
    assert "no-store" in response.headers["Cache-Control"] or "no-cache" in response.headers["Cache-Control"]


def test_signed_in_pages_stay_out_of_caches(admin_browser: Client) -> None:
    assert "no-store" in admin_browser.get("/inbox/").headers["Cache-Control"]


@pytest.mark.parametrize("page", ["/", "/inbox/", "/runs/", "/pipelines/", "/audit/", "/state/", "/admin/"])
def test_pages_need_a_sign_in(client: Client, page: str) -> None:
    response = client.get(page)
    assert response.status_code == 302
    assert "/sign-in/" in response.headers["Location"] or "/admin/login/" in response.headers["Location"]


def test_static_files_are_served_without_a_sign_in(client: Client) -> None:
    response = client.get("/static/flujo/css/index.css")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/css")
    assert client.get("/static/nothing.css").status_code in {302, 404}


def test_too_many_wrong_passwords_close_the_account_even_for_the_right_one(client: Client) -> None:
    User.objects.create_user("ana", password="a long right password")
    wrong = {"username": "ana", "password": "wrong"}
    answers = [client.post("/sign-in/", wrong).status_code for _ in range(settings.AXES_FAILURE_LIMIT)]
    assert answers == [200] * (settings.AXES_FAILURE_LIMIT - 1) + [429]
    response = client.post("/sign-in/", {"username": "ana", "password": "a long right password"})
    assert response.status_code == 429
    assert b"Wait 15 minutes" in response.content
    assert "sessionid" not in response.cookies


def test_signing_out_needs_a_post(admin_browser: Client) -> None:
    assert admin_browser.get("/sign-out/").status_code == 405
    assert admin_browser.post("/sign-out/").status_code == 302
    assert admin_browser.get("/inbox/").status_code == 302


def test_a_session_ends_after_a_working_day(admin_browser: Client) -> None:
    assert admin_browser.session.get_expiry_age() <= 8 * 60 * 60


def test_unknown_hosts_are_refused(client: Client) -> None:
    with override_settings(ALLOWED_HOSTS=["127.0.0.1"]):
        assert client.get("/sign-in/", headers={"host": "evil.example"}).status_code == 400


async def ask(chunks: list[bytes], *, length: bytes | None = None, limit: int = 10) -> tuple[int, int]:
    """Send a body through the limit; the status it is answered with and the bytes the application read."""
    read, sent = 0, []

    async def application(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        more = True
        while more:
            message = await receive()
            read += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    left = list(chunks)

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length)]
    await BodyLimit(application, limit=limit)({"type": "http", "headers": headers}, receive, send)
    return sent[0]["status"], read


@pytest.mark.parametrize(
    ("chunks", "length", "status", "read"),
    [
        ([b"1234567890"], b"10", 200, 10),
        ([b"12345678901"], b"11", 413, 0),
        ([b"12345", b"678901"], None, 413, 5),
        ([b"12345", b"678901"], b"5", 413, 5),
        ([b"123"], b"-1", 200, 3),
    ],
)
def test_a_body_over_the_limit_is_refused_whatever_its_header_says(
    chunks: list[bytes], length: bytes | None, status: int, read: int
) -> None:
    assert asyncio.run(ask(chunks, length=length)) == (status, read)


@pytest.mark.parametrize("formatter", [JsonLines(), PlainLines("{levelname} {message}", style="{")])
def test_no_text_can_forge_a_log_line(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("flujo", logging.INFO, "x.py", 1, "hello %s", ("a\nERROR forged\x1b[31m",), None)
    line = formatter.format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert "forged" in line
