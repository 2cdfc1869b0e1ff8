"""The state pages say what is stored, and the cleanup deletes exactly what its preview showed."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.utils import timezone
from flujo.errors import InvalidInput, NotAllowed
from flujo.status import EventKind, RunStatus, Wait
from pytest_django import DjangoAssertNumQueries

from runs.models import AuditEvent, Checkpoint, Run, RunInput, SiteEvent, Tombstone
from runs.queries.state import WAITING, Criteria, storage
from runs.services.origin import Origin
from runs.services.purge import Frozen, PreviewOutdated, preview, purge
from runs.services.verify import verify_runs
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

STATE, CLEANUP = "/state/", "/state/cleanup/"
ORIGIN = Origin(channel="ui", ip="192.0.2.7")
OLD = timezone.now() - timedelta(days=60)


def text(response: Any) -> str:
    """The page as a person reads it."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).split())


def frozen_on(client: Client, query: str = "") -> str:
    """The word with which the page's form confirms its preview."""
    found = re.search(r'name="frozen" value="([^"]+)"', client.get(CLEANUP + query).content.decode())
    return html.unescape(found[1]) if found else ""


def old_runs(count: int, **fields: Any) -> list[Run]:
    return [factories.completed_run(created_at=OLD, **fields) for _ in range(count)]


# The page


def test_state_page_counts_runs_by_pipeline_and_status(
    sign_in: SignIn, viewer: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    old_runs(2)
    factories.paused_run(pipeline="invoices")
    client = sign_in(viewer)
    with django_assert_num_queries(17):
        response = client.get(STATE)
    assert response.status_code == 200
    assert "orders 0 0 0 2 0 0 2" in text(response)
    assert "invoices 0 0 1 0 0 0 1" in text(response)
    assert "All pipelines 0 0 1 2 0 0 3" in text(response)
    assert "2 finished, untouched for a month" in text(response)


def test_state_page_needs_as_many_queries_for_many_runs_as_for_one(
    sign_in: SignIn, viewer: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    old_runs(12)
    client = sign_in(viewer)
    with django_assert_num_queries(17):
        client.get(STATE)


def test_state_page_counts_bytes_not_letters(viewer: User) -> None:
    run = factories.run(input="ä" * 1000)
    RunInput.objects.filter(run=run).update(context="")
    assert storage(viewer).total.bytes == 2002


def test_state_page_says_what_it_is_for_when_nothing_is_stored(sign_in: SignIn, viewer: User) -> None:
    assert "Nothing is stored yet" in text(sign_in(viewer).get(STATE))


def test_state_page_tells_the_size_of_the_database_to_those_alone_who_see_every_pipeline(
    sign_in: SignIn, viewer: User
) -> None:
    old_runs(1)
    some = factories.user("sam", can=["view"], on="orders")
    assert "Whole database" not in text(sign_in(some).get(STATE))
    assert "Whole database" in text(sign_in(viewer).get(STATE))


def test_state_page_tells_nothing_of_other_pipelines(sign_in: SignIn, stranger: User) -> None:
    old_runs(1, title="Secret order")
    client = sign_in(stranger)
    for address in (STATE, CLEANUP):
        page = text(client.get(address))
        assert "orders" not in page
        assert "Secret order" not in page
    assert "Nothing is stored yet" in text(client.get(STATE))


# The preview


def test_preview_names_what_is_kept_and_why(operator: User) -> None:
    old_runs(2)
    factories.paused_run(created_at=OLD)
    factories.running_run(created_at=OLD, lease_expires_at=timezone.now() + timedelta(minutes=1))
    factories.running_run(created_at=OLD)
    factories.run(created_at=OLD)
    seen = preview(operator, Criteria(30))
    assert (seen.count, seen.kept_count) == (2, 4)
    assert {group.why: group.count for group in seen.kept} == {
        "An open human task waits for a person’s answer": 1,
        "A worker holds it under a live lease": 1,
        "Its lease expired: a worker will take it over": 1,
        "It is queued for a worker": 1,
    }
    assert all(len(group.samples) == 1 for group in seen.kept)


def test_preview_keeps_runs_of_pipelines_on_which_one_may_not_delete() -> None:
    person = factories.user("dora", can=["view"])
    factories.grant(person, "delete", on="invoices")
    old_runs(1)
    old_runs(1, pipeline="invoices")
    seen = preview(person, Criteria(30))
    assert [sample.pipeline for sample in seen.samples] == ["invoices"]
    assert [group.why for group in seen.kept] == ["You may not delete runs of orders"]


@pytest.mark.parametrize(
    ("criteria", "found"),
    [
        (Criteria(30), 3),
        (Criteria(90), 0),
        (Criteria(0), 4),
        (Criteria(30, status="failed"), 1),
        (Criteria(30, pipeline="invoices"), 1),
        (Criteria(30, status="failed", pipeline="invoices"), 0),
        (Criteria(30, pipeline="*"), 0),
    ],
)
def test_preview_finds_by_age_status_and_pipeline(operator: User, criteria: Criteria, found: int) -> None:
    old_runs(1)
    old_runs(1, pipeline="invoices")
    factories.failed_run(created_at=OLD)
    factories.completed_run(created_at=timezone.now() - timedelta(minutes=5))
    assert preview(operator, criteria).count == found


def test_cleanup_page_costs_a_fixed_number_of_queries(
    sign_in: SignIn, operator: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    old_runs(12)
    factories.paused_run(created_at=OLD)
    client = sign_in(operator)
    with django_assert_num_queries(20):
        assert client.get(CLEANUP).status_code == 200


@pytest.mark.parametrize("query", ["?days=x", "?days=-1", "?status=finished", "?days=99999999999999999999"])
def test_cleanup_page_says_which_criterion_it_does_not_understand(sign_in: SignIn, operator: User, query: str) -> None:
    response = sign_in(operator).get(CLEANUP + query)
    assert response.status_code == 422
    assert b'role="alert"' in response.content


# The deletion


def test_cleanup_deletes_what_the_preview_showed_and_leaves_tombstones(sign_in: SignIn, operator: User) -> None:
    gone, kept = old_runs(2), factories.paused_run(created_at=OLD)
    client = sign_in(operator)
    response = client.post(CLEANUP, {"frozen": frozen_on(client), "reason": "Older than a month."})
    assert (response.status_code, response["Location"]) == (303, CLEANUP + "?result=1")
    assert list(Run.objects.values_list("pk", flat=True)) == [kept.pk]
    assert not Checkpoint.objects.filter(run__in=[run.pk for run in gone]).exists()
    stone = Tombstone.objects.get(pk=gone[0].pk)
    assert (stone.actor, stone.reason, stone.title) == ("otto", "Older than a month.", gone[0].title)
    event = AuditEvent.objects.get(run_id=gone[0].pk, kind=EventKind.RUN_PURGED)
    assert '"ip":"127.0.0.1"' in event.body
    assert not [problem for problem in verify_runs().problems if problem.run_id == gone[0].pk]
    page = text(client.get(response["Location"]))
    assert "2 runs deleted" in page
    assert "Older than a month." in page


def test_cleanup_skips_and_names_a_run_that_changed_since_the_preview(sign_in: SignIn, operator: User) -> None:
    first, second = old_runs(2)
    client = sign_in(operator)
    frozen = frozen_on(client)
    factories.audit_event(second, EventKind.RUN_RETRIED)
    response = client.post(CLEANUP, {"frozen": frozen, "reason": "Old."}, follow=True)
    assert not Run.objects.filter(pk=first.pk).exists()
    assert Run.objects.filter(pk=second.pk).exists()
    assert "1 skipped" in text(response)
    assert "It changed since the preview" in text(response)


@pytest.mark.parametrize("wait", Wait)
def test_cleanup_says_why_it_keeps_a_run_whatever_it_waits_for(sign_in: SignIn, operator: User, wait: Wait) -> None:
    factories.run("waits", status=RunStatus.PAUSED, wait=wait, updated_at=timezone.now() - timedelta(days=60))
    assert WAITING[wait] in text(sign_in(operator).get("/state/cleanup/?days=30"))


def test_cleanup_keeps_a_run_that_woke_up_since_the_preview(operator: User) -> None:
    (run,) = old_runs(1)
    frozen = preview(operator, Criteria(30)).frozen
    Run.objects.filter(pk=run.pk).update(status=RunStatus.QUEUED)
    result = purge(actor=operator, run_ids=frozen.seqs, reason="Old.", origin=ORIGIN, seen=frozen.seqs)
    assert (result.deleted, [skipped.run_id for skipped in result.skipped]) == ([], [run.pk])
    assert "queued" in result.skipped[0].why
    assert Run.objects.filter(pk=run.pk).exists()


def test_cleanup_leaves_runs_alone_that_came_after_the_preview(sign_in: SignIn, operator: User) -> None:
    old_runs(1)
    client = sign_in(operator)
    frozen = frozen_on(client)
    later = factories.completed_run(created_at=OLD)
    client.post(CLEANUP, {"frozen": frozen, "reason": "Old."})
    assert list(Run.objects.values_list("pk", flat=True)) == [later.pk]


def test_cleanup_submitted_twice_deletes_once_and_says_so(sign_in: SignIn, operator: User) -> None:
    (run,) = old_runs(1)
    client = sign_in(operator)
    confirmed = {"frozen": frozen_on(client), "reason": "Old."}
    client.post(CLEANUP, confirmed)
    response = client.post(CLEANUP, confirmed, follow=True)
    assert "was deleted by otto" in text(response)
    assert AuditEvent.objects.filter(run_id=run.pk, kind=EventKind.RUN_PURGED).count() == 1


@pytest.mark.parametrize("typed", ["", "50", "all"])
def test_cleanup_of_more_than_fifty_asks_for_their_number(sign_in: SignIn, operator: User, typed: str) -> None:
    for _ in range(51):
        factories.run(status=RunStatus.COMPLETED, at=4, created_at=OLD)
    client = sign_in(operator)
    response = client.post(CLEANUP, {"frozen": frozen_on(client), "reason": "Kept reason", "count": typed})
    assert response.status_code == 422
    assert "Type 51 to confirm" in text(response)
    assert b'value="Kept reason"' in response.content
    assert Run.objects.count() == 51
    client.post(CLEANUP, {"frozen": frozen_on(client), "reason": "Old.", "count": "51"})
    assert not Run.objects.exists()


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
def test_cleanup_asks_for_a_reason(sign_in: SignIn, operator: User, reason: str) -> None:
    old_runs(1)
    client = sign_in(operator)
    assert client.post(CLEANUP, {"frozen": frozen_on(client), "reason": reason}).status_code == 422
    with pytest.raises(InvalidInput):
        purge(actor=operator, run_ids=[], reason=reason, origin=ORIGIN)
    assert Run.objects.count() == 1


def test_cleanup_refuses_and_records_a_person_without_the_permission(sign_in: SignIn, viewer: User) -> None:
    (run,) = old_runs(1)
    client = sign_in(viewer)
    page = client.get(CLEANUP)
    assert "not delete" in text(page)
    assert b'name="frozen"' not in page.content
    frozen = Frozen(timezone.now(), {run.pk: run.seq}).text(viewer)
    assert client.post(CLEANUP, {"frozen": frozen, "reason": "Old."}).status_code == 403
    with pytest.raises(NotAllowed):
        purge(actor=viewer, run_ids=[run.pk], reason="Old.", origin=ORIGIN)
    assert Run.objects.filter(pk=run.pk).exists()
    assert SiteEvent.objects.filter(kind="action.refused", actor="vera").count() == 2


def test_cleanup_says_nothing_of_a_run_that_the_person_may_not_see() -> None:
    person = factories.user("dora", can=["view", "delete"], on="invoices")
    hidden = [old_runs(1)[0].pk, factories.run("busy").pk, factories.tombstone("gone").run_id]
    result = purge(actor=person, run_ids=[*hidden, "absent"], reason="Old.", origin=ORIGIN)
    assert [skipped.why for skipped in result.skipped] == [f"No run has the id {it!r}." for it in [*hidden, "absent"]]


def test_cleanup_skips_a_run_of_another_pipeline() -> None:
    person = factories.user("dora", can=["view"])
    factories.grant(person, "delete", on="invoices")
    (run,) = old_runs(1)
    result = purge(actor=person, run_ids=[run.pk], reason="Old.", origin=ORIGIN)
    assert [skipped.why for skipped in result.skipped] == ["You may not delete runs of orders."]
    assert Run.objects.filter(pk=run.pk).exists()


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED])
def test_cleanup_never_deletes_an_active_run(operator: User, status: RunStatus) -> None:
    run = factories.run(status=status, created_at=OLD)
    result = purge(actor=operator, run_ids=[run.pk], reason="Old.", origin=ORIGIN)
    assert "cannot be deleted" in result.skipped[0].why
    assert Run.objects.filter(pk=run.pk).exists()


def test_cleanup_refuses_a_damaged_or_foreign_preview(sign_in: SignIn, operator: User) -> None:
    (run,) = old_runs(1)
    client = sign_in(operator)
    foreign = Frozen(timezone.now(), {run.pk: run.seq}).text(factories.user("dora"))
    for frozen in ("", "nonsense", frozen_on(client) + "x", foreign):
        response = client.post(CLEANUP, {"frozen": frozen, "reason": "Old."})
        assert response.status_code == 409
        assert "Nothing was deleted" in text(response)
        with pytest.raises(PreviewOutdated):
            Frozen.read(frozen, operator)
    assert Run.objects.count() == 1


def test_cleanup_asks_anonymous_people_to_sign_in() -> None:
    for address in (STATE, CLEANUP):
        assert Client().get(address).status_code == 302
    assert Client().post(CLEANUP, {"frozen": "x"}).status_code == 302


def test_cleanup_refuses_a_post_without_its_token(operator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(CLEANUP, {"frozen": "x", "reason": "Old."}).status_code == 403


def test_state_pages_refuse_other_methods(sign_in: SignIn, operator: User) -> None:
    client = sign_in(operator)
    assert client.post(STATE).status_code == 405
    assert client.delete(CLEANUP).status_code == 405


def test_purge_joins_a_transaction_and_goes_with_it(operator: User) -> None:
    (run,) = old_runs(1)
    with transaction.atomic():
        assert purge(actor=operator, run_ids=[run.pk], reason="Old.", origin=ORIGIN).deleted == [run.pk]
        transaction.set_rollback(True)
    assert Run.objects.filter(pk=run.pk).exists()
    assert not Tombstone.objects.exists()
