"""The file backend: torn lines, damaged lines, names that stay in the folder, and folders that are shared."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from flujo.errors import BackendError, CorruptState, InvalidRunId
from flujo.state.backends.file import FileBackend
from flujo.status import RunStatus

from tests.engine.making import Crash, Ledger, bury_holder, document_of, order_pipeline, runner_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


async def paused(folder: Path, ledger: Ledger, run_id: str = "r") -> Path:
    await runner_of(order_pipeline(ledger), FileBackend(folder)).run_async("lamp", run_id=run_id)
    return folder / f"{run_id}.jsonl"


@pytest.mark.parametrize("torn", [b"{", b'{"rows":[],"sha256":"', b"\0\0\0\0", "half a €".encode()[:-1]])
async def test_torn_last_line_is_discarded(folder: Path, ledger: Ledger, torn: bytes) -> None:
    path = await paused(folder, ledger)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    runner = runner_of(order_pipeline(ledger), FileBackend(folder))

    assert (await runner.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    assert (await runner.resume_async("r", "yes")).status is RunStatus.COMPLETED
    assert path.read_bytes().startswith(whole)
    assert torn not in path.read_bytes()[len(whole) :].split(b"\n")
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


async def test_line_torn_before_its_end_was_never_acknowledged(folder: Path, ledger: Ledger) -> None:
    """A crash inside the last write leaves the state before it, at whatever byte it happened."""
    crashing = runner_of(order_pipeline(ledger, crash_in="price"), FileBackend(folder))
    with pytest.raises(Crash):
        await crashing.run_async("lamp", run_id="r")
    await bury_holder(FileBackend(folder), "r")
    path = folder / "r.jsonl"
    before = path.read_bytes()
    await runner_of(order_pipeline(ledger), FileBackend(folder)).run_async("lamp", run_id="r")
    lines = path.read_bytes()[len(before) :].splitlines(keepends=True)

    for cut in (1, len(lines[0]) // 2, len(lines[0]) - 1):
        path.write_bytes(before + lines[0][:cut])
        events = [event.seq for event in await FileBackend(folder).events("r")]
        assert events == list(range(1, len(events) + 1))
        result = await runner_of(order_pipeline(ledger), FileBackend(folder)).run_async("lamp", run_id="r")
        assert result.status is RunStatus.PAUSED


@pytest.mark.tampers
@pytest.mark.parametrize("line", [0, 1, -1])
@pytest.mark.parametrize("damage", ["flip", "blank", "not JSON"])
async def test_damaged_line_is_an_error_and_the_file_stays_as_it_is(
    folder: Path, ledger: Ledger, line: int, damage: str
) -> None:
    path = await paused(folder, ledger)
    lines = path.read_bytes().splitlines(keepends=True)
    index = line % len(lines)
    damaged = {"flip": lines[index].replace(b"demo", b"dema").replace(b'"r"', b'"q"'), "blank": b"\n"}
    lines[index] = damaged.get(damage, b"once upon a time\n")
    path.write_bytes(b"".join(lines))
    before, names = path.read_bytes(), names_in(folder)
    runner = runner_of(order_pipeline(ledger), FileBackend(folder))

    for call in (lambda: runner.run_async("lamp", run_id="r"), lambda: runner.resume_async("r", "yes")):
        with pytest.raises(CorruptState, match=r"r\.jsonl"):
            await call()

    assert path.read_bytes() == before
    assert names_in(folder) == names
    assert ledger == {"price": 1}


@pytest.mark.tampers
async def test_damaged_run_does_not_hide_the_others(folder: Path, ledger: Ledger) -> None:
    damaged = await paused(folder, ledger, "a")
    await paused(folder, ledger, "b")
    damaged.write_bytes(b"once upon a time\n")
    backend = FileBackend(folder)
    runner = runner_of(order_pipeline(ledger), backend)

    assert [head.run_id for head in await backend.heads()] == ["b"]
    assert await backend.ready(runner.clock.now()) == []
    with pytest.raises(CorruptState):
        await backend.load("a")


@pytest.mark.parametrize("run_id", ["../r", "/etc/passwd", "..", ".", "a/../../b", "a\0b", "r\n", "R/r", ""])
async def test_run_id_cannot_leave_the_folder(folder: Path, run_id: str) -> None:
    backend = FileBackend(folder)
    for call in (backend.load(run_id), backend.load_state(run_id), backend.delete_state(run_id)):
        with pytest.raises(InvalidRunId):
            await call
    with pytest.raises(InvalidRunId):
        await backend.save_state(run_id, {})
    assert folder not in folder.parent.iterdir()


async def test_each_step_appends_to_the_file(folder: Path, ledger: Ledger) -> None:
    path = await paused(folder, ledger)
    inode, before = path.stat().st_ino, path.read_bytes()

    await runner_of(order_pipeline(ledger), FileBackend(folder)).resume_async("r", "yes")

    assert path.stat().st_ino == inode
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == len(before.splitlines()) + 3


async def test_files_are_for_their_owner_alone(folder: Path, ledger: Ledger) -> None:
    path = await paused(folder, ledger)
    assert (mode_of(folder), mode_of(path)) == (0o700, 0o600)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_two_backends_on_one_folder_see_each_others_writes(folder: Path, ledger: Ledger) -> None:
    one, two = (runner_of(order_pipeline(ledger), FileBackend(folder)) for _ in range(2))
    await one.run_async("lamp", run_id="r")
    assert (await two.resume_async("r", "yes")).status is RunStatus.COMPLETED
    assert (await one.run_async("lamp", run_id="r")).status is RunStatus.COMPLETED
    await two.backend.delete_state("r")
    assert await one.backend.load_state("r") is None
    assert (await document_of(one.backend, "r")).tombstone is not None


@pytest.mark.parametrize("when", ["short write", "fsync"])
async def test_full_disk_is_an_error_and_the_state_before_stands(
    folder: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = await paused(folder, ledger)
    before = path.read_bytes()
    backend = FileBackend(folder)
    runner = runner_of(order_pipeline(ledger), backend)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full) if when == "short write" else patch.setattr(os, "fsync", broken)
        with pytest.raises(BackendError) as failed:
            await runner.resume_async("r", "yes")

    assert failed.value.code == ("backend_error" if when == "short write" else "outcome_unknown")
    assert path.read_bytes().startswith(before)
    assert ledger == {"price": 1}
    if when == "fsync":
        await bury_holder(backend, "r")
    assert (await runner.resume_async("r", "yes")).status is RunStatus.COMPLETED
    assert ledger == {"price": 1, "ship": 1, "tell": 1}


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "file").write_text("in the way")
    runner = runner_of(order_pipeline(ledger), FileBackend(tmp_path / "file" / "runs"))

    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(BackendError, match="cannot be opened"):
            runner.run("lamp")
    assert threading.active_count() <= before, "a backend that failed leaves no thread behind"
