"""The audit page shows who did what, when and from where, to those who may see it; its export says the same."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client
from flujo.status import EventKind
from pytest_django import DjangoAssertNumQueries

from runs.audit_words import RUN_EVENTS, SITE_EVENTS
from runs.models import AuditEvent, Run, SiteEvent
from runs.queries.audit import SIZE
from runs.services.origin import Origin
from runs.services.purge import purge
from runs.services.site_audit import record
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

AUDIT, EXPORT, VERIFY = "/audit/", "/audit/export.csv", "/audit/verify/"
FROM = {"channel": "ui", "ip": "192.0.2.7", "user_agent": "Lynx", "request_id": "q1"}


@pytest.fixture
def auditor() -> User:
    person = factories.user("audrey", can=["view"])
    person.user_permissions.add(Permission.objects.get(codename="audit", content_type__app_label="flujo_runs"))
    return User.objects.get(pk=person.pk)


@pytest.fixture
def run() -> Run:
    stored = factories.paused_run("run-1", title="Order seven")
    factories.audit_event(stored, EventKind.RUN_CANCEL_REQUESTED, actor="ana", data={"reason": "Wrong file", **FROM})
    return stored


def rows(response: Any) -> list[str]:
    """The lines of the table as a person reads them, newest first."""
    body = response.content.decode().partition("<tbody>")[2].partition("</tbody>")[0]
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in body.split("</tr>")[:-1]]


def text(response: Any) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


# The page


def test_audit_says_who_did_what_when_and_from_where(sign_in: SignIn, viewer: User, run: Run) -> None:
    newest = rows(sign_in(viewer).get(AUDIT))[0]
    for said in (
        "02 Mar 2026, 09:00:05 UTC",
        "Cancellation requested",
        "Wrong file",
        "ana",
        "Order seven",
        "ui 192.0.2.7",
    ):
        assert said in newest
    assert "browser Lynx" in newest
    assert "request q1" in newest


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 5),
        ("?run=run-1", 5),
        ("?run=run-2", 0),
        ("?person=ana", 1),
        ("?person=Ana", 0),
        ("?kind=step.completed", 2),
        ("?kind=step.completed&person=ana", 0),
        ("?from=2026-03-02&to=2026-03-02", 5),
        ("?from=2026-03-03", 0),
        ("?to=2026-03-01", 0),
    ],
)
def test_audit_filters_by_run_person_kind_and_date(
    sign_in: SignIn, viewer: User, run: Run, query: str, found: int
) -> None:
    response = sign_in(viewer).get(AUDIT + query)
    assert (response.status_code, len(rows(response))) == (200, found)
    assert found or "No event matches this filter" in text(response)


@pytest.mark.parametrize(
    "query",
    [
        "?kind=user.signed_in",
        "?from=yesterday",
        "?from=2026-03-02&to=2026-03-01",
        "?actor=ana",
        "?before=0",
        "?after=x",
        "?tab=all",
    ],
)
def test_audit_shows_nothing_rather_than_something_else(sign_in: SignIn, viewer: User, run: Run, query: str) -> None:
    response = sign_in(viewer).get(AUDIT + query)
    assert (response.status_code, rows(response)) == (422, [])
    assert b'role="alert"' in response.content


def test_audit_says_what_it_is_for_when_nothing_happened(sign_in: SignIn, viewer: User) -> None:
    assert "Nothing has happened yet" in text(sign_in(viewer).get(AUDIT))


def test_audit_pages_both_ways_without_gaps(sign_in: SignIn, viewer: User) -> None:
    stored = factories.run("long")
    for _ in range(2 * SIZE + 20):
        factories.audit_event(stored, EventKind.RUN_CLAIMED)
    client, seen = sign_in(viewer), []
    address = AUDIT
    for size in (SIZE, SIZE, 20):
        page = client.get(address).context["page"]
        assert len(page.rows) == size
        seen += [row.seq for row in page.rows]
        address, back = AUDIT + page.older, AUDIT + page.newer
    assert seen == list(range(2 * SIZE + 20, 0, -1))
    page = client.get(back).context["page"]
    assert [row.seq for row in page.rows] == seen[SIZE : 2 * SIZE]
    assert page.newer


def test_audit_keeps_its_filter_over_pages(sign_in: SignIn, viewer: User) -> None:
    stored = factories.run("long")
    for _ in range(SIZE + 1):
        factories.audit_event(stored, EventKind.RUN_CLAIMED, actor="ana")
    page = sign_in(viewer).get(AUDIT + "?person=ana").context["page"]
    assert "person=ana" in page.older


@pytest.mark.parametrize("count", [1, 12])
def test_audit_costs_a_fixed_number_of_queries(
    sign_in: SignIn, viewer: User, django_assert_num_queries: DjangoAssertNumQueries, count: int
) -> None:
    for _ in range(count):
        factories.completed_run()
    client = sign_in(viewer)
    with django_assert_num_queries(12):
        client.get(AUDIT)


def test_audit_shows_hostile_values_as_text(sign_in: SignIn, viewer: User) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    stored = factories.run("r1", title=hostile)
    factories.audit_event(
        stored, EventKind.STEP_FAILED, actor=hostile, path=hostile, data={"reason": hostile, hostile: hostile}
    )
    page = sign_in(viewer).get(AUDIT + "?" + "person=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E").content.decode()
    assert "<img" not in page
    assert "&lt;img src=x" in page


# Who sees what


def test_audit_tells_nothing_of_other_pipelines(sign_in: SignIn, stranger: User, run: Run) -> None:
    client = sign_in(stranger)
    for query in ("", "?run=run-1", "?person=ana"):
        response = client.get(AUDIT + query)
        assert rows(response) == []
        assert "Order seven" not in text(response)


def test_audit_of_a_deleted_run_stays_readable(sign_in: SignIn, operator: User, stranger: User) -> None:
    stored = factories.completed_run("gone", title="Old order")
    purge(actor=operator, run_ids=[stored.pk], reason="Old.", origin=Origin("ui"))
    shown = rows(sign_in(operator).get(AUDIT + "?run=gone"))
    assert "Run deleted" in shown[0]
    assert len(shown) == AuditEvent.objects.filter(run_id="gone").count()
    assert all("Old order" in row and "deleted" in row for row in shown)
    assert rows(sign_in(stranger).get(AUDIT + "?run=gone")) == []


def test_audit_event_stays_readable_after_its_person_is_deleted(sign_in: SignIn, viewer: User, run: Run) -> None:
    factories.user("ana").delete()
    assert "ana" in rows(sign_in(viewer).get(AUDIT))[0]


def test_site_tab_is_for_people_with_the_permission(sign_in: SignIn, viewer: User, auditor: User) -> None:
    record("user.sign_in_failed", actor="", origin=Origin("ui", "192.0.2.9"), username="admin")
    refused = sign_in(viewer).get(AUDIT + "?tab=site")
    assert refused.status_code == 403
    assert "192.0.2.9" not in text(refused)
    assert b"tab=site" not in sign_in(viewer).get(AUDIT).content
    shown = rows(sign_in(auditor).get(AUDIT + "?tab=site&kind=user.sign_in_failed"))
    assert "Sign-in failed as admin" in shown[0]
    assert "ui 192.0.2.9" in shown[0]


def test_audit_asks_anonymous_people_to_sign_in() -> None:
    for address in (AUDIT, VERIFY):
        assert Client().get(address).status_code == 302
    assert Client().post(EXPORT).status_code == 302


# The export


def export(client: Client, **terms: str) -> list[list[str]]:
    response: Any = client.post(EXPORT, terms)
    assert (response.status_code, response["Content-Type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.reader(io.StringIO(response.getvalue().decode())))


def test_export_holds_what_the_page_shows_and_is_itself_recorded(sign_in: SignIn, operator: User, run: Run) -> None:
    head, *lines = export(sign_in(operator), kind="step.completed")
    assert head == [
        "seq",
        "run_id",
        "at",
        "kind",
        "actor",
        "path",
        "channel",
        "ip",
        "user_agent",
        "request_id",
        "reason",
        "data",
        "prev_hash",
        "hash",
    ]
    assert [line[5] for line in lines] == ["price", "parse"]
    event = SiteEvent.objects.get(kind="audit.exported")
    assert event.actor == "otto"
    assert json.loads(event.body)["data"]["filter"] == {"kind": "step.completed"}


def test_export_leaves_no_event_out_however_many_there_are(sign_in: SignIn, operator: User) -> None:
    stored = factories.run("long")
    for _ in range(501):
        factories.audit_event(stored, EventKind.RUN_CLAIMED)
    _, *lines = export(sign_in(operator))
    assert [int(line[0]) for line in lines] == list(range(501, 0, -1))


def test_export_streams_to_an_asynchronous_server(operator: User, run: Run) -> None:
    async def ask() -> str:
        client = AsyncClient()
        await client.aforce_login(operator)
        response: Any = await client.post(EXPORT)
        assert response.is_async
        return b"".join([piece async for piece in response]).decode()

    assert len(list(csv.reader(io.StringIO(async_to_sync(ask)())))) == 6


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_export_lets_no_cell_start_a_formula(sign_in: SignIn, operator: User, run: Run, start: str) -> None:
    factories.audit_event(run, EventKind.RUN_RETRIED, actor=f"{start}cmd", data={"reason": f"{start}HYPERLINK(1)"})
    line = export(sign_in(operator))[1]
    assert (line[4], line[10]) == (f"'{start}cmd", f"'{start}HYPERLINK(1)")


def test_export_holds_the_pipelines_on_which_exporting_is_granted(sign_in: SignIn, run: Run) -> None:
    factories.audit_event(factories.run("other", pipeline="invoices"))
    person = factories.user("eva", can=["view"])
    factories.grant(person, "export", on="invoices")
    assert [line[1] for line in export(sign_in(person))[1:]] == ["other"]


def test_export_is_refused_and_recorded_without_the_permission(sign_in: SignIn, viewer: User, run: Run) -> None:
    client = sign_in(viewer)
    assert EXPORT.encode() not in client.get(AUDIT).content
    response = client.post(EXPORT)
    assert response.status_code == 403
    assert "run-1" not in text(response)
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_export_of_the_site_needs_the_permission_to_audit(sign_in: SignIn, operator: User, auditor: User) -> None:
    assert sign_in(operator).post(EXPORT, {"tab": "site"}).status_code == 403
    assert "user.signed_in" in {line[3] for line in export(sign_in(auditor), tab="site")}


def test_export_refuses_get_and_a_post_without_its_token(sign_in: SignIn, operator: User) -> None:
    assert sign_in(operator).get(EXPORT).status_code == 405
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(EXPORT).status_code == 403
    assert not SiteEvent.objects.filter(kind="audit.exported").exists()


# The proof


def test_verify_page_says_the_chains_are_intact(sign_in: SignIn, auditor: User, run: Run) -> None:
    response = sign_in(auditor).get(VERIFY)
    assert response.status_code == 200
    assert "1 chain intact, 5 events" in text(response)
    assert f"Chain intact 1…{SiteEvent.objects.count()}" in text(response)


@pytest.mark.tampers
def test_verify_page_names_the_first_bad_event(sign_in: SignIn, auditor: User, run: Run) -> None:
    Run.objects.filter(pk="run-1").update(chain="0" * 64)
    response = sign_in(auditor).get(VERIFY)
    assert "recorded history was changed" in text(response)
    assert "run-1 : event 5 is another one than the run remembers as its last." in text(response)


def test_verify_page_is_for_people_with_the_permission(sign_in: SignIn, operator: User) -> None:
    assert sign_in(operator).get(VERIFY).status_code == 403


def test_verify_page_changes_nothing(sign_in: SignIn, auditor: User) -> None:
    client = sign_in(auditor)
    before = SiteEvent.objects.count()
    client.get(VERIFY)
    client.get(AUDIT)
    assert SiteEvent.objects.count() == before
    assert client.post(VERIFY).status_code == 405


def test_every_kind_of_event_has_words_of_its_own() -> None:
    assert RUN_EVENTS.keys() == {kind.value for kind in EventKind}
    assert SITE_EVENTS.keys() == {kind for kind, _ in SiteEvent.KINDS}
    words = [event.words for event in (*RUN_EVENTS.values(), *SITE_EVENTS.values())]
    assert len(words) == len(set(words))
