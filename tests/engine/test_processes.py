"""Real processes: frozen past their lease, sharing one store, forked, interrupted, and never ending."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from flujo.state.backends.sqlite import SQLiteBackend

from tests.engine.making import environment, python

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker.py")


def start(store: str, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(WORKER), store, str(folder), *arguments]
    return subprocess.Popen(command, env=environment(FLUJO_DATA=str(folder)), stdout=subprocess.PIPE)


def ledger_of(folder: Path) -> list[str]:
    path = folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(params=["file", "sqlite", "django"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A store that processes share, by its name and folder."""
    if request.param == "django":
        made = python("manage.py", "migrate", "--verbosity", "0", timeout=120, FLUJO_DATA=str(tmp_path))
        assert made.returncode == 0, made.stderr
    return request.param, tmp_path


def run_worker(store: str, folder: Path, *arguments: str) -> str:
    worker = start(store, folder, *arguments)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0
    return out.decode()


def test_frozen_worker_is_refused_after_its_lease_was_taken_over(shared: tuple[str, Path]) -> None:
    store, folder = shared
    frozen = start(store, folder, "hold")
    assert frozen.stdout is not None
    assert frozen.stdout.readline() == b"holding\n"
    frozen.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1.1)  # past its lease of one second
        taken = run_worker(store, folder, "hold", "now")
    finally:
        frozen.send_signal(signal.SIGCONT)
    out, _ = frozen.communicate(timeout=60)

    assert "completed output 2" in taken
    assert out.decode().splitlines()[-1].startswith("Fenced Run r was taken over by another worker")
    verified = run_worker(store, folder, "verify")
    assert "claims 2 in order True" in verified


def test_processes_that_start_at_once_share_one_store(shared: tuple[str, Path]) -> None:
    """Each opens the store for the first time; together they run one run, once."""
    store, folder = shared
    workers = [start(store, folder, "share") for _ in range(4)]
    outs = [worker.communicate(timeout=60)[0].decode() for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4, outs
    effects = Counter(line.split()[1] for line in ledger_of(folder) if line.startswith("effect"))
    assert effects == {f"run-{number}/only": 1 for number in range(10)}
    assert run_worker(store, folder, "verify").startswith("runs 10")


@pytest.mark.parametrize("kind", ["file", "sqlite", "memory"])
def test_script_that_forgets_to_close_ends(tmp_path: Path, kind: str) -> None:
    started = time.monotonic()
    done = python(WORKER, kind, tmp_path, "forget")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_fork_of_a_process_that_used_a_backend_can_use_it_too(tmp_path: Path, kind: str) -> None:
    done = python(WORKER, kind, tmp_path, "fork", timeout=25)
    assert (done.returncode, done.stdout.split()) == (0, ["parent", "completed", "child", "completed"]), done.stderr


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_child_loses_nothing_when_its_parent_closes_the_store(tmp_path: Path, kind: str) -> None:
    done = python(WORKER, kind, tmp_path, "outlive", timeout=25)
    assert (done.returncode, done.stdout.split()) == (0, ["after", "completed"]), done.stderr
    assert run_worker(kind, tmp_path, "verify").startswith("runs 3")


def test_child_of_a_process_that_was_killed_in_a_write_holds_up_nobody(tmp_path: Path) -> None:
    done = python(WORKER, "file", tmp_path, "bequeath", timeout=25)
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["child", "completed"]), done.stderr
    assert run_worker("file", tmp_path, "verify").startswith("runs 1")


def test_interrupted_script_gives_its_run_back(tmp_path: Path) -> None:
    worker = start("sqlite", tmp_path, "long")
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=30)

    async def status() -> str:
        document = await SQLiteBackend(tmp_path / "runs.db").load("r")
        assert document is not None
        assert document.head is not None
        return document.head.status.value

    assert worker.returncode != 0
    assert asyncio.run(status()) == "queued"


def test_sync_step_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    done = python(WORKER, "sqlite", tmp_path, "stuck")
    assert (done.returncode, done.stdout.strip()) == (0, "failed StepTimeout")


def test_cancel_from_another_process_stops_a_step_within_seconds(shared: tuple[str, Path]) -> None:
    store, folder = shared
    with start(store, folder, "long") as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"begun\n"
        assert run_worker(store, folder, "cancel") == "running\n"
        began = time.monotonic()
        assert worker.stdout.read() == b"cancelled\n"
        assert time.monotonic() - began < 5, "its lease is thirty seconds long, its heartbeat comes after ten"


def test_cancel_is_carried_out_though_the_worker_is_killed_before_it_hears_of_it(shared: tuple[str, Path]) -> None:
    store, folder = shared
    with start(store, folder, "long") as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.send_signal(signal.SIGSTOP)
        assert run_worker(store, folder, "cancel") == "running\n"
        worker.kill()
    assert run_worker(store, folder, "long") in {"cancelled\n", "was cancelled before\n"}
    assert run_worker(store, folder, "verify").startswith("runs 1")
