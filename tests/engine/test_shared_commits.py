"""Writers that ask at the same time share one commit on SQLite; what a worker knows is proven by its write."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from flujo import Pipeline, Step, step, transitions
from flujo.answers import answer_to
from flujo.batch import Batch, RunView, Transition, required, unchanged
from flujo.clock import SystemClock
from flujo.document import RunDocument
from flujo.errors import AlreadyDecided, Fenced, RunNotFound
from flujo.lease import DEFAULT_LEASE, this_process
from flujo.records import Decision
from flujo.start import new_run
from flujo.state.backends import sqlite_writer
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.status import RunStatus
from flujo.transitions import Position, StepDone

from tests.engine.making import Ledger, document_of, head_of, kinds_of, order_pipeline, runner_of
from tests.engine.stores import Store, TracedSQLite


def start(run_id: str) -> Transition:
    runner = runner_of(order_pipeline(Ledger()), SQLiteBackend("unused"))
    new = new_run(runner.registry.get("demo"), "a", {"run_id": run_id})
    return transitions.start(new, now=SystemClock().now(), claim=None, facts={})


async def add_one(number: int) -> int:
    return number + 1


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
    """Ask for all of these in one turn of the loop, behind one that is done at once because it comes first."""
    await backend.transact("first", unchanged)
    tasks = [asyncio.ensure_future(backend.transact(*work)) for work in (("first", unchanged), *works)]
    _, *results = await asyncio.gather(*tasks, return_exceptions=True)
    return results


async def test_writers_of_one_turn_share_one_commit(tmp_path: Path) -> None:
    backend = TracedSQLite(tmp_path / "runs.db")
    await together(backend, *[(f"r{number}", start(f"r{number}")) for number in range(50)])
    await backend.close()

    assert len(await SQLiteBackend(backend.path).run_ids()) == 50
    # one for the tables, one for the writer that opened them, one for the first of the turn, one for all others
    assert backend.statements.count("COMMIT") <= 4


async def test_writers_that_wait_for_the_file_hold_up_no_loop(tmp_path: Path) -> None:
    """Another process has it locked: the loop goes on, and those who waited share a commit."""
    backend = TracedSQLite(tmp_path / "runs.db")
    await backend.transact("first", unchanged)
    before = backend.statements.count("COMMIT")
    other = sqlite3.connect(backend.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(*[backend.transact(f"r{number}", start(f"r{number}")) for number in range(50)])
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await waiting
    await backend.close()
    assert backend.statements.count("COMMIT") - before <= 3


async def test_slow_commits_are_made_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    await backend.transact("first", unchanged)
    threads = []

    def note(view: RunView) -> Batch:
        threads.append(threading.current_thread().name)
        return unchanged(view)

    await backend.transact("first", note)
    monkeypatch.setattr(sqlite_writer, "QUICK_SECONDS", 0.0)  # no disk is as quick as that
    monkeypatch.setattr(sqlite_writer, "SLOW_FOR", 1e6)
    for _ in range(3):
        await backend.transact("first", note)
    await backend.close()
    here = threading.current_thread().name
    assert threads == [here, here, "flujo-sqlite-writer", "flujo-sqlite-writer"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_run_that_never_waits_lets_others_have_their_turn(tmp_path: Path, kind: str) -> None:
    """Steps that wait for nothing, each saved at once: the rest of the loop still goes round."""
    rounds, over = 0, False

    async def others() -> None:
        nonlocal rounds
        while not over:
            rounds += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    backend = InMemoryBackend() if kind == "memory" else SQLiteBackend(tmp_path / "runs.db", synchronous="NORMAL")
    counting = Pipeline([step(name=f"step_{number}")(add_one) for number in range(500)])
    result = await runner_of(counting, backend).run_async(0)
    over = True
    await beside
    await backend.close()
    assert result.output == 500
    assert rounds > 5


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


async def test_answer_on_rows_that_are_old_is_decided_on_the_stored_ones(built_in: Store) -> None:
    backend = built_in.backend
    await runner_of(order_pipeline(Ledger()), backend).run_async("a", run_id="r")
    loaded = await document_of(backend, "r")
    await backend.transact("r", _answered(loaded, "ana"))

    with pytest.raises(AlreadyDecided, match="ana"):
        await backend.transact("r", loaded.decides(_answered(loaded, "ben")), known=loaded.head)
    assert [decision.actor for decision in (await document_of(backend, "r")).rows[Decision].values()] == ["ana"]


async def test_refusal_is_decided_on_what_is_stored(built_in: Store) -> None:
    """The rows that were loaded say that the run waits for a person; it has failed since."""
    backend = built_in.backend
    runner = runner_of(order_pipeline(Ledger(), fail_in="ship"), backend)
    await runner.run_async("a", run_id="r")
    loaded = await document_of(backend, "r")
    assert (await runner.resume_async("r", "yes")).status is RunStatus.FAILED
    again = transitions.retry(actor="", reason="", now=SystemClock().now(), claim=None, facts={})

    retried = await backend.transact("r", loaded.decides(again), known=loaded.head)

    assert retried.kept == await head_of(backend, "r")
    assert retried.kept.status is RunStatus.QUEUED


async def test_rows_of_a_run_that_is_worked_on_are_read_again(built_in: Store) -> None:
    """A worker that begins an attempt leaves the head as it is."""
    backend = built_in.backend
    claimed = await _claimed(runner_of(order_pipeline(Ledger()), backend), backend)
    loaded = await document_of(backend, "r")
    late = SystemClock().now() + 2 * DEFAULT_LEASE
    await backend.transact("r", transitions.begin_attempt("ship", fence=claimed.fence, now=SystemClock().now()))
    terms = transitions.ClaimTerms(this_process(), DEFAULT_LEASE, claimed.fingerprint, lambda head: None)

    await backend.transact("r", loaded.decides(transitions.claim(terms, now=late)), known=loaded.head)

    attempts = (await document_of(backend, "r")).attempts()
    assert {attempt.path: attempt.outcome for attempt in attempts} == {"price": "lost", "ship": "lost"}


async def test_answer_reads_the_run_once(tmp_path: Path) -> None:
    backend = TracedSQLite(tmp_path / "runs.db", synchronous="NORMAL")
    pipeline = order_pipeline(Ledger())
    await runner_of(pipeline, backend).run_async("a", run_id="r")
    await backend.load("r")  # opens the connection that reads
    del backend.statements[:]

    await runner_of(pipeline, backend).resume_async("r", "yes")

    kinds = [text.split()[0] for text in backend.statements]
    reading, deciding = kinds[: kinds.index("COMMIT") + 1], kinds[kinds.index("COMMIT") + 1 :]
    # the head, what there is beside it, and four tables that have rows
    assert reading == ["BEGIN", *["SELECT"] * 6, "COMMIT"]
    assert deciding[: deciding.index("COMMIT")] == ["BEGIN", "UPDATE", *["INSERT"] * 4, "UPDATE"]
    await backend.close()


def _answered(document: RunDocument, actor: str) -> Transition:
    task = document.open_human_tasks()[0]
    answer = answer_to(
        Step.human_in_the_loop("approve"),
        "yes",
        path=task.path,
        generation=task.generation,
        digest=task.digest,
        actor=actor,
    )
    return transitions.decide(answer, now=SystemClock().now(), claim=None, facts={})


async def _claimed(runner: Any, backend: Any) -> Any:
    entry = runner.registry.get("demo")
    new = new_run(entry, "a", {"run_id": "r"})
    starting = transitions.start(new, now=SystemClock().now(), claim=runner._scope.terms(entry), facts={})
    return (await backend.transact("r", starting)).kept


def _priced(fence: int) -> Transition:
    now = SystemClock().now()
    done = StepDone("price", "price", 0, 1, "1", None, now)
    return transitions.complete_step(done, Position(1, "approve"), fence=fence, lease=DEFAULT_LEASE, now=now)
