"""Large values of a store with keys: stored once, sealed as all others are, and rotated; plain ones are still read."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flujo import canonical, step
from flujo.encryption import Keys, new_key
from flujo.errors import BackendError, CorruptState, KeyMissing
from flujo.state.backends.file import FileBackend
from flujo.state.base import StateBackend

from tests.engine.making import ROOT, document_of, runner_of
from tests.engine.places import Place
from tests.engine.stores import DURABLE

OLD, NEW = new_key(), new_key()
LARGE = "canary-large" * 9_000
TEXT = json.dumps(LARGE)
DIGEST = canonical.digest(TEXT)
KILLED_AT = """
import asyncio, os, signal, sys
from pathlib import Path
from flujo.encryption import Keys
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend

store, left, keys = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
fsync = os.fsync

def tick():
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

class Killing(Keys):
    def seal(self, text, place):
        tick()
        return super().seal(text, place)

def killing(descriptor):
    tick()
    fsync(descriptor)

os.fsync = killing
kind = FileBackend if store.is_dir() else SQLiteBackend
assert asyncio.run(kind(store, encryption=Killing(*keys)).rotate_keys()).complete
"""


@pytest.fixture(params=DURABLE)
def place(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[Place]:
    yield Place(request.param, tmp_path, settings)
    if request.param in ("django", "postgres"):
        from runs.state_backend import close_store_threads

        close_store_threads()


async def passed(backend: StateBackend, run_id: str = "r", text: str = LARGE) -> None:
    """A run through which a large value passes."""

    @step
    async def give(text: str) -> str:
        return text

    await runner_of(give, backend).run_async(text, run_id=run_id)


def values(place: Place, *keys: str, run_id: str = "r") -> set[str]:
    """What the run was given and gave, as a process reads it that has these keys."""
    document = place.run(lambda backend: document_of(backend, run_id), *keys)
    return {document.start.input, *(row.output for row in document.checkpoints())}


def damage(place: Place) -> None:
    """Change the last letters of every artefact, as it lies there."""
    if place.kind == "file":
        for path in [path for path in place.folder.glob("runs/artefacts/??/*") if path.is_file()]:
            path.write_text(path.read_text()[:-8] + "AAAAAAA=")
    elif place.kind == "sqlite":
        with closing(sqlite3.connect(place.folder / "runs.db")) as connection, connection:
            connection.execute("UPDATE flujo_artefact SET text = substr(text, 1, length(text) - 8) || 'AAAAAAA='")
    else:
        from django.db import connections

        with connections["default" if place.kind == "django" else "postgres"].cursor() as cursor:
            cursor.execute("UPDATE flujo_runs_artefact SET text = substr(text, 1, length(text) - 8) || 'AAAAAAA='")


def test_value_of_two_runs_is_stored_once_and_no_byte_of_the_store_tells_it(place: Place) -> None:
    async def both(backend: StateBackend) -> bytes:
        await passed(backend, "r")
        await passed(backend, "other")
        return b"" if place.kind == "postgres" else await asyncio.to_thread(place.raw)  # an SQLite log is still there

    while_open = place.run(both, OLD)
    assert place.artefacts() == 1
    for raw in (while_open, place.raw()):
        assert b"canary-large" not in raw
        assert f"@{DIGEST}".encode() not in raw
    assert values(place, OLD) == values(place, OLD, run_id="other") == {TEXT}

    place.run(lambda backend: backend.delete_state("r"), OLD)
    assert place.artefacts() == 1
    assert values(place, OLD, run_id="other") == {TEXT}
    place.run(lambda backend: backend.delete_state("other"), OLD)
    assert place.artefacts() == 0


def test_store_that_got_its_keys_later_reads_its_artefacts_and_a_rotation_seals_them(place: Place) -> None:
    place.run(passed)
    place.run(lambda backend: passed(backend, "other"))
    assert values(place, OLD) == {TEXT}
    place.run(lambda backend: passed(backend, "later"), OLD)
    assert values(place, OLD, run_id="later") == {TEXT}

    assert place.run(lambda backend: backend.rotate_keys(), OLD).complete
    assert place.artefacts() == 1
    assert b"canary-large" not in place.raw()
    assert f"@{DIGEST}".encode() not in place.raw()
    assert values(place, OLD) == {TEXT}
    place.run(lambda backend: backend.delete_state("other"), OLD)
    assert values(place, OLD, run_id="later") == {TEXT}
    with pytest.raises(KeyMissing, match=f"with the key {Keys(OLD).ids[0]}, and this process was given no key"):
        values(place)


def test_old_key_of_an_artefact_may_go_after_a_rotation(place: Place) -> None:
    place.run(passed, OLD)
    done = place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert (done.complete, done.failed, done.left) == (True, 0, 0)
    assert place.run(lambda backend: backend.missing_keys(), NEW) == {}
    assert values(place, NEW) == {TEXT}
    assert place.run(lambda backend: backend.rotate_keys(), NEW, OLD).resealed == 0


def test_key_that_an_artefact_alone_needs_is_missed_until_somebody_writes_that_value_again(place: Place) -> None:
    (old,) = Keys(OLD).ids
    place.run(passed, OLD)
    place.run(lambda backend: passed(backend, "newer"), NEW, OLD)
    place.run(lambda backend: backend.delete_state("r"), NEW, OLD)
    assert place.run(lambda backend: backend.missing_keys(), NEW) == {old: 1}
    assert old in place.run(lambda backend: backend.missing_keys())
    with pytest.raises(KeyMissing, match=f"with the key {old}"):
        values(place, NEW, run_id="newer")
    place.run(lambda backend: passed(backend, "newest"), NEW)
    assert place.run(lambda backend: backend.missing_keys(), NEW) == {}
    assert values(place, NEW, run_id="newer") == values(place, NEW, run_id="newest") == {TEXT}


@pytest.mark.tampers
def test_damaged_artefact_is_an_error_that_names_run_and_path_and_a_rotation_leaves_it(place: Place) -> None:
    place.run(passed, OLD)
    place.run(lambda backend: passed(backend, "small", "small"), OLD)
    damage(place)
    with pytest.raises(CorruptState, match=f"of (the start|give) in run r is damaged: its artefact {DIGEST}"):
        values(place, OLD)
    done = place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert (done.complete, done.failed > 0) == (False, True)
    assert any("changed since" in problem or "is damaged" in problem for problem in done.problems)
    assert values(place, NEW, run_id="small") == {json.dumps("small")}


@pytest.mark.tampers
def test_reference_that_was_moved_to_another_row_is_found(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path, None)
    for run_id in ("a", "b"):
        place.run(partial(passed, run_id=run_id, text=LARGE + run_id), OLD)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("UPDATE flujo_run_input SET input = (SELECT input FROM flujo_run_input WHERE run_id = 'b')")
    with pytest.raises(CorruptState, match="was written for"):
        values(place, OLD, run_id="a")


def test_rotation_deletes_what_a_crash_left_of_the_writing_of_an_artefact(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "runs")
    asyncio.run(passed(backend))
    half = tmp_path / "runs" / "artefacts" / "ab" / f"{'ab' * 32}.new"
    half.parent.mkdir(exist_ok=True)
    half.write_text("canary-half")
    place = Place("file", tmp_path, None)
    assert place.run(lambda backend: backend.rotate_keys(), OLD).complete
    assert b"canary" not in place.raw()
    half.mkdir()
    with pytest.raises(BackendError, match="may not be saved"):
        place.run(lambda backend: backend.rotate_keys(), OLD)


@pytest.mark.slow
def test_rotation_beside_writers_and_purges_leaves_every_value_readable(place: Place) -> None:
    for number in range(4):
        place.run(partial(passed, run_id=f"old{number}", text=f"{LARGE}{number}"), OLD)

    async def work(backend: StateBackend) -> Any:
        async def write() -> None:
            for number in range(4):
                await passed(backend, f"new{number}", f"{LARGE}{number}")
                if number % 2:
                    await backend.delete_state(f"old{number}")

        rotating = place.open(NEW, OLD)
        done, _ = await asyncio.gather(rotating.rotate_keys(), write())
        await rotating.close()
        return done

    assert place.run(work, NEW, OLD).complete
    assert place.artefacts() == 4
    for run_id, number in (("old0", 0), ("old2", 2), *((f"new{number}", number) for number in range(4))):
        assert values(place, NEW, run_id=run_id) == {json.dumps(f"{LARGE}{number}")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_kill_at_any_moment_of_a_rotation_leaves_every_value_readable(kind: str, tmp_path: Path) -> None:
    origin = Place(kind, tmp_path / "origin", None)
    origin.folder.mkdir()
    origin.run(lambda backend: passed(backend, "plain"))
    origin.run(lambda backend: passed(backend, "sealed", f"{LARGE}s"), OLD)
    name = "runs.db" if kind == "sqlite" else "runs"
    kills = 0
    while True:
        place = Place(kind, tmp_path / str(kills), None)
        shutil.copytree(origin.folder, place.folder)
        command = [sys.executable, "-c", KILLED_AT, str(place.folder / name), str(kills), NEW, OLD]
        done = subprocess.run(command, env={"PYTHONPATH": str(ROOT / "engine")}, capture_output=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        for keys in ((NEW, OLD), (OLD, NEW)):
            assert values(place, *keys, run_id="plain") == {TEXT}
            assert values(place, *keys, run_id="sealed") == {json.dumps(f"{LARGE}s")}
        assert place.run(lambda backend: backend.rotate_keys(), NEW, OLD).complete
        assert b"canary-large" not in place.raw()
        assert values(place, NEW, run_id="plain") == {TEXT}
        shutil.rmtree(place.folder)
        kills += 1
    assert kills >= 8
