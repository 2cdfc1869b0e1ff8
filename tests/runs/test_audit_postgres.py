"""Audit, state and their guards keep their promises on PostgreSQL too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.utils import timezone
from flujo.status import EventKind, RunStatus

from runs.models import AuditEvent, Run, RunInput, SiteEvent, Tombstone
from runs.queries.state import Criteria, storage
from runs.services.origin import Origin
from runs.services.purge import preview, purge
from runs.services.site_audit import record
from runs.services.verify import verify_runs, verify_site
from tests.runs import factories, guards
from tests.runs.conftest import SignIn

OLD = timezone.now() - timedelta(days=60)


@pytest.fixture(autouse=True)
def default_is_postgres(request: pytest.FixtureRequest) -> Iterator[None]:
    """In this thread, what asks for the default database gets PostgreSQL."""
    request.getfixturevalue("transactional_db" if "flush" in request.node.name else "db")
    before = connections["default"]
    connections["default"] = connections["postgres"]
    yield
    connections["default"] = before


pytestmark = pytest.mark.django_db(databases=["postgres"])


def run_sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_guards_refuse_changes_of_audit_rows_and_deletion_of_active_runs() -> None:
    assert connection.vendor == "postgresql"
    factories.audit_event(factories.run("r1", status=RunStatus.PAUSED))
    record("user.signed_in", actor="ana", origin=None)
    RunInput.objects.all().delete()
    statements = [
        f"{verb} flujo_runs_{table}{rest}"
        for table in ("auditevent", "siteevent")
        for verb, rest in (("DELETE FROM", ""), ("UPDATE", " SET actor = 'eve'"), ("TRUNCATE", ""))
    ]
    for statement in [*statements, "DELETE FROM flujo_runs_run"]:
        with pytest.raises(IntegrityError, match=r"append-only|active run"), transaction.atomic():
            run_sql(statement)
    assert (AuditEvent.objects.count(), SiteEvent.objects.count(), Run.objects.count()) == (1, 1, 1)


@pytest.mark.django_db(databases=["postgres"], transaction=True)
def test_guards_stand_after_a_flush() -> None:
    factories.audit_event(factories.run("r1", status=RunStatus.PAUSED))
    call_command("flush", interactive=False, verbosity=0, database="postgres")
    assert guards.installed(connection)
    assert not AuditEvent.objects.exists()


@pytest.mark.tampers
def test_verify_names_the_first_bad_event() -> None:
    run = factories.run("r1")
    for _ in range(4):
        factories.audit_event(run, EventKind.RUN_CLAIMED)
    record("user.signed_in", actor="ana", origin=None)
    assert verify_runs().intact
    assert verify_site().intact
    with guards.lifted():
        run_sql("DELETE FROM flujo_runs_auditevent WHERE seq = 3")
        run_sql("UPDATE flujo_runs_siteevent SET actor = 'eve'")
    assert [(problem.run_id, problem.seq) for problem in verify_runs().problems] == [("r1", 3)]
    assert verify_site().problems[0].seq == 1


def test_cleanup_deletes_what_its_preview_showed_and_nothing_else() -> None:
    person = factories.user("otto", can=["view", "delete"])
    gone, changed, kept = (
        factories.failed_run(created_at=OLD),
        factories.failed_run(created_at=OLD),
        factories.paused_run(created_at=OLD),
    )
    frozen = preview(person, Criteria(30)).frozen
    Run.objects.filter(pk=changed.pk).update(updated_at=timezone.now())
    result = purge(
        actor=person, run_ids=[*frozen.seqs, kept.pk], reason="Old.", origin=Origin("ui"), untouched_since=frozen.cutoff
    )
    assert result.deleted == [gone.pk]
    assert {skipped.run_id for skipped in result.skipped} == {changed.pk, kept.pk}
    assert Tombstone.objects.get().pk == gone.pk
    assert verify_runs().intact, verify_runs().problems


def test_state_counts_bytes_not_letters() -> None:
    RunInput.objects.filter(run=factories.run(input="ä" * 1000)).update(context="")
    use = storage(factories.user("vera", can=["view"]))
    assert (use.total.bytes, use.total.runs) == (2002, 1)
    assert use.database > 2002


def test_pages_of_audit_and_state_answer(sign_in: SignIn) -> None:
    factories.completed_run(created_at=OLD)
    client = sign_in(factories.user("root", superuser=True))
    pages = ("/audit/", "/audit/?tab=site&from=2026-01-01", "/audit/verify/", "/state/", "/state/cleanup/?days=7")
    assert [client.get(page).status_code for page in pages] == [200] * len(pages)
