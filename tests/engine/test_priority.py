"""Priority: of the runs that wait for a worker, the higher ones come first, then the oldest."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from flujo import Flujo, PipelineRegistry, step, transitions
from flujo.errors import InvalidInput
from flujo.start import new_run
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.testing import FakeClock

from tests.engine.making import head_of, runner_of
from tests.engine.stores import Store

DJANGO = pytest.mark.django_db(transaction=True)


@step
async def done(value: int) -> int:
    return value


async def queue(runner: Flujo, run_id: str, **facts: Any) -> None:
    """Start a run that nobody has taken yet."""
    entry = runner.registry.get(runner.pipeline_name)
    start = transitions.start(
        new_run(entry, 1, {"run_id": run_id}, **facts), now=runner.clock.now(), claim=None, facts={}
    )
    await runner.backend.transact(run_id, start)


async def ready(backend: StateBackend, clock: FakeClock, limit: int = 100, **options: Any) -> list[str]:
    return [head.run_id for head in await backend.ready(clock.now(), limit, **options)]


async def test_ready_runs_come_by_priority_then_by_age(built_in: Store) -> None:
    clock = FakeClock()
    runner = runner_of(done, built_in.backend, clock=clock)
    for number, priority in enumerate([0, 5, -3, 5, 0]):
        await queue(runner, f"r{number}", priority=priority)
        clock.advance(1)

    assert await ready(built_in.backend, clock) == ["r1", "r3", "r0", "r4", "r2"]
    assert await ready(built_in.backend, clock, 3) == ["r1", "r3", "r0"]
    mine = [runner.registry.get("demo").fingerprint]
    assert await ready(built_in.backend, clock, 2, fingerprints=mine) == ["r1", "r3"]
    assert await ready(built_in.backend, clock, fingerprints=[]) == []


async def test_priority_is_that_of_the_pipeline_unless_the_start_gives_one(backend: StateBackend) -> None:
    registry = PipelineRegistry()
    registry.register(done, name="urgent", version="1.0.0", priority=7)
    runner = Flujo(registry=registry, pipeline_name="urgent", state_backend=backend)
    await runner.run_async(1, run_id="given", priority=-2)
    await runner.run_async(1, run_id="own")

    assert (await head_of(backend, "given")).priority == -2
    assert (await head_of(backend, "own")).priority == 7


@pytest.mark.parametrize("priority", [1001, -1001, 1.0, True, "high"])
async def test_priority_that_is_no_number_in_bounds_is_refused(priority: Any) -> None:
    with pytest.raises(InvalidInput, match="from -1000 to 1000"):
        await runner_of(done, SQLiteBackend(Path("never made"))).run_async(1, priority=priority)
    with pytest.raises(InvalidInput, match="from -1000 to 1000"):
        PipelineRegistry().register(done, name="demo", version="1.0.0", priority=priority)


@pytest.mark.parametrize("built_in", ["sqlite", pytest.param("django", marks=DJANGO)], indirect=True)
async def test_the_first_of_many_queued_runs_are_found_by_an_index(built_in: Store) -> None:
    await queue(runner_of(done, built_in.backend), "r")
    assert await ready(built_in.backend, FakeClock(), 7, fingerprints=["some", "others"]) == []
    plan = await asyncio.to_thread(plan_of_queued, built_in.backend)
    assert "USING INDEX flujo_run_queued" in plan
    assert "TEMP B-TREE" not in plan


def plan_of_queued(backend: Any) -> str:
    """How SQLite finds the queued runs: the statement is the one that `ready` has just made."""
    from django.db import connection as django

    if isinstance(backend, SQLiteBackend):
        connection, dialect = sqlite3.connect(backend.path), backend._dialect
    else:
        django.ensure_connection()
        connection, dialect = django.connection, backend._dialect(for_write=False)
    (statement,) = [text for text in dialect._cache.values() if "status = 'queued'" in text and "LIMIT 7" in text]
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.replace('%s', '?')}", ["some", "others"]).fetchall()
    connection.close()
    return " ".join(row[3] for row in rows)
