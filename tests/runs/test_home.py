"""The front door leads where there is something to do."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.test import Client

from tests.runs import factories
from tests.runs.conftest import SignIn


def test_home_leads_to_the_inbox_when_something_waits_for_me(sign_in: SignIn, operator: User) -> None:
    factories.paused_run()
    assert sign_in(operator).get("/")["Location"] == "/inbox/"


def test_home_leads_to_the_runs_when_nothing_waits_for_me(sign_in: SignIn, operator: User, viewer: User) -> None:
    factories.paused_run(candidates=["otto"])
    assert sign_in(viewer).get("/")["Location"] == "/runs/"


def test_home_asks_strangers_to_sign_in(client: Client) -> None:
    assert client.get("/")["Location"] == "/sign-in/?next=/"
