"""Requests no page of ours sends: they are understood or refused, and never an error of the server's own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from flujo_site.middleware import ClientAddress
from runs.models import Decision, HumanTask, PipelineGrant, SiteEvent
from tests.runs import factories, shop

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

DIGITS = "9" * 5000
RIGHT = "a long right password"
ADDRESSES = (
    *(f"/_f/inbox/?shown={ids}" for ids in (DIGITS, "9" * 20, ",".join("7" * 3000), "²,٣,-1,")),
    *(f"/inbox/next/?after={after}" for after in (DIGITS, "9" * 20, "²", "-1")),
    *(f"/inbox/{number}/" for number in ("9" * 20, DIGITS, "-1", "1e3")),
    *(f"/{page}/?{name}={value}" for page in ("inbox", "runs", "audit", "state/cleanup")
      for name in ("q", "pipeline", "cursor", "before", "to", "days", "result", "tab", "kind")
      for value in ("%00", DIGITS, "9999-12-31", "%ff%fe", "{0.__class__}", "%25s", "1e400")),
    *(f"/runs/{run_id}/" for run_id in ("%00", "a%00b", "%ff", "%ed%a0%80", "..%2f..%2fetc%2fpasswd", "a" * 3000)),
    *(f"/runs/run-a/{page}" for page in (f"context/?at={DIGITS}", f"history/?before={DIGITS}", "history/?before=²",
                                        "steps/%00/", "steps/../../x/", "steps/a//b/")),
    *(f"/pipelines/{name}/{page}" for name in ("%00", "%ff", "shop") for page in ("", "start/", "?version=%00")),
    "/_f/runs/?ids=%00,a", "/_f/runs/?since=x", "/_f/runs/?ids=" + ",".join("a" * 3000), "/%0d%0aX:%20y/",
    "//evil.example/",
)  # fmt: skip
TEXTS = {
    "nul": "a\0b", "surrogate": "\udcff", "bidi": "\u202eevil", "digits": DIGITS, "nan": "NaN", "infinite": "1e999999",
    "surrogate in JSON": '"\\ud800"', "nul in JSON": '"\\u0000"', "deep": "[" * 50_000, "header": "a\r\nX-Evil: 1",
    "format": "{0.__class__}", "twice": '{"a": 1, "a": 2}', "large": "x" * 900_000, "digits in JSON": f"[{DIGITS}]",
}  # fmt: skip
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def task() -> HumanTask:
    return factories.paused_run("run-a", pipeline="shop").human_tasks.get()


@pytest.fixture
def client(client: Client) -> Client:
    client.force_login(factories.user("root", superuser=True))
    return client


@pytest.mark.slow
def test_no_address_is_an_error_of_the_server(task: HumanTask) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(factories.user("root", superuser=True))
    assert [address[:60] for address in ADDRESSES if client.get(address).status_code >= 500] == []


@pytest.mark.parametrize("address", ["/runs/a%00b/", "/pipelines/%00/", "/inbox/?q=%00", "/_f/runs/?ids=%00"])
def test_nul_in_an_address_is_refused_before_any_database_is_asked(address: str, client: Client) -> None:
    assert client.get(address).status_code == 400


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_no_text_in_a_form_is_an_error_of_the_server(text: str, task: HumanTask, client: Client) -> None:
    shown = {"generation": task.generation, "digest": task.digest, "key": "k", "outcome": "rejected", "reason": "no"}
    forms: list[tuple[str, dict[str, Any]]] = [
        *((f"/inbox/{task.pk}/decide/", shown | {name: text}) for name in ("generation", "digest", "key")),
        ("/pipelines/shop/start/", {"f-article": text, "f-quantity": "1"}),
        (
            "/pipelines/shop/start/",
            {"f-article": "Bolt", "f-quantity": text, "f-price": text, "title": text, "key": text},
        ),
        ("/pipelines/shop-anything/start/", {"input": text}),
        ("/runs/run-a/retry/", {"reason": text}),
        ("/state/cleanup/", {"frozen": text, "reason": text, "count": text}),
        ("/audit/export.csv", {"run": text, "person": text, "before": text}),
        (f"/inbox/{task.pk}/decide/", shown | {"reason": text}),
        ("/runs/run-a/cancel/", {"reason": text}),
        ("/sign-in/", {"username": text, "password": text, "next": text}),
    ]
    for address, fields in forms:
        sent = urlencode(fields, errors="surrogateescape")
        answer = client.post(address, sent, content_type=FORM)
        assert answer.status_code < 500, address
        assert not any("X-Evil" in name for name in answer.headers)


BODIES = {
    "json": ("application/json", b'{"outcome": "approved"}'),
    "text": ("text/plain", b"outcome=approved"),
    "broken parts": ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
    "no boundary": ("multipart/form-data", b"zz"),
    "long boundary": ("multipart/form-data; boundary=" + "b" * 300, b"zz"),
    "utf-16": (FORM + "; charset=utf-16", b"outcome=approved"),
    "no charset": (FORM + "; charset=nope", b"outcome=approved"),
    "many fields": (FORM, b"&".join(b"a%d=1" % number for number in range(1500))),
    "large": (FORM, b"outcome=approved&reason=" + b"x" * 2_000_000),
}


@pytest.mark.parametrize(("kind", "body"), BODIES.values(), ids=BODIES.keys())
def test_no_kind_of_body_decides_or_is_an_error_of_the_server(
    kind: str, body: bytes, task: HumanTask, client: Client
) -> None:
    for address in (f"/inbox/{task.pk}/decide/", "/runs/run-a/cancel/", "/pipelines/shop/start/", "/sign-in/"):
        answer = client.generic("POST", address, body, content_type=kind)
        assert 400 <= answer.status_code < 500 or address == "/sign-in/", address
    task.refresh_from_db()
    assert (task.status, task.run.status) == ("open", "paused")
    assert shop.ask.name == task.name


# The decision


def _send(client: Client, task: HumanTask, **changes: Any) -> int:
    sent = {"generation": task.generation, "digest": task.digest, "key": "k", "outcome": "approved", "reason": "yes"}
    return client.post(f"/inbox/{task.pk}/decide/", sent | changes).status_code


def _as(name: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(factories.user(name, **{"can": ["view", "decide"], **fields}))
    return client


def test_key_of_a_decision_is_good_for_its_person_and_its_answer_only(task: HumanTask) -> None:
    ana, ben = _as("ana", groups=["finance"]), _as("ben", groups=["finance"])
    assert _send(ana, task) == 303
    assert _send(ana, task) == 303
    assert _send(ana, task, outcome="rejected") == 409
    assert _send(ana, task, key="other") == 409
    assert _send(ana, task, key="") == 409
    assert _send(ben, task) == 409
    assert Decision.objects.count() == 1
    assert SiteEvent.objects.filter(kind="decision.refused").count() == 4


def test_right_that_ends_between_the_page_and_the_answer_counts_no_more(task: HumanTask) -> None:
    ana = _as("ana")
    assert ana.get(f"/inbox/{task.pk}/").status_code == 200
    PipelineGrant.objects.filter(verb="decide").delete()
    assert _send(ana, task) == 403
    PipelineGrant.objects.all().delete()
    assert _send(ana, task) == 404
    User.objects.update(is_active=False)
    assert _send(ana, task) == 302
    assert not Decision.objects.exists()


def test_superuser_who_is_not_asked_may_not_answer(client: Client) -> None:
    task = factories.paused_run("run-b", pipeline="shop", candidates=["group:finance", "ana"]).human_tasks.get()
    assert _send(client, task) == 403
    assert not Decision.objects.exists()
    assert _send(_as("ana"), task) == 303


def test_request_of_a_cancelled_run_is_closed_to_everyone(task: HumanTask, client: Client) -> None:
    assert client.post("/runs/run-a/cancel/", {"reason": "stop"}).status_code == 303
    assert _send(client, task) == 410
    assert _send(client, task, outcome="rejected") == 410
    assert client.post("/runs/run-a/cancel/", {"reason": "stop"}).status_code == 409
    assert client.post("/runs/run-a/retry/", {"reason": "again"}).status_code == 409
    assert not Decision.objects.exists()


# Signing in


def _try(client: Client, name: str, password: str = "wrong", address: str = "203.0.113.7") -> int:
    return client.post("/sign-in/", {"username": name, "password": password}, REMOTE_ADDR=address).status_code


def test_failures_elsewhere_keep_nobody_out() -> None:
    User.objects.create_superuser("boss", password=RIGHT)
    attacker = Client()
    answers = [_try(attacker, "boss") for _ in range(settings.AXES_FAILURE_LIMIT + 2)]
    assert answers[-1] == 429
    assert _try(Client(), "boss", RIGHT, address="198.51.100.1") == 302


def test_own_account_buys_no_more_tries_on_another() -> None:
    User.objects.create_user("mallory", password=RIGHT)
    User.objects.create_superuser("boss", password=RIGHT)
    answers = []
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answers += [_try(Client(), "boss"), _try(Client(), "boss"), _try(Client(), "mallory", RIGHT)]
    assert answers.count(200) < settings.AXES_FAILURE_LIMIT
    assert answers[-1] == 429


def test_one_address_cannot_try_one_password_on_every_account() -> None:
    answers = [_try(Client(), f"person-{number}") for number in range(settings.AXES_FAILURE_LIMIT + 1)]
    assert answers[-1] == 429


@pytest.mark.parametrize(
    ("trusted", "header", "seen"),
    [
        (True, "10.9.9.9, 203.0.113.7", "203.0.113.7"),
        (True, "2001:db8::1", "2001:db8::1"),
        (True, "203.0.113.7, <script>", "127.0.0.1"),
        (True, "", "127.0.0.1"),
        (False, "203.0.113.7", "127.0.0.1"),
    ],
)
def test_peer_is_who_the_trusted_proxy_saw_and_nothing_a_client_claims(
    trusted: bool, header: str, seen: str, settings: Any
) -> None:
    settings.FLUJO_TRUSTED_PROXY = trusted
    found: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        found.append(request.META["REMOTE_ADDR"])
        return HttpResponse()

    ClientAddress(view)(RequestFactory().get("/", headers={"X-Forwarded-For": header}))
    assert found == [seen]


@pytest.mark.parametrize(
    "elsewhere",
    ["//evil.example", "https://evil.example/", "javascript:alert(1)", "/\\evil.example", "http:evil.example"],
)
def test_signing_in_leads_nowhere_else(elsewhere: str, client: Client) -> None:
    User.objects.create_user("ana", password=RIGHT)
    assert client.get("/sign-in/", {"next": elsewhere})["Location"] == "/"
    answer = Client().post("/sign-in/", {"username": "ana", "password": RIGHT, "next": elsewhere})
    assert answer["Location"] == "/"


def test_signing_in_changes_the_session_and_signing_out_ends_it() -> None:
    User.objects.create_user("ana", password=RIGHT)
    client = Client()
    session = client.session
    session["planted"] = True
    session.save()
    planted = client.cookies[settings.SESSION_COOKIE_NAME].value
    client.post("/sign-in/", {"username": "ana", "password": RIGHT})
    mine = client.cookies[settings.SESSION_COOKIE_NAME].value
    assert mine != planted
    client.post("/sign-out/")
    client.cookies[settings.SESSION_COOKIE_NAME] = mine
    assert client.get("/runs/")["Location"].startswith("/sign-in/")
    kinds = SiteEvent.objects.order_by("seq").values_list("kind", flat=True)
    assert [kind for kind in kinds if kind.startswith("user.")] == ["user.signed_in", "user.signed_out"]
