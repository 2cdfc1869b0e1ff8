"""Writers that queue up on SQLite share one commit; what a worker knows is proven by its write, not by reading."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from flujo import transitions
from flujo.batch import Batch, RunView, Transition, required, unchanged
from flujo.clock import SystemClock
from flujo.errors import Fenced, RunNotFound
from flujo.lease import DEFAULT_LEASE
from flujo.start import new_run
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.transitions import Position, StepDone

from tests.engine.making import Ledger, head_of, kinds_of, order_pipeline, runner_of
from tests.engine.stores import Store, TracedSQLite


def start(run_id: str) -> Transition:
    runner = runner_of(order_pipeline(Ledger()), SQLiteBackend("unused"))
    new = new_run(runner.registry.get("demo"), "a", {"run_id": run_id})
    return transitions.start(new, now=SystemClock().now(), claim=None, facts={})


def describe(view: RunView) -> Batch:
    """Write a title, which needs a run."""
    head = required(view)
    return Batch(view.run_id, head, head.changed({"title": "told"}))


def break_off(view: RunView) -> Batch:
    """Change the head, then insert an audit event that is there already."""
    head = required(view)
    event = transitions.cancel(actor="", reason="", now=SystemClock().now(), facts={})(view).inserts[-1]
    return Batch(view.run_id, head, head.changed({"title": "half"}), [event, event])


async def together(backend: SQLiteBackend, *works: tuple[str, Transition]) -> list[Any]:
    """Give the writer all of these while it is busy, so that it takes them up at once."""
    busy, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(view: RunView) -> Batch:
        loop.call_soon_threadsafe(begun.set)
        assert busy.wait(10)
        return unchanged(view)

    first = asyncio.ensure_future(backend.transact("first", wait))
    await begun.wait()
    tasks = [asyncio.ensure_future(backend.transact(*work)) for work in works]
    await asyncio.sleep(0)
    busy.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_writers_that_queue_up_share_one_commit(tmp_path: Path) -> None:
    backend = TracedSQLite(tmp_path / "runs.db")
    await together(backend, *[(f"r{number}", start(f"r{number}")) for number in range(50)])
    await backend.close()

    assert len(await SQLiteBackend(backend.path).run_ids()) == 50
    # one for the tables, one for the writer that was busy, one for all others
    assert backend.statements.count("COMMIT") <= 3


@pytest.mark.parametrize("bad", [describe, break_off], ids=["refused", "broken off halfway"])
async def test_write_that_fails_in_a_shared_commit_fails_alone(tmp_path: Path, bad: Transition) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    for run_id in ("a", "b", "c"):
        await backend.transact(run_id, start(run_id))
    target = "nobody" if bad is describe else "b"
    before, between, after = await together(backend, ("a", describe), (target, bad), ("c", describe))

    assert isinstance(between, RunNotFound if bad is describe else Fenced)
    assert isinstance(before, Batch)
    assert isinstance(after, Batch)
    assert [(await head_of(backend, run_id)).title for run_id in ("a", "b", "c")] == ["told", "", "told"]
    await backend.close()


async def test_write_decided_on_an_old_head_is_decided_again(built_in: Store) -> None:
    """What a person did meanwhile counts, though the worker did not look before it wrote."""
    backend = built_in.backend
    runner = runner_of(order_pipeline(Ledger()), backend)
    claimed = await _claimed(runner, backend)
    await backend.transact("r", transitions.cancel(actor="ana", reason="", now=SystemClock().now(), facts={}))

    batch = await backend.transact("r", _priced(claimed.fence), known=claimed)

    assert batch.kept.status.value == "cancelled"
    assert batch.kept == await head_of(backend, "r")
    assert (await kinds_of(backend, "r"))[-3:] == ["run.cancel_requested", "step.completed", "run.cancelled"]


async def test_worker_that_lost_its_lease_is_refused_whatever_it_knows(built_in: Store) -> None:
    backend = built_in.backend
    runner = runner_of(order_pipeline(Ledger()), backend)
    claimed = await _claimed(runner, backend)
    await backend.transact("r", transitions.release(fence=claimed.fence, now=SystemClock().now()))
    released = await head_of(backend, "r")

    with pytest.raises(Fenced, match="Nothing was written"):
        await backend.transact("r", _priced(claimed.fence), known=claimed)
    assert await head_of(backend, "r") == released


async def _claimed(runner: Any, backend: Any) -> Any:
    entry = runner.registry.get("demo")
    new = new_run(entry, "a", {"run_id": "r"})
    starting = transitions.start(new, now=SystemClock().now(), claim=runner._scope.terms(entry), facts={})
    return (await backend.transact("r", starting)).kept


def _priced(fence: int) -> Transition:
    now = SystemClock().now()
    done = StepDone("price", "price", 0, 1, "1", None, now)
    return transitions.complete_step(done, Position(1, "approve"), fence=fence, lease=DEFAULT_LEASE, now=now)
