"""The SQLite backend: files of others stay as they are, a locked one is waited for, and `close` loses no write."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from flujo import transitions
from flujo.batch import unchanged
from flujo.errors import BackendBusy, BackendError, CorruptState
from flujo.start import new_run
from flujo.state.backends import sqlite, sqlite_connections, sqlite_writer
from flujo.state.backends.sqlite import SQLiteBackend

from tests.engine.making import Ledger, order_pipeline, runner_of

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
print("locked", flush=True)
sys.stdin.readline()
"""


def foreign(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def left_in_wal(path: Path) -> None:
    """Another program's database whose process was killed: its last rows are in the write-ahead log alone."""
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('CREATE TABLE theirs (x)'); "
        "c.execute('INSERT INTO theirs VALUES (1)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files but the index of the log, which readers share in memory."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


FILES: dict[str, Callable[[Path], object]] = {
    "another program's": lambda path: foreign(path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (1)"),
    "another program's with our number": lambda path: foreign(
        path, "CREATE TABLE theirs (x)", "PRAGMA user_version = 1"
    ),
    "another program's in its log": left_in_wal,
    "a newer Flujo's": lambda path: foreign(path, "CREATE TABLE flujo_run (x)", "PRAGMA user_version = 99999"),
    "no database": lambda path: path.write_bytes(b"Dear diary, " * 1000),
    "cut short": lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 200),
}


@pytest.mark.tampers
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("writes", [True, False])
async def test_file_of_another_is_left_as_it_is(tmp_path: Path, kind: str, *, writes: bool) -> None:
    path = tmp_path / "store.db"
    FILES[kind](path)
    before = contents_of(tmp_path)
    backend = SQLiteBackend(path)

    with pytest.raises(CorruptState, match=r"left as it (is|was)"):
        await (runner_of(order_pipeline(Ledger()), backend).run_async("a") if writes else backend.load("r"))
    await backend.close()

    assert contents_of(tmp_path).items() >= before.items()


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    left_in_wal(path.with_name("other.db"))
    path.with_name("other.db").replace(path)


def delete_log(path: Path) -> None:
    path.with_name("store.db-wal").unlink()


@pytest.mark.tampers
@pytest.mark.parametrize("remove", [delete, replace, delete_log])
async def test_file_that_is_taken_away_gets_no_more_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], None]
) -> None:
    """They would go where nobody will ever look for them."""
    monkeypatch.setattr(sqlite_connections, "FILE_SECONDS", 0.0)
    backend = SQLiteBackend(tmp_path / "store.db")
    runner = runner_of(order_pipeline(Ledger()), backend)
    await runner.run_async("a", run_id="r")
    remove(backend.path)
    for _ in range(2):
        with pytest.raises(BackendError, match="deleted or replaced while it was open"):
            await backend.transact("r", unchanged)
        with pytest.raises(BackendError, match=r"deleted or replaced while it was open|disk I/O error"):
            await backend.load("r")  # by a connection of its own
    await backend.close()
    if remove is delete:
        assert await backend.run_ids() == []
        assert (await runner.run_async("a", run_id="s")).status.value == "paused"
        await backend.close()


async def test_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    backend = SQLiteBackend(tmp_path / "store.db")
    await runner_of(order_pipeline(Ledger()), backend).run_async("a", run_id="r")
    await backend.close()
    assert await SQLiteBackend(tmp_path / "store.db").run_ids() == ["r"]


@contextmanager
def locked(path: Path, statement: str = "BEGIN IMMEDIATE") -> Iterator[subprocess.Popen[str]]:
    """Another process holds the database until its standard input says otherwise."""
    command = [sys.executable, "-c", HOLDER, str(path), statement]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


@pytest.mark.slow
async def test_locked_database_is_waited_for(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db")
    runner = runner_of(order_pipeline(Ledger()), backend)
    await runner.run_async("a", run_id="first")

    with locked(backend.path) as holder:
        assert holder.stdin is not None
        began = time.monotonic()
        threading.Timer(0.3, holder.stdin.close).start()
        result = await runner.run_async("b", run_id="second")
        assert time.monotonic() - began >= 0.25
    assert result.status.value == "paused"
    await backend.close()


async def test_database_that_stays_locked_is_busy_and_nothing_is_saved(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db", busy_seconds=0.1)
    ledger = Ledger()
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("a", run_id="first")
    ledger.clear()

    with locked(backend.path):
        with pytest.raises(BackendBusy, match="Nothing was saved: try again"):
            await runner.run_async("b", run_id="second")
        assert await backend.run_ids() == ["first"], "readers do not wait for writers"

    assert ledger == {}
    assert (await runner.run_async("b", run_id="second")).status.value == "paused"
    await backend.close()


@pytest.mark.slow
async def test_new_database_that_another_process_holds_is_busy(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db", busy_seconds=0.1)
    with locked(backend.path, "BEGIN EXCLUSIVE"):
        with pytest.raises(BackendBusy):
            await backend.load("r")
        with pytest.raises(BackendBusy):
            await runner_of(order_pipeline(Ledger()), backend).run_async("a", run_id="r")
    assert await backend.load("r") is None
    await backend.close()


def linger(frame: FrameType, event: str, _argument: object) -> Any:
    """A trace function that stops a thread for a moment at each call in the backend, and at each line of its writer."""
    if event == "call" and frame.f_code.co_filename == sqlite.__file__:
        time.sleep(0.001)
    if frame.f_code.co_filename == sqlite_writer.__file__:
        time.sleep(0.0001)
        return linger
    return None


@pytest.mark.slow
def test_close_loses_no_write_that_comes_at_the_same_time(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db", synchronous="NORMAL")
    started: list[str] = []
    finished = threading.Event()

    def write() -> None:
        sys.settrace(linger)
        runner = runner_of(order_pipeline(Ledger()), backend)
        for number in range(15):
            run_id = f"{threading.get_ident()}-{number}"
            new = new_run(runner.registry.get("demo"), "a", {"run_id": run_id})
            start = transitions.start(new, now=runner.clock.now(), claim=None, facts={})
            asyncio.run(backend.transact(run_id, start))
            started.append(run_id)

    def close() -> None:
        while not finished.is_set():
            asyncio.run(backend.close())

    writers = [threading.Thread(target=write, daemon=True) for _ in range(3)]
    closer = threading.Thread(target=close, daemon=True)
    for thread in [*writers, closer]:
        thread.start()
    for writer in writers:
        writer.join(timeout=20)
    finished.set()
    closer.join(timeout=20)

    assert len(started) == 45, "a write that came while the backend was closing never returned"
    assert asyncio.run(backend.run_ids()) == sorted(started)
    asyncio.run(backend.close())


async def test_write_given_to_a_backend_that_is_closing_opens_it_again(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db")
    runner = runner_of(order_pipeline(Ledger()), backend)
    await runner.run_async("a", run_id="first")
    await backend.close()
    await backend.close()
    assert (await runner.resume_async("first", "yes")).status.value == "completed"
    await backend.close()
