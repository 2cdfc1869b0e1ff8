"""Workers on Django's SQLite: what they write at the same time is committed together, where there is a log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections
from flujo import Pipeline, step
from flujo.result import PipelineResult

from runs import shared_writer
from runs.state_backend import DjangoBackend, close_store_threads
from tests.engine.making import runner_of

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
