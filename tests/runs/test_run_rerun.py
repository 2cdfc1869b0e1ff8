"""Rerunning says what it will do, needs a reason, and makes one new run on the same input."""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from runs.models import AuditEvent, Run, SiteEvent
from tests.runs import factories, shop
from tests.runs.conftest import SignIn
from tests.runs.derived import failed_offer, go_on, rows_of

pytestmark = pytest.mark.django_db

URL = "/runs/r1/rerun/"
REASON = {"reason": "The supplier is back."}


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    assert shop
    failed_offer()
    return sign_in(operator)


def reruns() -> list[Run]:
    return list(Run.objects.filter(derived_from="r1"))


def test_rerun_page_says_what_will_happen_and_changes_nothing(client: Client) -> None:
    before = rows_of("r1")
    page = client.get(URL).content.decode()
    assert "on the same input and initial context" in page
    assert "1.0.0, the newest, this run’s" in page
    assert rows_of("r1") == before


@pytest.mark.django_db(transaction=True)
def test_rerun_does_the_same_work_anew_and_leaves_the_first_as_it_was(client: Client) -> None:
    before = rows_of("r1")
    answer = client.post(URL, {**REASON, "version": "1.0.0"})
    (made,) = reruns()
    assert (answer.status_code, answer["Location"]) == (303, f"/runs/{made.pk}/")
    assert (made.status, made.derived_at, made.title, made.owner) == ("queued", "", "An offer", "otto")
    assert go_on(made).status == "failed"
    assert rows_of("r1") == before
    event = AuditEvent.objects.get(run_id=made.pk, kind="run.started")
    told = json.loads(event.body)["data"]
    assert (event.actor, told["rerun_of"], told["reason"]) == ("otto", "r1", "The supplier is back.")
    page = client.get(f"/runs/{made.pk}/").content.decode()
    assert 'Rerun of</dt><dd><a href="/runs/r1/">' in page
    assert f'href="/runs/{made.pk}/"' in client.get("/runs/r1/").content.decode()


def test_rerun_sent_twice_makes_one_run(client: Client) -> None:
    found = re.search(r'name="key" value="([^"]*)"', client.get(URL).content.decode())
    assert found
    sent = {**REASON, "key": found[1]}
    assert len({client.post(URL, sent)["Location"] for _ in range(2)}) == 1
    assert len(reruns()) == 1
    assert client.post(URL, REASON).status_code == 303
    assert len(reruns()) == 2


def test_rerun_without_a_reason_makes_none(client: Client) -> None:
    assert client.post(URL, {"reason": " "}).status_code == 422
    assert reruns() == []


def test_rerun_on_a_version_that_does_not_take_the_input_says_so(client: Client) -> None:
    factories.completed_run("old", pipeline="shop", input={"article": "x"})
    answer = client.post("/runs/old/rerun/", {**REASON, "version": "1.0.0"})
    assert answer.status_code == 422
    assert "does not fit shop" in answer.content.decode()
    assert "The supplier is back." in answer.content.decode()
    assert client.post("/runs/old/rerun/", {**REASON, "version": "9.9.9"}).status_code == 404


def test_rerun_by_one_who_may_only_see_is_refused_and_audited(client: Client, sign_in: SignIn, viewer: User) -> None:
    other = sign_in(viewer)
    assert "You may not start runs of shop-offer." in other.get(URL).content.decode()
    assert other.post(URL, REASON).status_code == 403
    assert reruns() == []
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_rerun_of_a_hidden_run_is_not_found(client: Client, sign_in: SignIn, stranger: User) -> None:
    assert sign_in(stranger).post(URL, REASON).status_code == 404
    assert reruns() == []


def test_rerun_needs_someone_signed_in(client: Client) -> None:
    assert "sign-in" in Client().post(URL, REASON)["Location"]
    assert reruns() == []


def test_rerun_needs_a_token_of_this_site(client: Client, operator: User) -> None:
    other = Client(enforce_csrf_checks=True)
    other.force_login(operator)
    assert other.post(URL, REASON).status_code == 403
    assert reruns() == []


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_rerun_refuses_other_methods(client: Client, method: str) -> None:
    assert getattr(client, method)(URL).status_code == 405


def test_rerun_of_a_deleted_run_answers_with_its_tombstone(client: Client) -> None:
    factories.tombstone("gone", pipeline="shop-offer")
    assert client.post("/runs/gone/rerun/", REASON).status_code == 410
