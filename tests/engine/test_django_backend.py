"""The ORM backend: errors of the database come as ours, and leave a caller's transaction as usable as before."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from flujo import transitions
from flujo.batch import Batch, RunView, Transition, unchanged
from flujo.clock import SystemClock
from flujo.errors import BackendBusy, BackendError, Fenced, OutcomeUnknown

from runs import models
from runs.state_backend import DjangoBackend, close_store_threads
from tests.campaign.disk import Disk
from tests.campaign.sqlite_disk import need_library, recorded_sqlite
from tests.engine.making import Ledger, order_pipeline, runner_of
from tests.engine.stores import BUILT_IN

READS: dict[str, Callable[[DjangoBackend], Any]] = {
    "load": lambda backend: backend.load("r"),
    "load_state": lambda backend: backend.load_state("r"),
    "events": lambda backend: backend.events("r"),
    "heads": lambda backend: backend.heads(),
    "ready": lambda backend: backend.ready(SystemClock().now()),
    "run_ids": lambda backend: backend.run_ids(),
}


@pytest.fixture(params=BUILT_IN[3:])
def orm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[DjangoBackend]:
    """A backend on SQLite or PostgreSQL that waits for no lock longer than a tenth of a second, with a paused run."""
    using = "default" if request.param == "django" else "postgres"
    options = connections.settings[using]["OPTIONS"]
    if using == "default":
        monkeypatch.setitem(options, "timeout", 0.1)
    else:
        monkeypatch.setitem(options, "options", f"{options['options']} -c lock_timeout=100")
    connections[using].close()  # the next one has these options
    close_store_threads()  # so have those of the store's threads
    backend = DjangoBackend(using=using)
    asyncio.run(_start(backend))
    yield backend
    connections[using].close()
    close_store_threads()


async def _start(backend: DjangoBackend) -> None:
    await runner_of(order_pipeline(Ledger()), backend).run_async("a", run_id="r")


def cancel() -> Transition:
    return transitions.cancel(actor="ana", reason="", now=SystemClock().now(), facts={})


@contextmanager
def locked(backend: DjangoBackend) -> Iterator[None]:
    """Another connection holds what it can."""
    holder = connections[backend.using].copy()
    try:
        with holder.cursor() as cursor:
            if holder.vendor == "sqlite":
                cursor.execute("BEGIN IMMEDIATE")
            else:
                cursor.execute("BEGIN")
                tables = ", ".join(model._meta.db_table for model in (models.Run, models.AuditEvent, models.Tombstone))
                cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            yield
            cursor.execute("ROLLBACK")
    finally:
        holder.close()


def failing(backend: DjangoBackend, statement: str) -> Transition:
    def transition(view: RunView) -> Batch:
        with connections[backend.using].cursor() as cursor:
            cursor.execute(statement)
        return unchanged(view)

    return transition


def test_write_to_a_locked_database_is_busy(orm: DjangoBackend) -> None:
    with locked(orm):
        with pytest.raises(BackendBusy, match="Nothing was saved: try again"):
            orm.transact_now("r", cancel())
        with pytest.raises(BackendBusy):
            asyncio.run(orm.transact("r", cancel()))
    assert orm.transact_now("r", cancel()).writes


def test_state_given_to_a_locked_database_is_busy(orm: DjangoBackend) -> None:
    state = asyncio.run(orm.load_state("r"))
    assert state is not None
    with locked(orm), pytest.raises(BackendBusy):
        asyncio.run(orm.save_state("r", state))


@pytest.mark.parametrize("read", READS)
def test_read_of_a_locked_database_is_busy_or_does_not_wait(orm: DjangoBackend, read: str) -> None:
    waits = orm.using == "postgres" or read in ("load", "load_state")  # SQLite's readers wait for nobody
    with locked(orm):
        if waits:
            with pytest.raises(BackendBusy):
                asyncio.run(READS[read](orm))
        else:
            asyncio.run(READS[read](orm))
    asyncio.run(READS[read](orm))


def test_failed_statement_is_a_backend_error(orm: DjangoBackend) -> None:
    with pytest.raises(BackendError, match="Nothing was saved") as raised:
        orm.transact_now("r", failing(orm, "SELECT * FROM nowhere"))
    assert type(raised.value) is BackendError
    assert orm.transact_now("r", cancel()).writes


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03"])
def test_conflict_with_others_on_postgres_is_busy(orm: DjangoBackend, code: str) -> None:
    if orm.using != "postgres":
        return  # SQLite has one writer at a time
    conflict = f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{code}'; END $$"
    with pytest.raises(BackendBusy):
        orm.transact_now("r", failing(orm, conflict))


ERRORS: dict[str, tuple[str, type[BackendError | Fenced]]] = {
    "a failed statement": ("SELECT * FROM nowhere", BackendError),
    "a broken constraint": (
        "INSERT INTO flujo_runs_run SELECT * FROM flujo_runs_run WHERE run_id = 'r'",
        Fenced,
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_error_inside_a_callers_transaction_leaves_it_usable(orm: DjangoBackend, what: str) -> None:
    statement, expected = ERRORS[what]
    with transaction.atomic(using=orm.using):
        with pytest.raises(expected):
            orm.transact_now("r", failing(orm, statement))
        assert orm.transact_now("r", cancel()).writes
    assert models.Run.objects.using(orm.using).get().status == "cancelled"


@pytest.mark.parametrize("of_a_step", [False, True])
def test_write_of_our_own_threads_is_committed_though_autocommit_is_off(
    orm: DjangoBackend, monkeypatch: pytest.MonkeyPatch, *, of_a_step: bool
) -> None:
    monkeypatch.setitem(connections.settings[orm.using], "AUTOCOMMIT", False)
    connections[orm.using].close()
    close_store_threads()
    write = orm.transact_with("r", cancel, limit=timedelta(seconds=5)) if of_a_step else orm.transact("r", cancel())
    assert asyncio.run(write).writes
    close_store_threads()
    assert models.Run.objects.using(orm.using).get().status == "cancelled"


def test_broken_constraint_of_the_caller_stays_the_callers(orm: DjangoBackend) -> None:
    def cancel_and_break() -> None:
        with transaction.atomic(using=orm.using):
            orm.transact_now("r", cancel())
            models.Tombstone.objects.using(orm.using).create(run_id="x", deleted_at=SystemClock().now())

    with pytest.raises(IntegrityError):
        cancel_and_break()
    assert models.Run.objects.using(orm.using).get().status == "paused", "the caller's rollback takes the write along"


@pytest.mark.parametrize("orm", [BUILT_IN[3]], indirect=True)
def test_write_that_sqlite_could_not_sync_is_not_said_to_be_undone(orm: DjangoBackend) -> None:
    need_library()
    connections["default"].close()
    close_store_threads()
    disk = Disk(Path(connections["default"].settings_dict["NAME"]).parent)
    with recorded_sqlite(disk):
        asyncio.run(orm.load("r"))
        disk.failures = [sqlite3.SQLITE_IOERR_FSYNC] * 9
        with pytest.raises(OutcomeUnknown, match="did not confirm"):
            asyncio.run(orm.transact("r", cancel()))
        disk.failures = []
        close_store_threads()
