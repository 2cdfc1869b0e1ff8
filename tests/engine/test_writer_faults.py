"""The writer of an SQLite store when something goes wrong: nobody waits for ever, and only what is so is said."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from flujo import transitions
from flujo.batch import Batch, RunView, Transition, required, unchanged
from flujo.clock import SystemClock
from flujo.errors import BackendError, Fenced, FlujoError, OutcomeUnknown
from flujo.state.backends import sqlite_writer
from flujo.state.backends.sqlite import SQLiteBackend

from tests.campaign.disk import Disk
from tests.campaign.sqlite_disk import need_library, recorded_sqlite
from tests.engine.making import head_of
from tests.engine.test_shared_commits import break_off, describe, start


@pytest.fixture
def in_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is, the commits are made in the loop's thread."""
    monkeypatch.setattr(sqlite_writer, "QUICK_SECONDS", 60.0)


async def caught(write: Coroutine[Any, Any, Batch]) -> Batch | BaseException:
    """What came of a write; some errors would end the loop if a task let them out."""
    try:
        return await write
    except BaseException as error:
        return error


async def of_one_turn(backend: SQLiteBackend, *works: tuple[str, Transition]) -> list[Any]:
    """What came of writes that share a commit; None of those that nobody was told of within a second."""
    await backend.transact("first", unchanged)
    tasks = [asyncio.ensure_future(caught(backend.transact(*work))) for work in (("first", unchanged), *works)]
    _, waiting = await asyncio.wait(tasks, timeout=1)
    return [None if task in waiting else task.result() for task in tasks[1:]]


@pytest.mark.parametrize("error", [StopIteration, asyncio.CancelledError, SystemExit, KeyboardInterrupt])
async def test_whatever_a_transition_raises_is_told_to_its_writer_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")

    def bad(view: RunView) -> Batch:
        raise error

    before, between, after = await of_one_turn(backend, ("a", start("a")), ("b", bad), ("c", start("c")))
    assert (type(before), type(after)) == (Batch, Batch)
    assert isinstance(between, RuntimeError if error is StopIteration else error)  # futures refuse a StopIteration
    assert await backend.run_ids() == ["a", "c"]
    await backend.close()


async def test_value_that_sqlite_refuses_fails_alone(tmp_path: Path) -> None:
    class Narrow(SQLiteBackend):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
            return connection

    def too_long(view: RunView) -> Batch:
        head = start("b")(view).kept
        return Batch("b", None, head.changed({"title": "x" * 200_000}))

    backend = Narrow(tmp_path / "runs.db")
    before, between, after = await of_one_turn(backend, ("a", start("a")), ("b", too_long), ("c", start("c")))
    assert (type(before), type(after)) == (Batch, Batch)
    assert isinstance(between, BackendError)
    assert "too big" in str(between)
    await backend.close()


async def test_write_whose_trigger_rolls_all_back_fails_alone(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    for run_id in "abc":
        await backend.transact(run_id, start(run_id))
    other = sqlite3.connect(backend.path)
    refusal = "BEGIN SELECT RAISE(ROLLBACK, 'not half'); END"
    other.execute(f"CREATE TRIGGER theirs BEFORE UPDATE ON flujo_run WHEN NEW.title = 'half' {refusal}")
    other.close()
    before, between, after = await of_one_turn(backend, ("a", describe), ("b", break_off), ("c", describe))
    assert (type(before), type(after)) == (Batch, Batch)
    assert isinstance(between, Fenced)
    assert [(await head_of(backend, run_id)).title for run_id in "abc"] == ["told", "", "told"]
    await backend.close()


async def test_writes_fail_while_no_thread_can_be_started_and_go_on_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    backend = SQLiteBackend(tmp_path / "runs.db")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(BackendError, match="can't start new thread"):
                await asyncio.wait_for(backend.transact("a", start("a")), timeout=1)
    await asyncio.wait_for(backend.transact("a", start("a")), timeout=1)
    await backend.close()


@pytest.mark.slow
async def test_write_that_is_done_again_waits_for_the_file_beside_the_loop(tmp_path: Path, in_loop: None) -> None:
    """One was left half done. When all are undone another process comes first, and keeps the file for a while."""
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None, check_same_thread=False)
    undone, rounds = False, 0

    class Outrun(SQLiteBackend):
        def _connect(self) -> sqlite3.Connection:
            connection = super()._connect()
            connection.set_trace_callback(self.look)
            return connection

        def look(self, statement: str) -> None:
            nonlocal undone
            if undone and not rounds and statement == "BEGIN IMMEDIATE":
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(0.2, other.execute, ["ROLLBACK"]).start()
                undone = False
            undone = undone or statement == "ROLLBACK"

    async def others() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0.001)
            rounds += other.in_transaction

    backend = Outrun(tmp_path / "runs.db")
    for run_id in ("a", "b", "first"):
        await backend.transact(run_id, start(run_id))
    beside = asyncio.ensure_future(others())
    described, broken = await of_one_turn(backend, ("a", describe), ("b", break_off))
    beside.cancel()
    assert rounds > 10
    assert isinstance(described, Batch)
    assert isinstance(broken, Exception)
    await backend.close()
    other.close()


async def test_log_that_a_reader_kept_from_being_emptied_is_cut_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "LOG_PAGES", 30)
    monkeypatch.setattr(sqlite_writer, "LOG_WRITES", 10)
    backend = SQLiteBackend(tmp_path / "runs.db", synchronous="NORMAL")
    log = tmp_path / "runs.db-wal"

    async def write(name: str) -> int:
        for number in range(30):
            await backend.transact(f"{name}{number}", start(f"{name}{number}"))
        return log.stat().st_size

    await write("a")
    reader = sqlite3.connect(backend.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM flujo_run").fetchone()
    assert await write("b") > 60 * 4096
    reader.close()
    assert await write("c") <= 32 + 40 * (24 + 4096)  # the log's head, and its pages with theirs
    await backend.close()


async def test_a_failed_commit_is_seen_to_beside_the_loop(
    tmp_path: Path, in_loop: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have the file to itself by then, which is waited for; and the log may be long."""
    need_library()
    threads: list[str] = []
    write = os.pwrite

    def noting(*given: Any) -> int:
        threads.append(threading.current_thread().name)
        return write(*given)

    monkeypatch.setattr(os, "pwrite", noting)
    disk = Disk(tmp_path)
    with recorded_sqlite(disk):
        backend = SQLiteBackend(tmp_path / "runs.db")
        await backend.transact("first", start("first"))
        await backend.run_ids()  # a reader that stays open, so that the log stays, too
        disk.failures = [sqlite3.SQLITE_IOERR_FSYNC] * 9
        told = await caught(backend.transact("a", start("a")))
        disk.failures = []
        await backend.close()
    assert isinstance(told, OutcomeUnknown)
    assert threads == ["flujo-sqlite-writer"]


def left_behind(tasks: list[asyncio.Task[Batch]]) -> bool:
    """Whether the tasks were left with their loop, of which asyncio is to say nothing."""
    for task in tasks:
        object.__setattr__(task, "_log_destroy_pending", False)
    return not any(task.done() for task in tasks[1:])  # the first may have written at once


def test_writes_whose_loop_is_gone_hold_up_no_later_ones(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    asyncio.run(backend.transact("first", start("first")))
    other = sqlite3.connect(backend.path, isolation_level=None)
    loop = asyncio.new_event_loop()
    waiting = [loop.create_task(backend.transact(name, start(name))) for name in "ab"]

    def lock_and_go() -> None:
        other.execute("BEGIN IMMEDIATE")
        loop.call_later(0.05, loop.stop)

    loop.call_soon(lock_and_go)
    loop.run_forever()
    loop.close()
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(asyncio.wait_for(backend.transact("later", start("later")), timeout=1))
    asyncio.run(backend.close())
    assert left_behind(waiting)
    assert "later" in asyncio.run(backend.run_ids())


def test_close_commits_what_a_loop_that_is_gone_had_asked_for(tmp_path: Path, in_loop: None) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    asyncio.run(backend.transact("first", start("first")))
    loop = asyncio.new_event_loop()
    waiting = [loop.create_task(backend.transact(name, start(name))) for name in "ab"]
    loop.call_soon(loop.stop)  # before this turn has its end
    loop.run_forever()
    loop.close()
    asyncio.run(backend.close())
    assert asyncio.run(backend.run_ids()) == ["a", "b", "first"]
    assert left_behind(waiting)
    asyncio.run(backend.close())


class Interrupts:
    """A trace function that interrupts its thread at the line of this number in the writer's module."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename != sqlite_writer.__file__:
            return None
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            raise KeyboardInterrupt
        return self


def count(view: RunView) -> Batch:
    """A write that must not be done twice, and tells of itself in the audit."""
    head, cancelled = required(view), transitions.cancel(actor="", reason="", now=SystemClock().now(), facts={})(view)
    told = {"seq": cancelled.kept.seq, "chain": cancelled.kept.chain, "title": f"{head.title}x"}
    return Batch(view.run_id, head, head.changed(told), cancelled.inserts)


def interrupted_at(line: int, folder: Path) -> bool:
    """Write from four tasks, with an interrupt; False when they came to their end before it."""
    backend = SQLiteBackend(folder / f"{line}.db", synchronous="NORMAL", busy_seconds=1)
    other = sqlite3.connect(backend.path, timeout=1, isolation_level=None)
    with asyncio.Runner() as runner:
        for name in "abcd":
            runner.run(backend.transact(name, start(name)))
        loop = runner.get_loop()
        tasks = [loop.create_task(caught(backend.transact(name, count))) for name in "abcd"]
        interrupts, before = Interrupts(line), sys.gettrace()
        sys.settrace(interrupts)
        with suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        sys.settrace(before)
        runner.run(backend.transact("later", start("later")))  # the writer goes on
        runner.run(asyncio.wait(tasks, timeout=1))
        told = {name: task.result() for name, task in zip("abcd", tasks, strict=True)}  # everybody was told something
        counts = {name: runner.run(head_of(backend, name)).title for name in "abcd"}
        other.execute("BEGIN IMMEDIATE")  # nothing is left open
        other.close()
        runner.run(backend.close())
    for name, result in told.items():
        doubtful = not isinstance(result, Batch | FlujoError) or isinstance(result, OutcomeUnknown)
        assert counts[name] in (["", "x"] if doubtful else ["x"] if isinstance(result, Batch) else [""])
    return interrupts.left <= 0


# From Python 3.13 on a connection that was lost with the interrupt, and is closed by that, is told of.
@pytest.mark.filterwarnings("ignore:.*sqlite3.Connection:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_interrupt_at_any_line_of_the_writer_leaves_nobody_waiting(tmp_path: Path, in_loop: None) -> None:
    line = 1
    gc.disable()  # an interrupt in a finalizer is lost
    try:
        while interrupted_at(line, tmp_path):
            line += 1
    finally:
        gc.enable()
    assert line > 100
