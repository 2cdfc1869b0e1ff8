"""The session as a page asks for it, the shell around every page, and signing in and out."""

from __future__ import annotations

import json
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory
from flujo.errors import (
    AlreadyDecided,
    FlujoError,
    HumanTaskClosed,
    IllegalTransition,
    InvalidAnswer,
    NotAllowed,
    OutcomeUnknown,
    RunNotFound,
)

from runs.views import errors
from tests.runs import factories
from tests.runs.conftest import SignIn


def test_healthz_answers_without_signing_in(client: Client) -> None:
    assert client.get("/healthz").status_code == 200


@pytest.mark.django_db
def test_session_is_401_for_strangers_and_200_for_the_signed_in(client: Client, sign_in: SignIn, viewer: User) -> None:
    assert client.get("/_f/session/").status_code == 401
    answer = sign_in(viewer).get("/_f/session/")
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("path", ["/healthz", "/_f/session/", "/_f/nav/", "/"])
def test_reading_addresses_refuse_to_be_posted_to(path: str, sign_in: SignIn, viewer: User) -> None:
    assert sign_in(viewer).post(path).status_code == 405


def test_nav_counts_what_waits_for_me(sign_in: SignIn, operator: User, viewer: User) -> None:
    factories.paused_run()
    factories.paused_run(candidates=["someone else"])
    assert "1<span" in sign_in(operator).get("/_f/nav/").content.decode()
    assert "count" not in re.sub(r"nav-inbox-count", "", sign_in(viewer).get("/_f/nav/").content.decode())


@pytest.mark.django_db
def test_signing_in_leads_to_the_page_that_was_asked_for(client: Client) -> None:
    factories.user("ana", can=["view"])
    page = client.get("/inbox/", follow=True)
    assert page.redirect_chain == [("/sign-in/?next=/inbox/", 302)]
    sent = {"username": "ana", "password": factories.PASSWORD, "next": "/inbox/"}
    assert client.post("/sign-in/", sent)["Location"] == "/inbox/"


@pytest.mark.django_db
def test_a_wrong_password_keeps_the_name_and_says_so_in_words(client: Client) -> None:
    page = client.post("/sign-in/", {"username": "ana", "password": "wrong"}).content.decode()
    assert 'value="ana"' in page
    assert 'role="alert"' in page
    assert "wrong" not in page


def test_signing_out_needs_a_post(sign_in: SignIn, viewer: User) -> None:
    client = sign_in(viewer)
    assert client.get("/sign-out/").status_code == 405
    client.post("/sign-out/")
    assert client.get("/_f/session/").status_code == 401


def test_the_theme_a_person_chose_is_rendered_and_anything_else_is_not(sign_in: SignIn, viewer: User) -> None:
    client = sign_in(viewer)
    client.cookies["theme"] = "dark"
    assert '<html lang="en" data-theme="dark">' in client.get("/inbox/").content.decode()
    client.cookies["theme"] = '"><script>'
    assert '<html lang="en">' in client.get("/inbox/").content.decode()


def test_the_shell_has_its_landmarks_regions_and_no_inline_code(sign_in: SignIn, viewer: User) -> None:
    page = sign_in(viewer).get("/inbox/").content.decode()
    for part in ('class="skip-link"', 'id="main"', 'id="say"', 'id="alert"', "data-live-chip", 'aria-label="Main"'):
        assert part in page
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)


def test_htmx_swaps_the_answers_that_carry_a_page_and_stores_none(sign_in: SignIn, viewer: User) -> None:
    page = sign_in(viewer).get("/inbox/").content.decode()
    found = re.search(r"name=\"htmx-config\" content='([^']+)'", page)
    assert found is not None
    config = json.loads(found[1])
    swapped = [rule["code"] for rule in config["responseHandling"] if rule["swap"]]
    for code in (200, 403, 409, 410, 422):
        assert any(re.fullmatch(rule, str(code)) for rule in swapped)
    assert (config["historyCacheSize"], config["allowEval"], config["selfRequestsOnly"]) == (0, False, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotAllowed(), 403), (RunNotFound(), 404), (AlreadyDecided(), 409), (HumanTaskClosed(), 410),
        (InvalidAnswer(), 422), (OutcomeUnknown(), 503),
    ],
)  # fmt: skip
def test_an_error_has_one_status_and_its_sentence_on_the_page(
    error: FlujoError, status: int, rf: RequestFactory
) -> None:
    request = rf.get("/")
    request.user = User(username="ana")
    answer = errors.respond(request, error, "components/_problem.html", {"sentence": str(error)})
    assert answer.status_code == status
    assert str(error).split(":")[0].encode() in answer.content


def test_whatever_the_status_of_a_run_forbids_is_a_conflict() -> None:
    kinds: list[type[FlujoError]] = [IllegalTransition, *IllegalTransition.__subclasses__()]
    assert {kind.__name__: errors.status_of(kind()) for kind in kinds if errors.status_of(kind()) != 409} == {}


def test_an_unknown_page_is_a_404_in_the_shell(sign_in: SignIn, viewer: User) -> None:
    page = sign_in(viewer).get("/inbox/999999/")
    assert page.status_code == 404
    assert "Nothing here that you can see" in page.content.decode()
