"""`python -m flujo doctor django:` tells a sick site from a healthy one, and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from flujo import Flujo
from flujo.__main__ import main
from flujo.encryption import new_key

from runs.models import Checkpoint, Run, SiteEvent
from runs.registry import registry
from runs.services import site_audit
from runs.services.origin import Origin
from runs.state_backend import DjangoBackend, close_store_threads
from runs.store_health import health
from tests.runs import shop
from tests.runs.guards import lifted

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

Examine = Callable[[], dict[str, Any]]
assert shop  # it registers the pipelines


@pytest.fixture
def examined(capsys: pytest.CaptureFixture[str]) -> Examine:
    """The sick ones among the checks, by their names."""

    def examine() -> dict[str, Any]:
        close_store_threads()
        code = main(["doctor", "django:", "--json"])
        told = json.loads(capsys.readouterr().out)
        sick = {check["name"]: check for check in told["checks"] if not check["ok"]}
        assert (code, told["healthy"]) == ((1, False) if sick else (0, True))
        return sick

    return examine


@pytest.fixture
def run() -> Run:
    runner = Flujo(registry=registry, pipeline_name="shop-offer", state_backend=DjangoBackend())
    runner.run("pen", run_id="r1")
    return Run.objects.get()


def test_healthy_site_is_found_healthy(run: Run, examined: Examine, capsys: pytest.CaptureFixture[str]) -> None:
    site_audit.record("user.signed_in", actor="ana", run_id="", origin=Origin("ui"))
    assert examined() == {}
    assert main(["doctor", "django:"]) == 0
    out = capsys.readouterr().out
    for name in ("migrations", "journal_mode", "synchronous", "guards", "chain of the site", "audit chains"):
        assert f"ok  {name}" in out, name


def test_migration_that_is_not_applied_is_named(examined: Examine) -> None:
    recorded = MigrationRecorder(connection).migration_qs.filter(app="flujo_site")
    newest = recorded.order_by("-name").first()
    assert newest is not None
    newest.delete()
    try:
        assert newest.name in examined()["migrations"]["found"]
    finally:
        MigrationRecorder(connection).record_applied("flujo_site", newest.name)


def test_expired_lease_and_missing_key_are_found(run: Run, examined: Examine, settings: Any) -> None:
    past = timezone.now() - timedelta(minutes=5)
    Run.objects.update(status="running", lease_expires_at=past, holder="", finished_at=None)
    assert "r1" in examined()["dead leases"]["found"]
    Run.objects.update(status="failed", lease_expires_at=None)
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    saved = Checkpoint.objects.get()
    saved.save()
    settings.FLUJO_ENCRYPTION_KEYS = []
    assert "sealed with the key" in examined()["encryption keys"]["found"]


@pytest.mark.tampers
def test_broken_chains_and_missing_guards_are_found(run: Run, examined: Examine) -> None:
    site_audit.record("user.signed_in", actor="ana", run_id="", origin=Origin("ui"))
    with lifted():
        Run.objects.update(chain="0" * 64)
        SiteEvent.objects.update(body="{}")
        assert [check.name for check in health("default") if not check.ok] == ["guards", "chain of the site"]
    sick = examined()
    assert {"audit chains", "chain of the site"} <= set(sick)
    assert "event 1" in sick["chain of the site"]["advice"]


def test_careless_database_is_found() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous = 1")
    try:
        sick = {check.name: check.found for check in health("default") if not check.ok}
    finally:
        connection.close()
    assert sick == {"synchronous": "NORMAL"}


@pytest.mark.django_db(databases=["default", "postgres"])
def test_postgres_that_could_lose_commits_is_found() -> None:
    found = {check.name: check.ok for check in health("postgres")}
    assert found.keys() == {"migrations", "synchronous_commit", "fsync", "full_page_writes", "guards"}
    assert {name for name, ok in found.items() if not ok} == {"fsync", "full_page_writes"}, "as our test servers run"
