"""What is marked secret is on no page, in no export and in no text, whoever looks; the steps get it as it is."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import Flujo
from flujo.redaction import HIDDEN
from flujo.status import RunStatus

from runs.models import Checkpoint, HumanTask, RunInput
from runs.registry import registry
from runs.state_backend import DjangoBackend, close_store_threads
from tests.runs import shop

CANARIES = ("canary-password", "canary-token", "73914628", "canary-code")
GIVEN: dict[str, Any] = {"user": "ana", "password": CANARIES[0], "token": CANARIES[1], "pin": int(CANARIES[2])}
LEFT_OUT = re.compile(r"logout|sign-out|/static/|/password_change/|/jsi18n/")
MOST_PAGES = 400

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def runs() -> None:
    """A run in each state in which a page has something to show: waiting, failed and completed."""
    assert shop.SignIn.model_validate(GIVEN).user == "ana"
    runner = Flujo(registry=registry, pipeline_name="shop-bank", state_backend=DjangoBackend())
    for run_id, amount in (("waits", None), ("failed", 101), ("done", 1)):
        runner.run(GIVEN, run_id=run_id)
        if amount:
            runner.resume(run_id, {"code": CANARIES[3], "amount": amount}, actor="ana")
    close_store_threads()


@pytest.fixture
def boss() -> Client:
    """A browser in which the administrator has signed in."""
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def body(response: Any) -> str:
    streamed = getattr(response, "streaming_content", None)
    content = b"".join(streamed) if streamed is not None else response.content
    return unescape(content.decode(errors="replace"))


def crawl(client: Client) -> dict[str, str]:
    """Every page that links lead to, by its address."""
    seeds = [
        f"/runs/{run}/{part}" for run in ("waits", "failed", "done") for part in ("", "context/?at=1", "fork/?step=pay")
    ]
    waiting, pages = ["/", "/admin/", *seeds], dict[str, str]()
    while waiting and len(pages) < MOST_PAGES:
        url = waiting.pop().partition("#")[0]
        if url in pages or LEFT_OUT.search(url):
            continue
        pages[url] = body(client.get(url))
        links = re.findall(r'(?:href|hx-get|data-href|data-live)="(/[^"]*)"', pages[url])
        waiting += [link for link in links if not link.startswith("//")]
    return pages


@pytest.mark.slow
def test_secret_values_are_on_no_page_and_in_no_export(runs: None, boss: Client) -> None:
    pages = crawl(boss)
    assert len(pages) < MOST_PAGES
    for part in (
        "/runs/failed/steps/pay/",
        "/runs/done/context/",
        "/admin/flujo_runs/checkpoint/",
        "/audit/",
        "/inbox/",
    ):
        assert any(url.startswith(part) for url in pages), part
    pages["export"] = body(boss.post("/audit/export.csv"))
    for url, text in pages.items():
        assert [canary for canary in CANARIES if canary in text] == [], url
    assert sum(HIDDEN in text for text in pages.values()) > 5


def test_page_says_what_it_hides_and_shows_the_rest(runs: None, boss: Client) -> None:
    task = HumanTask.objects.get(run="waits")
    page = body(boss.get(f"/inbox/{task.pk}/"))

    assert task.message == f"Pay as ana with {HIDDEN}?"
    assert "ana" in page
    assert HIDDEN in page
    assert json.loads(task.evidence) == GIVEN, "the store has it: the next step needs it"


def test_steps_get_secrets_as_they_are(runs: None) -> None:
    assert json.loads(RunInput.objects.get(run="done").input) == GIVEN
    assert json.loads(Checkpoint.objects.get(run="done", path="pay").output) == [CANARIES[3]]


def test_error_that_quotes_secrets_is_kept_without_them(runs: None) -> None:
    document = DjangoBackend().load_now("failed")
    assert document is not None
    assert document.head is not None
    assert document.head.status is RunStatus.FAILED
    texts = [document.head.error_message, *(f"{row.error_message}{row.traceback}" for row in document.attempts())]
    assert not any(canary in text for canary in CANARIES for text in texts)
    assert document.head.error_message.count(HIDDEN) == 4


def test_start_form_never_sends_a_secret_back(boss: Client) -> None:
    page = body(boss.get("/pipelines/shop-bank/start/"))
    names = re.findall(r'<input[^>]*type="password"[^>]*>', page)
    assert len(names) == 2
    again = boss.post(
        "/pipelines/shop-bank/start/",
        {"user": "", "password": CANARIES[0], "token": CANARIES[1], "pin": CANARIES[2], "input.user": ""},
    )
    assert again.status_code in (200, 422)
    assert not any(canary in body(again) for canary in CANARIES)
