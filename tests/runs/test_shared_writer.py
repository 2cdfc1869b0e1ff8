"""Workers on Django's SQLite: what they write at the same time is committed together, where there is a log."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from flujo import Pipeline, step
from flujo.clock import SystemClock
from flujo.errors import Fenced
from flujo.records import Signal
from flujo.result import PipelineResult
from flujo.state.sql import transact

from runs import models, shared_writer
from runs.state_backend import DjangoBackend, close_store_threads
from tests.engine.making import runner_of
from tests.engine.test_shared_commits import start

Work: TypeAlias = Callable[[sqlite3.Cursor], str]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _writers() -> Iterator[None]:
    close_store_threads()
    yield
    connections.close_all()
    close_store_threads()


async def add_one(number: int) -> int:
    return number + 1


def runs(count: int) -> list[PipelineResult]:
    """Runs of three steps, all at once."""
    pipeline = Pipeline([step(name=f"step_{number}")(add_one) for number in range(3)])
    runner = runner_of(pipeline, DjangoBackend())

    async def together() -> list[PipelineResult]:
        return await asyncio.gather(*[runner.run_async(0) for _ in range(count)])

    return asyncio.run(together())


def test_workers_share_commits() -> None:
    runs(1)
    statements: list[str] = []
    (connection,) = shared_writer._writers["default"]._connections._idle
    connection.set_trace_callback(statements.append)

    assert [result.output for result in runs(20)] == [3] * 20
    assert sum("checkpoint" in statement for statement in statements) >= 60
    assert statements.count("COMMIT") <= 30


def test_write_that_the_commit_refuses_fails_alone() -> None:
    """Django's foreign keys are looked at with the COMMIT, which does not say whose row has no run."""
    runs(1)

    dialect = DjangoBackend()._dialect(of_driver=True)
    lost = Signal("nobody", "m", "paid", "1", "", 1, SystemClock().now())

    def started(run_id: str) -> Work:
        return lambda cursor: transact(cursor, dialect, run_id, start(run_id)).run_id

    def astray(cursor: sqlite3.Cursor) -> str:
        cursor.execute(dialect.insert(Signal, 1), dialect.row(lost))
        return "astray"

    async def of_one_turn() -> list[object]:
        works: list[Work] = [lambda _: "first", started("a"), astray, started("b")]
        tasks = [shared_writer.write_with_others("default", work) for work in works]
        return await asyncio.gather(*tasks, return_exceptions=True)

    _, before, refused, after = asyncio.run(of_one_turn())
    assert (before, after) == ("a", "b")
    assert isinstance(refused, Fenced)
    assert "Nothing was written" in str(refused)
    assert set(asyncio.run(DjangoBackend().run_ids())) >= {"a", "b"}
    assert not models.Signal.objects.exists()


def test_receivers_hear_of_the_connection() -> None:
    """A site may add to each connection what its own triggers call."""
    heard: list[str] = []

    def note(sender: object, connection: BaseDatabaseWrapper, **_: object) -> None:
        heard.append(threading.current_thread().name)

    connection_created.connect(note)
    runs(1)
    connection_created.disconnect(note)
    assert "flujo-sqlite-writer" in heard


def linger(frame: FrameType, _event: str, _argument: object) -> Any:
    """A trace function that stops a thread for a moment at each line of the module."""
    if frame.f_code.co_filename != shared_writer.__file__:
        return None
    time.sleep(0.001)
    return linger


def test_threads_that_write_for_the_first_time_at_once_have_one_writer() -> None:
    """Another would never be closed."""
    close_store_threads()
    at_once = threading.Barrier(3)

    def write() -> None:
        at_once.wait()
        sys.settrace(linger)
        asyncio.run(shared_writer.write_with_others("default", lambda _: ""))

    before = len(writers())
    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close_store_threads()
    assert len(writers()) == before


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flujo-sqlite-writer"]


def test_write_that_comes_while_the_writers_are_closed_is_done() -> None:
    done: list[str | None] = []

    def write() -> None:
        sys.settrace(linger)
        done.extend([asyncio.run(shared_writer.write_with_others("default", lambda _: "done")) for _ in range(5)])

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        shared_writer.close_shared_writers()
        time.sleep(0.001)
    assert done == ["done"] * 15


def test_database_without_a_log_is_left_to_django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its readers may hold up a commit, which no loop is to wait for."""
    own = connections.settings["default"]
    monkeypatch.setitem(connections.settings, "plain", {**own, "NAME": tmp_path / "plain.db", "OPTIONS": {}})
    written: list[int] = []

    for _ in range(2):
        assert asyncio.run(shared_writer.write_with_others("plain", lambda cursor: written.append(1) or 1)) is None
    assert written == []
    connections["plain"].close()
    del connections["plain"]
