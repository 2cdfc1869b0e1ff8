"""The database refuses what no path may do: change or remove audit rows, delete an active run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet
from flujo.status import ACTIVE, RunStatus

from runs.models import AuditEvent, Run, RunInput, SiteEvent
from tests.runs import factories, guards

APPEND_ONLY = pytest.mark.parametrize("model", [AuditEvent, SiteEvent])


@pytest.fixture(params=["in a test's transaction", "committed"])
def rows(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("db" if request.param == "in a test's transaction" else "transactional_db")
    factories.audit_event(factories.run("r1", status=RunStatus.PAUSED))
    SiteEvent.objects.create(
        seq=1, kind="audit.exported", at=factories.NOW, body="{}", prev_hash="0" * 64, hash="1" * 64
    )


@APPEND_ONLY
@pytest.mark.usefixtures("rows")
def test_audit_rows_refuse_every_change(model: Any) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: model.objects.update(actor="somebody else"),
        lambda: model.objects.all().delete(),
        lambda: model.objects.get().delete(),
        lambda: model.objects.get().save(),
        lambda: QuerySet(model)._raw_delete("default"),
        lambda: _sql(f"DELETE FROM {model._meta.db_table}"),
        lambda: _sql(f"UPDATE {model._meta.db_table} SET body = ''"),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            attempt()
    assert model.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_active_run_is_removed_by_no_path(status: RunStatus) -> None:
    factories.run("r1", status=status)
    RunInput.objects.all().delete()  # else the protected foreign key answers before the guard
    attempts: list[Callable[[], object]] = [
        lambda: Run.objects.all().delete(),
        lambda: Run.objects.get().delete(),
        lambda: Run.objects.filter(pk="r1")._raw_delete("default"),
        lambda: _sql("DELETE FROM flujo_runs_run"),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="active run"), transaction.atomic():
            attempt()
    assert Run.objects.filter(pk="r1").exists()


@pytest.mark.django_db
def test_deleting_a_person_deletes_no_run() -> None:
    factories.paused_run("r1", owner="ana", requester="ana")
    factories.user("ana").delete()
    assert not User.objects.exists()
    assert Run.objects.get().owner == "ana"


@pytest.mark.django_db
@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_finished_run_can_be_deleted(status: RunStatus) -> None:
    factories.run("r1", status=status)
    RunInput.objects.all().delete()
    Run.objects.all().delete()
    assert not Run.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_guards_stand_after_all_migrations_and_after_a_flush() -> None:
    assert guards.installed()
    factories.audit_event(factories.run("r1", status=RunStatus.RUNNING))
    call_command("flush", interactive=False, verbosity=0)
    assert guards.installed()
    assert not AuditEvent.objects.exists()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_migration_is_reversible_and_brings_the_guards() -> None:
    call_command("migrate", "flujo_runs", "zero", verbosity=0)
    assert not guards.installed()
    call_command("migrate", "flujo_runs", verbosity=0)
    assert guards.installed()


def _sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
