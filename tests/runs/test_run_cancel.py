"""Cancelling says what it will do, needs a reason, and goes through the one service."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo.lease import this_process

from runs.models import AuditEvent, Run, SiteEvent
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

URL = "/runs/r1/cancel/"
REASON = {"reason": "Ordered twice."}


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    return sign_in(operator)


def status() -> str:
    return Run.objects.get(pk="r1").status


def held_run() -> None:
    factories.running_run("r1", lease_expires_at=timezone.now() + timedelta(minutes=1), holder=this_process().to_json())


def test_cancel_page_says_what_will_happen_and_changes_nothing(client: Client) -> None:
    factories.paused_run("r1")
    page = client.get(URL).content.decode()
    assert "The run ends at once. Step approve is not done." in page
    assert "The open request approve is closed; nobody can answer it any more." in page
    assert "The 2 saved steps stay readable" in page
    assert status() == "paused"


def test_cancel_of_a_running_run_says_that_its_step_is_interrupted(client: Client) -> None:
    held_run()
    assert "It interrupts step price where that can be done." in client.get(URL).content.decode()


def test_cancel_ends_a_waiting_run_closes_its_request_and_keeps_the_reason(client: Client) -> None:
    run = factories.paused_run("r1")
    answer = client.post(URL, REASON)
    assert (answer.status_code, answer["Location"]) == (303, "/runs/r1/")
    assert (status(), run.human_tasks.get().status) == ("cancelled", "closed")
    event = AuditEvent.objects.get(run_id="r1", kind="run.cancelled")
    assert event.actor == "otto"
    assert "Ordered twice." in event.body
    assert "The run is cancelled." in client.get("/runs/r1/").content.decode()


def test_cancel_asks_a_running_run_to_stop(client: Client) -> None:
    held_run()
    page = client.post(URL, REASON, follow=True).content.decode()
    assert "The run is being stopped." in page
    assert Run.objects.get(pk="r1").cancel_requested
    assert status() == "running"


def test_cancel_ends_a_run_at_once_whose_worker_is_gone(client: Client) -> None:
    factories.running_run("r1")
    assert "The run ends at once." in client.get(URL).content.decode()
    client.post(URL, REASON)
    assert status() == "cancelled"


@pytest.mark.parametrize("reason", ["", "   ", "x" * 1001])
def test_cancel_without_a_fit_reason_keeps_the_run_and_what_was_typed(client: Client, reason: str) -> None:
    factories.paused_run("r1")
    answer = client.post(URL, {"reason": reason})
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.content.decode()
    assert reason.strip() in answer.content.decode()
    assert status() == "paused"


def test_cancel_of_a_finished_run_is_refused_with_the_reason_kept(client: Client) -> None:
    factories.completed_run("r1")
    assert "there is nothing to cancel" in client.get(URL).content.decode()
    answer = client.post(URL, REASON)
    assert answer.status_code == 409
    assert "Ordered twice." in answer.content.decode()
    assert status() == "completed"


def test_cancel_sent_twice_is_told_that_it_is_done(client: Client) -> None:
    factories.paused_run("r1")
    assert [client.post(URL, REASON).status_code for _ in range(2)] == [303, 409]
    assert AuditEvent.objects.filter(run_id="r1", kind="run.cancelled").count() == 1


def test_cancel_by_one_who_may_only_see_is_refused_and_audited(sign_in: SignIn, viewer: User) -> None:
    factories.paused_run("r1")
    client = sign_in(viewer)
    assert "You may not cancel runs of orders." in client.get(URL).content.decode()
    assert client.post(URL, REASON).status_code == 403
    assert status() == "paused"
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_cancel_of_a_hidden_run_is_not_found(sign_in: SignIn, stranger: User) -> None:
    factories.paused_run("r1")
    assert sign_in(stranger).post(URL, REASON).status_code == 404
    assert status() == "paused"


def test_cancel_needs_someone_signed_in() -> None:
    factories.paused_run("r1")
    assert "sign-in" in Client().post(URL, REASON)["Location"]
    assert status() == "paused"


def test_cancel_needs_a_token_of_this_site(operator: User) -> None:
    factories.paused_run("r1")
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(URL, REASON).status_code == 403
    assert status() == "paused"


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_cancel_refuses_other_methods(client: Client, method: str) -> None:
    factories.paused_run("r1")
    assert getattr(client, method)(URL).status_code == 405


def test_cancel_of_a_deleted_run_answers_with_its_tombstone(client: Client) -> None:
    factories.tombstone("r1")
    assert client.post(URL, REASON).status_code == 410
