"""The audit at the end of the suite finds a broken chain in every kind of store, and passes whole ones."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from flujo import Flujo, PipelineRegistry, StateBackend, step
from flujo.errors import AuditChainBroken
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend

from runs.models import AuditEvent
from tests.audit_of_stores import AuditOfStores
from tests.runs import factories
from tests.runs.guards import lifted

pytestmark = pytest.mark.slow


@step
async def to_upper(text: str) -> str:
    return text.upper()


def run_once(store: StateBackend) -> None:
    registry = PipelineRegistry()
    registry.register(to_upper, name="demo", version="1.0.0")
    Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=store).run("hello")


def test_stores_in_a_folder_are_found_and_verified(tmp_path: Path) -> None:
    run_once(SQLiteBackend(tmp_path / "one.db"))
    run_once(FileBackend(tmp_path / "two"))
    audit = AuditOfStores()
    audit.check_left(tmp_path)
    assert audit.broken == []
    assert audit.chains == 2
    assert audit.events >= 6


def test_a_store_in_memory_is_verified_when_it_was_left() -> None:
    audit, store = AuditOfStores(), InMemoryBackend()
    run_once(store)
    audit.leave(store)
    audit.check_left(None)
    assert (audit.broken, audit.chains) == ([], 1)


@pytest.mark.tampers
def test_a_changed_sqlite_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "one.db"
    run_once(SQLiteBackend(file))
    with closing(sqlite3.connect(file)) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("UPDATE flujo_audit_event SET actor = 'mallory' WHERE seq = 2")
        connection.commit()
    audit = AuditOfStores()
    audit.check_left(tmp_path)
    assert len(audit.broken) == 1
    assert str(file) in audit.broken[0]
    assert "event 2 was changed" in audit.broken[0]


@pytest.mark.tampers
def test_a_changed_file_store_is_named(tmp_path: Path) -> None:
    run_once(FileBackend(tmp_path))
    file = next(tmp_path.glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"HELLO", b"HALLO"))
    audit = AuditOfStores()
    audit.check_left(tmp_path.parent)
    assert any(str(tmp_path) in line for line in audit.broken)


@pytest.mark.django_db
@pytest.mark.tampers
def test_changed_rows_fail_the_test_that_changed_them() -> None:
    factories.audit_event(factories.run("r1"))
    audit = AuditOfStores()
    audit.check_databases(["default"])
    with lifted():
        AuditEvent.objects.update(actor="mallory")
        with pytest.raises(AuditChainBroken):
            audit.check_databases(["default"])
