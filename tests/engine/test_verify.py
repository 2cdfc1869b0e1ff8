"""The audit chain: every change of stored history is found, and its first bad event named."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Step, step
from flujo.batch import Link, next_event
from flujo.document import RunDocument
from flujo.errors import AuditChainBroken
from flujo.records import AuditEvent, RunHead
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.status import EventKind
from flujo.verify import verify_chain, verify_run, verify_store

from tests.engine.making import Ledger, head_of, order_pipeline, python, runner_of
from tests.engine.stores import Store

History = list[AuditEvent]


@pytest.fixture
async def history(ledger: Ledger) -> tuple[History, RunHead]:
    backend = InMemoryBackend()
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r")
    await runner.resume_async("r", "yes", actor="ana")
    return list(await backend.events("r")), await head_of(backend, "r")


def changed(**fields: object) -> Callable[[History], History]:
    return lambda events: [*events[:3], dataclasses.replace(events[3], **fields), *events[4:]]  # type: ignore[arg-type]  # any field may be forged


FORGERIES: dict[str, tuple[Callable[[History], History], int]] = {
    "edited body": (lambda e: [*e[:3], dataclasses.replace(e[3], body=e[3].body.replace("}", "} ")), *e[4:]], 4),
    "edited actor": (changed(actor="eve"), 4),
    "edited kind": (changed(kind=EventKind.RUN_FAILED), 4),
    "edited path": (changed(path="elsewhere"), 4),
    "edited fence": (changed(fence=99), 4),
    "edited time": (lambda e: [*e[:3], dataclasses.replace(e[3], at=e[3].at + timedelta(days=1)), *e[4:]], 4),
    "edited hash": (changed(hash="0" * 64), 4),
    "first deleted": (lambda e: e[1:], 1),
    "one deleted": (lambda e: [*e[:3], *e[4:]], 4),
    "swapped": (lambda e: [*e[:3], e[4], e[3], *e[5:]], 4),
    "inserted": (lambda e: [*e[:3], e[2], *e[3:]], 4),
    "truncated": (lambda e: e[:-2], -1),
    "emptied": (lambda e: [], 1),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forgery_is_found_and_the_first_bad_event_named(history: tuple[History, RunHead], forgery: str) -> None:
    events, head = history
    assert verify_chain(events, head) == len(events)
    forge, seq = FORGERIES[forgery]

    with pytest.raises(AuditChainBroken) as broken:
        verify_chain(forge(events), head)

    assert broken.value.details["seq"] == (seq if seq > 0 else len(events) - 1)


async def test_chain_that_was_forged_to_its_end_does_not_fit_the_head(history: tuple[History, RunHead]) -> None:
    from flujo.batch import chained

    events, head = history
    forged, previous = [], events[2].hash
    for event in events[3:]:
        body = event.body.replace("ana", "eve")
        new = dataclasses.replace(event, body=body, prev_hash=previous, hash=chained(previous, body))
        forged.append(dataclasses.replace(new, actor=new.actor.replace("ana", "eve")))
        previous = new.hash

    assert verify_chain([*events[:3], *forged]) == len(events)
    with pytest.raises(AuditChainBroken):
        verify_chain([*events[:3], *forged], head)


async def test_every_store_verifies_deleted_runs_included(built_in: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), built_in.backend)
    for run_id in ("a", "b", "c"):
        await runner.run_async("lamp", run_id=run_id)
    await runner.cancel_async("b")
    await built_in.backend.delete_state("b")

    runs, events = await verify_store(built_in.reopen())

    assert runs == 3
    assert events == sum([len(list(await built_in.backend.events(run_id))) for run_id in ("a", "b", "c")])


@step
async def one_more(number: int) -> int:
    return number + 1


@pytest.mark.slow
async def test_run_is_read_as_of_one_moment_while_it_goes_on(built_in: Store) -> None:
    counts = Step.loop_until("count", one_more, until=lambda number: number == 60)
    working = asyncio.ensure_future(_awaited(runner_of(counts, built_in.backend).run_async(0, run_id="r")))
    reader = built_in.opens()
    reads = 0
    while not working.done():
        await asyncio.sleep(0)
        document = await reader.whole("r")
        if document is None or document.head is None:
            continue
        reads += 1
        events = document.events()
        assert verify_chain(events, document.head) == len(events)
        saved = [event for event in events if event.kind is EventKind.STEP_COMPLETED]
        assert len(document.checkpoints()) == len(saved)
    assert (await working).output == 60
    assert reads > 0
    await reader.close()


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_history_of_a_run_that_goes_on_meanwhile_verifies(
    built_in: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = built_in.backend
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r")
    read = backend.events

    async def later(run_id: str) -> Any:
        await runner.resume_async("r", "yes", actor="ana")
        return await read(run_id)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "events", later)
        assert await verify_run(backend, "r") == len(list(await read("r")))


async def test_event_added_behind_the_end_is_found(history: tuple[History, RunHead]) -> None:
    events, head = history
    backend = InMemoryBackend()
    earlier = next_event(
        Link("r", head.seq, head.chain, head.fence),
        EventKind.RUN_DESCRIBED,
        head.updated_at,
        actor="",
        path="",
        data={},
    )
    backend._runs["r"] = RunDocument.of("r", [head, *events, earlier])
    with pytest.raises(AuditChainBroken, match=f"event {head.seq + 1} was added after the end"):
        await verify_run(backend, "r")


@pytest.fixture
def database(tmp_path: Path, ledger: Ledger) -> Path:
    async def make() -> None:
        backend = SQLiteBackend(tmp_path / "runs.db")
        await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")
        await backend.close()

    asyncio.run(make())
    return tmp_path / "runs.db"


def tamper(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database)
    triggers = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.tampers
@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE flujo_audit_event SET actor = 'eve' WHERE seq = 2",
        "UPDATE flujo_audit_event SET at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 2",
        "DELETE FROM flujo_audit_event WHERE seq = 1",
        "DELETE FROM flujo_audit_event WHERE seq = (SELECT max(seq) FROM flujo_audit_event)",
        "DELETE FROM flujo_audit_event",
        "DELETE FROM flujo_run",
    ],
)
def test_command_finds_what_was_done_to_a_database(database: Path, tampering: str) -> None:
    from flujo.__main__ import main

    assert main(["verify", str(database)]) == 0
    tamper(database, tampering)

    assert main(["verify", str(database)]) == 1


@pytest.mark.slow
@pytest.mark.tampers
def test_command_says_what_it_found(database: Path, tmp_path: Path) -> None:
    good = python("-m", "flujo", "verify", database)
    tamper(database, "UPDATE flujo_audit_event SET actor = 'eve' WHERE seq = 2")
    bad = python("-m", "flujo", "verify", database)
    missing = python("-m", "flujo", "verify", tmp_path / "nothing")

    assert (good.returncode, good.stderr) == (0, "")
    assert "events of 1 runs" in good.stdout
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Run r: event 2 was changed" in bad.stderr
    assert missing.returncode == 2
    assert "does not exist" in missing.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("verb", ["UPDATE flujo_audit_event SET actor = 'eve'", "DELETE FROM flujo_audit_event"])
def test_database_itself_refuses_to_change_history(database: Path, verb: str) -> None:
    connection = sqlite3.connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="audit events are never"):
        connection.execute(verb)
    with pytest.raises(sqlite3.IntegrityError, match="an active run is never deleted"):
        connection.execute("DELETE FROM flujo_run")
    connection.close()
