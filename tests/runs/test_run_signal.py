"""Sending a signal from the console: a typed form, counted once, through the one service."""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import transitions
from flujo.clock import SystemClock
from flujo.errors import RunNotFound, SignalUnknown
from flujo.lease import DEFAULT_LEASE, this_process
from flujo.start import new_run
from flujo.status import Wait
from flujo.transitions import ClaimTerms

from runs.models import AuditEvent, Run, Signal, SiteEvent
from runs.registry import registry
from runs.services.origin import Origin
from runs.services.signal import signal
from runs.state_backend import DjangoBackend
from tests.runs import factories, shop
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

URL = "/runs/r1/signals/paid/"
ORDER = {"f-article": "lamp", "f-quantity": "2", "f-price": "9.99"}


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    return sign_in(operator)


@pytest.fixture
def run() -> Run:
    """A run that waits for the signal `paid`."""
    entry, now = registry.get("shop", "0.9.0"), SystemClock().now()
    assert shop.paid.name == "paid"
    new = new_run(entry, {"article": "lamp", "quantity": 2}, {"run_id": "r1"})
    terms = ClaimTerms(this_process(), DEFAULT_LEASE, entry.fingerprint, lambda head: None)
    store = DjangoBackend()
    fence = store.transact_now("r1", transitions.start(new, now=now, claim=terms, facts={})).kept.fence
    kind = Wait.SIGNAL
    waiting = transitions.begin_wait("paid", kind=kind, name="paid", due_at=None, alone=True, fence=fence, now=now)
    store.transact_now("r1", waiting)
    return Run.objects.get(pk="r1")


def key_of(client: Client) -> str:
    found = re.search(r'name="key" value="([^"]+)"', client.get(URL).content.decode())
    assert found
    return found[1]


def test_run_that_waits_for_a_signal_offers_to_send_it(client: Client, run: Run) -> None:
    assert f'href="{URL}"' in client.get("/runs/r1/").content.decode()
    page = client.get(URL).content.decode()
    assert "Step paid takes the signal, and the run goes on." in page
    assert 'name="f-article"' in page
    assert not Signal.objects.exists()


def test_signal_is_stored_with_its_sender_and_wakes_the_run(client: Client, run: Run) -> None:
    answer = client.post(URL, {**ORDER, "key": key_of(client)})
    assert (answer.status_code, answer["Location"]) == (303, "/runs/r1/")
    stored = Signal.objects.get()
    assert (stored.name, stored.actor) == ("paid", "otto")
    assert json.loads(stored.data) == {"article": "lamp", "quantity": 2, "price": "9.99"}
    run.refresh_from_db()
    assert run.status == "queued"
    event = AuditEvent.objects.get(run_id="r1", kind="signal.received")
    assert (event.actor, json.loads(event.body)["data"]["channel"]) == ("otto", "ui")


def test_signal_sent_twice_counts_once(client: Client, run: Run) -> None:
    sent = {**ORDER, "key": key_of(client)}
    assert [client.post(URL, sent).status_code for _ in range(2)] == [303, 303]
    assert Signal.objects.count() == 1


def test_signal_that_does_not_fit_keeps_what_was_typed_and_the_run_waits(client: Client, run: Run) -> None:
    answer = client.post(URL, {**ORDER, "f-quantity": "-1", "key": key_of(client)})
    assert answer.status_code == 422
    assert 'value="-1"' in answer.content.decode()
    assert "greater than 0" in answer.content.decode()
    run.refresh_from_db()
    assert (run.status, Signal.objects.count()) == ("paused", 0)


def test_signal_before_its_wait_is_kept_and_the_page_says_so(client: Client) -> None:
    factories.running_run("r1", pipeline="shop", version="0.9.0")
    assert "it is kept" in client.get(URL).content.decode()
    assert client.post(URL, ORDER).status_code == 303
    assert Signal.objects.get().taken_by == ""


def test_signal_to_a_run_that_has_ended_is_refused_and_the_typed_text_kept(client: Client) -> None:
    factories.completed_run("r1", pipeline="shop", version="0.9.0")
    answer = client.post(URL, ORDER)
    assert answer.status_code == 409
    assert "takes no more signals" in answer.content.decode()
    assert 'value="lamp"' in answer.content.decode()
    assert not Signal.objects.exists()


def test_signal_that_no_step_waits_for_is_not_found(client: Client, run: Run, operator: User) -> None:
    assert client.get("/runs/r1/signals/unpaid/").status_code == 404
    with pytest.raises(SignalUnknown):
        signal(actor=operator, run_id="r1", name="unpaid", data=None, message_id="m", origin=Origin(channel="api"))


def test_signal_by_one_who_may_only_see_is_refused_and_audited(sign_in: SignIn, viewer: User, run: Run) -> None:
    page = sign_in(viewer).get("/runs/r1/").content.decode()
    assert URL not in page
    assert sign_in(viewer).post(URL, ORDER).status_code == 403
    assert not Signal.objects.exists()
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_signal_to_a_hidden_run_is_not_found(sign_in: SignIn, stranger: User, run: Run) -> None:
    assert sign_in(stranger).post(URL, ORDER).status_code == 404
    with pytest.raises(RunNotFound):
        signal(actor=stranger, run_id="r1", name="paid", data=None, message_id="m", origin=Origin(channel="api"))
    assert not Signal.objects.exists()


def test_signal_needs_someone_signed_in_and_a_token(run: Run, operator: User) -> None:
    assert "sign-in" in Client().post(URL, ORDER)["Location"]
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.post(URL, ORDER).status_code == 403
    assert not Signal.objects.exists()
