"""Forking says what runs again, shows each edit before it is confirmed, and leaves the run it comes from alone."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runs.models import AuditEvent, Run, SiteEvent
from runs.registry import registry
from runs.services.verify_rows import row_problems
from tests.runs import factories, shop
from tests.runs.conftest import SignIn, queries_of
from tests.runs.derived import failed_offer, go_on, rows_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

URL = "/runs/r1/fork/?step=check"
ASKED = {"f-discount": "10", "f-note": "", "reason": "Agreed by phone."}


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    assert shop
    failed_offer()
    return sign_in(operator)


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return found[1]


def reviewed(client: Client, **asked: str) -> tuple[Any, dict[str, str]]:
    """The page that shows the edits, and what its form then sends."""
    key = hidden(client.get(URL).content.decode(), "key")
    sent = {**ASKED, **asked, "key": key}
    page = client.post(URL, sent)
    return page, {**sent, "seen": hidden(page.content.decode(), "seen")}


def forks() -> list[Run]:
    return list(Run.objects.filter(derived_from="r1"))


def test_fork_offers_the_steps_that_the_run_came_to(client: Client) -> None:
    page = client.get("/runs/r1/fork/").content.decode()
    assert len(re.findall(r'type="radio"[^>]*name="step"', page)) == 3
    assert re.search(r'value="send" required disabled', page)
    assert "This run has not come so far." in page
    for step in ("send", "absent"):
        assert client.get(f"/runs/r1/fork/?step={step}").status_code == 422


def test_fork_page_says_what_runs_again_and_changes_nothing(client: Client) -> None:
    before = rows_of("r1")
    page = client.get(URL).content.decode()
    assert "Taken over, and not run again: quote." in page
    assert "Run again, under new idempotency keys: check. What it did outside is done again." in page
    assert "Run for the first time: send." in page
    assert 'value="30"' in page
    assert rows_of("r1") == before


def test_fork_page_reads_nothing_of_what_the_steps_gave(client: Client) -> None:
    """A run of many megabytes is forked from a page that costs what its context and its steps cost."""
    for url in ("/runs/r1/fork/", URL):
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url).status_code == 200
        read = " ".join(query["sql"] for query in queries)
        for column in ("output", "input", "evidence", "traceback", "data", "body"):
            assert not re.search(rf"SELECT [^;]*\b{column}\b", read), (url, column)


def test_fork_page_costs_the_same_queries_however_long_the_run_is(client: Client) -> None:
    short = queries_of(client, URL)
    run = Run.objects.get(pk="r1")
    for item in range(30):
        factories.attempt(run, f"check[{item}]/try", 1, outcome="failed")
    assert queries_of(client, URL) <= short


def test_fork_behind_a_gate_that_turned_its_run_away_is_not_offered(client: Client) -> None:
    code = {"pipeline": "shop", "version": "1.1.0", "fingerprint": registry.get("shop", "1.1.0").fingerprint}
    run = factories.run("no", status="completed", outcome="rejected", steps=("price", "approve", "ship"), at=3, **code)
    gate = factories.human_task(run, position=1, status="decided")
    factories.decision(gate, outcome="rejected", data=None)
    page = client.get("/runs/no/fork/").content.decode()
    assert re.search(r'value="approve" required>', page)
    assert re.search(r'value="ship" required disabled', page)
    assert "was turned away at step &#x27;approve&#x27;" in page


def test_fork_shows_the_edits_before_they_are_confirmed(client: Client) -> None:
    page, sent = reviewed(client)
    text = page.content.decode()
    assert page.status_code == 200
    assert "<code>/discount</code> was <code>30</code>, becomes <code>10</code>" in text
    assert "Agreed by phone." in text
    assert forks() == []

    changed = client.post(URL, {**sent, "f-discount": "15"})
    assert "becomes <code>15</code>" in changed.content.decode(), "other edits than were shown are shown first"
    assert forks() == []


@pytest.mark.django_db(transaction=True)
def test_fork_makes_a_run_that_goes_on_and_leaves_the_other_as_it_was(client: Client) -> None:
    before = rows_of("r1")
    _, sent = reviewed(client)
    answer = client.post(URL, sent)
    (made,) = forks()
    assert (answer.status_code, answer["Location"]) == (303, f"/runs/{made.pk}/")
    assert (made.status, made.derived_at, made.requester, made.title) == ("queued", "check", "otto", "An offer")
    done = go_on(made)
    assert (done.status, done.step_index) == ("completed", 3)
    assert json.loads(done.checkpoints.get(path="send").output) == "sent at 390"
    assert rows_of("r1") == before
    assert list(row_problems()) == []


def test_fork_records_pointer_before_after_reason_and_origin(client: Client) -> None:
    _, sent = reviewed(client)
    client.post(URL, sent)
    event = AuditEvent.objects.get(kind="run.forked")
    told = json.loads(event.body)["data"]
    assert (event.actor, told["run"], told["reason"]) == ("otto", "r1", "Agreed by phone.")
    assert told["edits"] == [{"pointer": "/discount", "before": 30, "after": 10}]
    assert (told["channel"], told["ip"]) == ("ui", "127.0.0.1")


def test_fork_is_linked_both_ways_and_marks_what_it_took_over(client: Client) -> None:
    _, sent = reviewed(client)
    client.post(URL, sent)
    (made,) = forks()
    page = client.get(f"/runs/{made.pk}/").content.decode()
    assert 'Forked from</dt><dd><a href="/runs/r1/">' in page
    assert "taken over" in page
    assert f'href="/runs/{made.pk}/"' in client.get("/runs/r1/").content.decode()
    assert "/runs/r1/steps/quote/" in client.get(f"/runs/{made.pk}/steps/quote/").content.decode()
    assert client.get(f"/runs/{made.pk}/history/").status_code == 200


def test_fork_without_edits_needs_no_second_look(client: Client) -> None:
    answer = client.post(URL, {**ASKED, "f-discount": "30"})
    assert answer.status_code == 303
    assert len(forks()) == 1


def test_fork_sent_twice_makes_one_run(client: Client) -> None:
    _, sent = reviewed(client)
    assert [client.post(URL, sent)["Location"] for _ in range(2)] == [f"/runs/{forks()[0].pk}/"] * 2
    assert len(forks()) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"f-discount": "much"}, "whole number"),
        ({"f-discount": "99"}, "50"),
        ({"reason": " "}, "Say why"),
        ({"reason": "x" * 1001}, "at most 1000"),
    ],
)
def test_fork_with_a_mistake_keeps_what_was_typed(client: Client, typed: dict[str, str], said: str) -> None:
    answer = client.post(URL, {**ASKED, "f-note": "kept as typed", **typed})
    if answer.status_code == 200:  # only the service can tell: the edits were shown first
        seen = hidden(answer.content.decode(), "seen")
        answer = client.post(URL, {**ASKED, "f-note": "kept as typed", **typed, "seen": seen})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert said in text
    assert "kept as typed" in text
    assert forks() == []


def test_fork_of_a_run_whose_code_is_not_here_is_refused(client: Client) -> None:
    factories.failed_run("old", pipeline="shop-offer", version="0.1.0")
    assert (
        "Only the code that started it can go on with it or fork it" in client.get("/runs/old/fork/").content.decode()
    )
    assert client.post("/runs/old/fork/?step=check", ASKED).status_code == 409
    assert SiteEvent.objects.get(kind="action.refused").run_id == "old"


def test_fork_by_one_who_may_only_see_is_refused_and_audited(client: Client, sign_in: SignIn, viewer: User) -> None:
    other = sign_in(viewer)
    assert "You may not fork runs of shop-offer." in other.get(URL).content.decode()
    assert other.post(URL, ASKED).status_code == 403
    assert forks() == []
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_values_of_a_fork_are_shown_to_nobody_who_may_not_see_them(client: Client, sign_in: SignIn) -> None:
    _, sent = reviewed(client, **{"f-note": "sesame-4711"})
    client.post(URL, sent)
    (made,) = forks()
    blind = sign_in(factories.user("bill", can=["view", "fork", "export"]))
    for url in (URL, "/audit/", f"/runs/{made.pk}/", f"/runs/{made.pk}/history/", f"/runs/{made.pk}/fork/?step=check"):
        assert "sesame" not in blind.get(url).content.decode(), url
    exported = b"".join(blind.post("/audit/export.csv")).decode()
    assert "/note" in exported
    assert "sesame" not in exported
    assert "sesame" in client.get("/audit/").content.decode()


def test_fork_by_one_who_may_not_see_values_takes_the_context_as_it_is(client: Client, sign_in: SignIn) -> None:
    blind = sign_in(factories.user("bill", can=["view", "fork"]))
    assert blind.post(URL, ASKED).status_code == 303
    told = json.loads(AuditEvent.objects.get(kind="run.forked").body)["data"]
    assert told["edits"] == []


def test_fork_of_a_hidden_run_is_not_found(client: Client, sign_in: SignIn, stranger: User) -> None:
    assert sign_in(stranger).post(URL, ASKED).status_code == 404
    assert forks() == []


def test_fork_needs_someone_signed_in(client: Client) -> None:
    assert "sign-in" in Client().post(URL, ASKED)["Location"]
    assert forks() == []


def test_fork_needs_a_token_of_this_site(client: Client, operator: User) -> None:
    other = Client(enforce_csrf_checks=True)
    other.force_login(operator)
    assert other.post(URL, ASKED).status_code == 403
    assert forks() == []


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_fork_refuses_other_methods(client: Client, method: str) -> None:
    assert getattr(client, method)(URL).status_code == 405


def test_fork_of_a_deleted_run_answers_with_its_tombstone(client: Client) -> None:
    factories.tombstone("gone", pipeline="shop-offer")
    assert client.post("/runs/gone/fork/?step=check", ASKED).status_code == 410
