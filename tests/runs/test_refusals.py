"""Whatever is refused to a person, by page, service or command, is in the site's audit once, without what was sent."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from flujo.__main__ import main
from flujo.errors import InvalidInput

from runs.models import SiteEvent
from runs.services.cancel import cancel
from runs.services.origin import Origin
from runs.services.purge import purge
from tests.runs import factories, shop
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

REASON = {"reason": "Ordered twice."}
CLEANUP = "/state/cleanup/"
SIGNAL = "/runs/r1/signals/paid/"


def refusals() -> list[tuple[str, str, str, str]]:
    """Who was refused what on which run, and why, in order; each is of its one request."""
    found = []
    for event in SiteEvent.objects.filter(kind="action.refused").order_by("seq"):
        data = json.loads(event.body)["data"]
        assert "secret" not in event.body
        found.append((event.actor, data["verb"], event.run_id, data["code"]))
    return found


@pytest.mark.parametrize("verb", ["cancel", "retry", "rerun", "fork", "unpark"])
def test_act_on_a_hidden_run_is_recorded_and_on_one_that_never_was_is_not(
    sign_in: SignIn, stranger: User, verb: str
) -> None:
    factories.paused_run("r1")
    client = sign_in(stranger)
    assert [client.post(f"/runs/{run}/{verb}/", REASON).status_code for run in ("r1", "nobody")] == [404, 404]
    assert client.get(f"/runs/r1/{verb}/").status_code == 404
    assert refusals() == [("stan", verb, "r1", "run_not_found")]


def test_act_that_comes_too_late_or_without_a_reason_is_recorded(sign_in: SignIn, operator: User) -> None:
    factories.run("r1", status="completed")
    client = sign_in(operator)
    assert client.post("/runs/r1/cancel/", REASON).status_code == 409
    assert client.post("/runs/r1/retry/", {"reason": ""}).status_code == 422
    assert refusals() == [("otto", "cancel", "r1", "run_finished"), ("otto", "retry", "r1", "invalid_input")]


def test_form_that_does_not_fit_is_recorded_without_what_was_sent(sign_in: SignIn, operator: User) -> None:
    assert shop.paid.name == "paid"
    factories.running_run("r1", pipeline="shop", version="0.9.0")
    client = sign_in(operator)
    sent = {"f-article": "secret", "f-quantity": "-1", "f-price": "secret"}
    assert client.post("/pipelines/shop/start/", sent).status_code == 422
    assert client.post(SIGNAL, sent).status_code == 422
    assert client.post("/runs/r1/signals/unknown/", sent).status_code == 404
    assert client.post("/pipelines/shop/schedules/new/", {**sent, "name": "secret"}).status_code == 422
    assert client.post(CLEANUP, {"frozen": "secret"}).status_code == 409
    assert [(verb, code) for _, verb, _, code in refusals()] == [
        ("start", "invalid_input"),
        ("signal", "invalid_input"),
        ("signal", "signal_unknown"),
        ("schedule", "invalid_input"),
        ("state_cleanup", "preview_outdated"),
    ]


def test_service_records_what_it_refuses_whoever_calls_it(operator: User, stranger: User) -> None:
    factories.paused_run("r1")
    origin = Origin("bulk")
    with pytest.raises(InvalidInput):
        purge(actor=operator, run_ids=["r1"], reason="", origin=origin)
    assert purge(actor=operator, run_ids=["r1"], reason="Old.", origin=origin).deleted == []
    cancel(actor=operator, run_id="r1", reason="Late.", origin=origin)
    assert refusals() == [("otto", "delete", "", "invalid_input"), ("otto", "delete", "r1", "run_active")]


@pytest.mark.django_db(transaction=True)
def test_command_that_is_refused_is_recorded_and_a_look_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    factories.run("r1", status="completed")
    assert main(["cancel", "django:", "r1", "--actor", "ana"]) == 3
    assert main(["show", "django:", "nobody"]) == 2
    assert main(["cancel", "django:", "nobody", "--actor", "ana"]) == 2
    assert refusals() == [("ana", "cancel", "r1", "run_finished")]
    event = SiteEvent.objects.get(kind="action.refused")
    assert json.loads(event.body)["data"]["channel"] == "cli"
    assert "r1" in capsys.readouterr().err
