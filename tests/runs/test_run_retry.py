"""Retrying says what it will do, needs a reason, and goes through the one service."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from runs.models import AuditEvent, Run, SiteEvent
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

URL = "/runs/r1/retry/"
REASON = {"reason": "The supplier is back."}


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    return sign_in(operator)


def status() -> str:
    return Run.objects.get(pk="r1").status


def test_retry_page_says_what_will_happen_and_changes_nothing(client: Client) -> None:
    factories.failed_run("r1")
    page = client.get(URL).content.decode()
    assert "Step price is tried again, with all its retries" in page
    assert "The 1 saved step before it does not run again." in page
    assert status() == "failed"


def test_retry_queues_a_failed_run_and_keeps_the_reason(client: Client) -> None:
    factories.failed_run("r1")
    answer = client.post(URL, REASON)
    assert (answer.status_code, answer["Location"]) == (303, "/runs/r1/")
    assert status() == "queued"
    event = AuditEvent.objects.get(run_id="r1", kind="run.retried")
    assert event.actor == "otto"
    assert "The supplier is back." in event.body


def test_retry_without_a_reason_keeps_the_run(client: Client) -> None:
    factories.failed_run("r1")
    assert client.post(URL, {"reason": " "}).status_code == 422
    assert status() == "failed"


def test_retry_of_a_run_that_has_not_failed_is_refused(client: Client) -> None:
    factories.paused_run("r1")
    assert "only a failed run can be retried" in client.get(URL).content.decode()
    assert client.post(URL, REASON).status_code == 409
    assert status() == "paused"


def test_retry_sent_twice_starts_one_new_round(client: Client) -> None:
    factories.failed_run("r1")
    assert [client.post(URL, REASON).status_code for _ in range(2)] == [303, 409]
    assert Run.objects.get(pk="r1").round == 1


def test_retry_by_one_who_may_only_see_is_refused_and_audited(sign_in: SignIn, viewer: User) -> None:
    factories.failed_run("r1")
    assert sign_in(viewer).post(URL, REASON).status_code == 403
    assert status() == "failed"
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_retry_of_a_hidden_run_is_not_found(sign_in: SignIn, stranger: User) -> None:
    factories.failed_run("r1")
    assert sign_in(stranger).post(URL, REASON).status_code == 404
    assert status() == "failed"


def test_retry_needs_someone_signed_in() -> None:
    factories.failed_run("r1")
    assert "sign-in" in Client().post(URL, REASON)["Location"]
    assert status() == "failed"


def test_retry_needs_a_token_of_this_site(operator: User) -> None:
    factories.failed_run("r1")
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(URL, REASON).status_code == 403
    assert status() == "failed"


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_retry_refuses_other_methods(client: Client, method: str) -> None:
    factories.failed_run("r1")
    assert getattr(client, method)(URL).status_code == 405
