"""A purge and a write that share an artefact on PostgreSQL, each held open in turn: the other one waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from django.db import connections, transaction
from flujo.batch import Batch, RunView, Transition, required
from flujo.clock import SystemClock
from flujo.records import Signal
from flujo.state.artefacts import ARTEFACT_BYTES
from flujo.transitions import purge

from runs.models import Artefact
from runs.state_backend import DjangoBackend, close_store_threads
from tests.engine.making import runner_of
from tests.engine.test_artefacts import passing

pytestmark = [pytest.mark.services, pytest.mark.django_db(transaction=True, databases=["postgres"])]

USING = "postgres"
TEXT = f'"{"t" * ARTEFACT_BYTES}"'


def send(run_id: str) -> Transition:
    """Store a message with the large value."""

    def transition(view: RunView) -> Batch:
        head = required(view)
        row = Signal(run_id, "m", "sent", TEXT, "", head.seq, SystemClock().now())
        return Batch(run_id, head, head, inserts=[row])

    return transition


def delete(_: str = "") -> Transition:
    return purge(actor="ana", reason="old", now=SystemClock().now(), facts={})


@pytest.fixture
async def backend() -> Any:
    backend = DjangoBackend(using=USING)
    for run_id in ("old", "new"):
        await runner_of(passing(1), backend).run_async("small", run_id=run_id)
    await backend.transact("old", send("old"))
    yield backend
    close_store_threads()


def one_after_the_other(backend: DjangoBackend, first: tuple[str, Transition], then: tuple[str, Transition]) -> None:
    """Write `first`, and commit it only when `then` waits for it in another transaction."""
    written, waited = Event(), Event()

    def hold() -> None:
        with transaction.atomic(using=USING):
            backend.transact_now(*first)
            written.set()
            assert waited.wait(10)

    def follow() -> None:
        assert written.wait(10)
        backend.transact_now(*then)

    def closing(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            connections.close_all()

    def watch() -> None:
        assert written.wait(10)
        deadline = time.monotonic() + 10
        with connections[USING].cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                if cursor.fetchone()[0]:
                    break
        waited.set()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(closing, work) for work in (hold, follow, watch)]:
            done.result()


def look() -> list[str]:
    try:
        return list(Artefact.objects.using(USING).values_list("text", flat=True))
    finally:
        connections.close_all()


async def test_purge_waits_for_a_write_that_takes_the_artefact_up(backend: DjangoBackend) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(one_after_the_other, backend, ("new", send("new")), ("old", delete())).result()
        assert pool.submit(look).result() == [TEXT]
    document = await backend.load("new")
    assert document is not None
    assert document.waiting_signals()[0].data == TEXT


async def test_write_waits_for_the_purge_and_stores_the_artefact_anew(backend: DjangoBackend) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(one_after_the_other, backend, ("old", delete()), ("new", send("new"))).result()
        assert pool.submit(look).result() == [TEXT]
    document = await backend.load("new")
    assert document is not None
    assert document.waiting_signals()[0].data == TEXT
