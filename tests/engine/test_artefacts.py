"""Values larger than a threshold are stored once by the hash of their text, whoever uses them, and loaded whole."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flujo import Pipeline, PipelineContext, Step, canonical, step
from flujo.__main__ import main
from flujo.encryption import Keys, is_sealed
from flujo.errors import CorruptState
from flujo.records import Artefact
from flujo.state.artefacts import ARTEFACT_BYTES, MARK, checked_threshold, is_large
from flujo.state.backends.file import FileBackend
from flujo.state.backends.file_artefacts import FileArtefacts
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.state.payloads import place
from flujo.state.workflow_state import state_of
from flujo.testing import crash_points

from tests.engine.making import document_of, runner_of
from tests.engine.stores import DURABLE, KEY, KEYS, Store, TracedSQLite, emptied, in_use, make_store

MEGABYTE = 1024 * 1024
LARGE = "ä" * (ARTEFACT_BYTES // 2 + 10)
OTHER = "o" * (ARTEFACT_BYTES + 10)


class Papers(PipelineContext):
    scan: str = ""
    count: int = 0


def passing(count: int = 2) -> Pipeline:
    """Steps that each give what they got."""

    async def give(value: str) -> str:
        return value

    return Pipeline([Step(give, name=f"give_{number}") for number in range(count)])


@step
async def keep(value: str, context: Papers) -> str:
    context.scan, context.count = value, len(value)
    return value


@pytest.fixture(params=[None, pytest.param(KEYS, marks=pytest.mark.slow)], ids=["plain", "sealed"])
def keys(request: pytest.FixtureRequest, settings: Any) -> Keys | None:
    settings.FLUJO_ENCRYPTION_KEYS = [KEY] if request.param else []
    given: Keys | None = request.param
    return given


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest, keys: Keys | None, tmp_path: Path) -> Iterator[Store]:
    with in_use(make_store(request.param, tmp_path, keys)) as store:
        yield store


def stored(store: Store) -> dict[str, str]:
    """The artefacts by digest, opened where they are sealed."""
    texts = {digest: KEYS.open(text, place(Artefact, "text", [digest])) for digest, text in lying(store).items()}
    assert all(canonical.digest(text) == digest for digest, text in texts.items())
    return texts


def lying(store: Store) -> dict[str, str]:
    """The artefacts as they lie in the store, by digest."""
    backend = store.backend
    if isinstance(backend, FileBackend):
        files = (path for path in backend.folder.glob("artefacts/??/*") if path.is_file())
        return {path.name: path.read_text() for path in files}
    if isinstance(backend, SQLiteBackend):
        with closing(sqlite3.connect(backend.path)) as connection:
            return dict(connection.execute("SELECT digest, text FROM flujo_artefact").fetchall())
    from django.db import connections

    with connections[using(store)].cursor() as cursor:
        cursor.execute("SELECT digest, text FROM flujo_runs_artefact")
        return dict(cursor.fetchall())


def using(store: Store) -> str:
    """The alias of the database of Django's backend."""
    return "default" if store.name == "django" else "postgres"


def run_file_bytes(store: Store) -> int:
    """The bytes that the runs themselves take, artefacts aside."""
    backend = store.backend
    assert isinstance(backend, FileBackend)
    return sum(path.stat().st_size for path in backend.folder.glob("*.jsonl"))


def damage(store: Store, text: str | None) -> None:
    """Put another text in the place of every artefact, or none."""
    backend = store.backend
    if isinstance(backend, FileBackend):
        for path in [path for path in backend.folder.glob("artefacts/??/*") if path.is_file()]:
            path.unlink() if text is None else path.write_text(text)
    elif isinstance(backend, SQLiteBackend):
        with closing(sqlite3.connect(backend.path)) as connection, connection:
            if text is None:
                connection.execute("DELETE FROM flujo_artefact")
            else:
                connection.execute("UPDATE flujo_artefact SET text = ?", [text])
    else:
        from runs import models

        artefacts = models.Artefact.objects.using(using(store))
        if text is None:
            models.ArtefactUse.objects.using(using(store)).all().delete()
            artefacts.all().delete()
        else:
            artefacts.update(text=text)


async def in_thread(work: Any, *args: Any) -> Any:
    """Look at the store from a thread, since Django refuses to in a loop's own."""

    def call() -> Any:
        from django.db import connections

        try:
            return work(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


def test_threshold_counts_bytes_of_utf_8() -> None:
    assert not is_large("a" * 100, 100)
    assert is_large("a" * 101, 100)
    assert is_large("ä" * 51, 100)
    assert not is_large("ä" * 50, 100)
    with pytest.raises(ValueError, match="at least 65"):
        checked_threshold(64)


def test_reference_is_no_json_text() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(MARK + canonical.digest("x"))


async def test_value_that_passes_through_five_steps_is_stored_once(durable: Store, keys: Keys | None) -> None:
    result = await runner_of(passing(5), durable.backend).run_async("v" * MEGABYTE, run_id="r")
    assert result.output == "v" * MEGABYTE
    text = canonical.encode("v" * MEGABYTE)
    assert await in_thread(stored, durable) == {canonical.digest(text): text}
    assert all(is_sealed(text) == (keys is not None) for text in (await in_thread(lying, durable)).values())
    document = await document_of(durable.reopen(), "r")
    assert [row.output for row in document.checkpoints()] == [text] * 5
    assert document.start.input == text
    if durable.name == "file":
        assert run_file_bytes(durable) < 20_000


async def test_bytes_on_disk_are_little_more_than_the_value_itself(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db")
    await runner_of(passing(5), backend).run_async("v" * MEGABYTE, run_id="r")
    await backend.close()
    assert MEGABYTE < backend.path.stat().st_size < 1.3 * MEGABYTE


async def test_runs_share_artefacts_and_the_last_purge_removes_them(durable: Store) -> None:
    backend = durable.backend
    for run_id in ("a", "b"):
        await runner_of(passing(), backend).run_async(LARGE, run_id=run_id)
    assert len(await in_thread(stored, durable)) == 1

    await backend.delete_state("a")
    assert len(await in_thread(stored, durable)) == 1
    assert (await document_of(durable.reopen(), "b")).checkpoints()[-1].output == canonical.encode(LARGE)

    await backend.delete_state("b")
    assert await in_thread(stored, durable) == {}
    left = await backend.load("b")
    assert left is not None
    assert left.tombstone is not None
    await runner_of(passing(), backend).run_async(LARGE, run_id="b")
    assert len(await in_thread(stored, durable)) == 1


async def test_small_values_stay_in_their_rows(durable: Store) -> None:
    await runner_of(passing(), durable.backend).run_async("s" * (ARTEFACT_BYTES - 2), run_id="r")
    assert await in_thread(stored, durable) == {}


async def test_context_changes_evidence_and_answers_are_artefacts_too(durable: Store) -> None:
    pipeline = keep >> Step.human_in_the_loop("approve", message_for_user="Fine?")
    runner = runner_of(pipeline, durable.backend, context_model=Papers)
    await runner.run_async(LARGE, run_id="r")
    runner = runner_of(pipeline, durable.reopen(), context_model=Papers)
    result = await runner.resume_async("r", OTHER)
    assert result.output == OTHER
    kept = await in_thread(stored, durable)
    assert {canonical.encode(LARGE), canonical.encode(OTHER)} < set(kept.values())
    document = await document_of(durable.backend, "r")
    assert document.human_tasks()[0].evidence == canonical.encode(LARGE)
    assert document.context()["scan"] == LARGE


@pytest.mark.tampers
@pytest.mark.parametrize(("text", "word"), [("another text", "damaged"), (None, "missing")])
async def test_artefact_that_is_not_what_was_stored_is_an_error_that_names_run_and_path(
    durable: Store, text: str | None, word: str
) -> None:
    await runner_of(keep, durable.backend, context_model=Papers).run_async(LARGE, run_id="r")
    await runner_of(passing(), durable.backend).run_async("small", run_id="other")
    await in_thread(damage, durable, text)
    with pytest.raises(CorruptState, match=f"of (the start|keep) in run r is {word}"):
        await durable.reopen().load("r")
    assert await durable.backend.load("other") is not None


async def test_saved_state_of_a_run_carries_its_values_whole(durable: Store, tmp_path: Path) -> None:
    await runner_of(passing(), durable.backend).run_async(LARGE, run_id="r")
    document = await durable.backend.whole("r")
    assert document is not None
    assert canonical.encode(LARGE) in json.dumps(state_of(document), ensure_ascii=False).replace('\\"', '"')
    other = SQLiteBackend(tmp_path / "other.db")
    await other.save_state("r", state_of(document))
    assert (await document_of(other, "r")).checkpoints() == document.checkpoints()
    await other.close()


async def test_state_that_is_replaced_lets_go_of_what_it_no_longer_holds(durable: Store, tmp_path: Path) -> None:
    pipeline = passing(1) >> Step.human_in_the_loop("approve", message_for_user="Fine?")
    await runner_of(pipeline, durable.backend).run_async(LARGE, run_id="r")
    early = await durable.backend.load_state("r")
    elsewhere = SQLiteBackend(tmp_path / "elsewhere.db", artefact_bytes=100)
    assert early is not None
    await elsewhere.save_state("r", early)
    await runner_of(pipeline, elsewhere).resume_async("r", OTHER)
    later = await elsewhere.load_state("r")
    assert later is not None
    await durable.backend.save_state("r", later)
    assert {canonical.encode(LARGE), canonical.encode(OTHER)} == set((await in_thread(stored, durable)).values())
    await durable.backend.delete_state("r")
    assert await in_thread(stored, durable) == {}
    await elsewhere.close()


async def test_crash_at_any_write_of_a_large_value_changes_nothing(
    durable: Store, keys: Keys | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def fresh() -> StateBackend:
        if durable.name in ("django", "postgres"):
            return emptied(durable)
        return make_store(durable.name, tmp_path_factory.mktemp("crash"), keys).backend

    async def scenario(backend: StateBackend) -> Any:
        runner = runner_of(keep >> passing(1), backend, context_model=Papers)
        result = await runner.run_async(LARGE, run_id="r")
        return result.output, (await document_of(backend, "r")).context()["scan"]

    async for point in crash_points(fresh, scenario):
        assert point.result == point.expected == (LARGE, LARGE), str(point)
        await point.backend.close()


async def test_purge_beside_a_start_never_takes_the_starts_artefact(durable: Store) -> None:
    """The last user goes while another one comes, again and again."""
    backend = durable.backend
    await runner_of(passing(1), backend).run_async(LARGE, run_id="r0")
    for number in range(1, 9):
        _, result = await asyncio.gather(
            backend.delete_state(f"r{number - 1}"),
            runner_of(passing(1), durable.reopen()).run_async(LARGE, run_id=f"r{number}"),
        )
        assert result.output == LARGE
        assert (await document_of(backend, f"r{number}")).start.input == canonical.encode(LARGE)
    assert len(await in_thread(stored, durable)) == 1
    await backend.delete_state("r8")
    assert await in_thread(stored, durable) == {}


async def test_two_purges_at_once_leave_no_artefact(durable: Store) -> None:
    for run_id in ("a", "b"):
        await runner_of(passing(1), durable.backend).run_async(LARGE, run_id=run_id)
    await asyncio.gather(*(durable.backend.delete_state(run_id) for run_id in ("a", "b")))
    assert await in_thread(stored, durable) == {}


async def test_what_a_crash_left_beside_a_run_is_found_and_deleted(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "runs")
    await runner_of(passing(1), backend).run_async(LARGE, run_id="r")
    used = canonical.digest(canonical.encode(LARGE))
    artefacts = FileArtefacts(tmp_path / "runs" / "artefacts")
    never, gone = canonical.digest("never"), canonical.digest("gone")
    artefacts.keep("never-written", {never: "never"})
    artefacts.keep("r", {gone: "gone", used: canonical.encode(LARGE)})
    artefacts.keep("other", {used: canonical.encode(LARGE)})
    half = tmp_path / "runs" / "artefacts" / "ab" / f"{'ab' * 32}.new"
    half.parent.mkdir(exist_ok=True)
    half.write_text("hal")

    unused = sorted([never, gone, "ab" * 32])
    assert backend.unused_artefacts(delete=False) == unused
    assert backend.unused_artefacts(delete=True) == unused
    assert backend.unused_artefacts(delete=False) == []
    assert await backend.run_ids() == ["r"]
    assert artefacts.users(used) == {"r"}
    await backend.delete_state("r")
    assert list((tmp_path / "runs" / "artefacts").glob("??/*")) == []


async def test_artefact_is_on_disk_before_the_line_that_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    places: dict[int, str] = {}
    opened, synced = os.open, os.fsync

    def notes_open(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = opened(path, *args, **kwargs)
        places[descriptor] = str(path)
        return descriptor

    def notes_fsync(descriptor: int) -> None:
        synced(descriptor)
        done.append(places.get(descriptor, ""))

    monkeypatch.setattr(os, "open", notes_open)
    monkeypatch.setattr(os, "fsync", notes_fsync)
    backend = FileBackend(tmp_path / "runs")
    await runner_of(passing(1), backend).run_async(LARGE, run_id="r")
    digest = canonical.digest(canonical.encode(LARGE))
    shard = tmp_path / "runs" / "artefacts" / digest[:2]
    first = done.index(str(tmp_path / "runs" / "r.jsonl"))
    assert {str(shard / f"{digest}.new"), str(shard / f"{digest}.uses"), str(shard), str(shard.parent)} <= set(
        done[:first]
    )


def test_prune_and_doctor_see_to_what_a_crash_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "runs")
    runner_of(passing(1), FileBackend(store)).run(LARGE, run_id="r")
    FileArtefacts(tmp_path / "runs" / "artefacts").keep("never-written", {canonical.digest("x"): "x"})

    def call(*arguments: str) -> dict[str, Any]:
        main([*arguments, "--json"])
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    def found() -> str:
        return next(check["found"] for check in call("doctor", store)["checks"] if check["name"] == "artefacts")

    assert found().startswith("1 ")
    assert call("prune", store, "--older-than", "9d", "--dry-run")["unused_artefacts"] == [canonical.digest("x")]
    assert call("prune", store, "--older-than", "9d", "--yes", "--reason", "tidy")["deleted"] == []
    assert found().startswith("0 ")


async def test_small_values_ask_for_no_artefact_and_a_large_one_is_written_once(tmp_path: Path) -> None:
    backend = TracedSQLite(tmp_path / "runs.db")
    await runner_of(passing(2), backend).run_async("small", run_id="small")
    assert not [statement for statement in backend.statements if "INTO flujo_artefact" in statement]
    await runner_of(passing(2), backend).run_async(LARGE, run_id="large")
    inserts = [s for s in backend.statements if s.startswith("INSERT INTO flujo_artefact ")]
    assert len(inserts) == 1
    await backend.close()
