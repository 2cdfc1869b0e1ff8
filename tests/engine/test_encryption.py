"""Values are sealed at rest, bound to their place, readable with the right keys only, and rotated beside workers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Approve, Flujo, PipelineContext, Step, StepContext, step
from flujo.__main__ import main
from flujo.codec import RECORDS, kinds
from flujo.commands.places import open_store
from flujo.encryption import KEY_FILE_VARIABLE, Keys, is_sealed, keys_in, new_key
from flujo.errors import BackendCannot, BackendError, CorruptState, KeyMissing
from flujo.records import AuditEvent, Tombstone
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.backends.sqlite_schema import TABLES
from flujo.state.base import StateBackend
from flujo.state.payloads import PAYLOADS
from flujo.state.rotation import AT_ONCE, rotate, tables_of
from flujo.state.sealing import SealingDialect
from flujo.status import RunStatus
from flujo.verify import verify_store
from pydantic import BaseModel

from tests.engine.making import ROOT, document_of, runner_of
from tests.engine.places import Place
from tests.engine.stores import DURABLE

OLD, NEW = new_key(), new_key()
CANARIES = [f"canary-{name}" for name in (
    "input", "context", "changed", "output", "log", "note", "message", "answer", "default", "signal", "error", "edited"
)]  # fmt: skip
NOT_VALUES = {
    "run": "run_id pipeline version fingerprint step_name chain input_digest holder title owner requester tags "
    "error_type secrets idempotency_key concurrency_key derived_from derived_at started_by parent_run_id parent_path",
    "run_input": "run_id shape",
    "checkpoint": "run_id path name",
    "attempt": "run_id path error_type",
    "step_report": "run_id path",
    "log_chunk": "run_id path",
    "human_task": "run_id path name kind schema candidates digest if_approved if_rejected next_step closed_reason "
    "reminders escalate_to",
    "run_wait": "run_id path name",
    "signal": "run_id message_id name actor taken_by",
    "decision": "run_id path actor reason channel idempotency_key",
    "vote": "run_id path actor reason channel idempotency_key",
}


class Words(PipelineContext):
    word: str = ""


class Answer(BaseModel):
    text: str


@step
async def read(text: str, context: Words, ctx: StepContext) -> str:
    context.word = "canary-changed"
    ctx.log.info("canary-log")
    ctx.progress(1, 2, note="canary-note")
    return "canary-output"


@step
async def fail(text: str) -> str:
    raise RuntimeError("canary-error")


ask = Step.human_in_the_loop(
    "ask",
    message_for_user=lambda _: "canary-message",
    input_schema=Answer,
    quorum=2,
    deadline=timedelta(days=1),
    on_deadline=Approve({"text": "canary-default"}),
)
EVERYTHING = read >> ask >> Step.wait_for_signal("paid", str) >> fail


@pytest.fixture(params=DURABLE)
def place(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[Place]:
    yield Place(request.param, tmp_path, settings)
    if request.param in ("django", "postgres"):
        from runs.state_backend import close_store_threads

        close_store_threads()


def runner(backend: StateBackend) -> Flujo:
    return runner_of(EVERYTHING, backend, context_model=Words)


async def everything(backend: StateBackend, run_id: str = "r", *, forked: bool = True) -> None:
    """A run that holds a value in every way there is, and a fork of it on an edited context."""
    flujo = runner(backend)
    given = {"word": "canary-context"}
    await flujo.run_async("canary-input", run_id=run_id, initial_context_data=given)
    for actor in ("ana", "ben"):
        await flujo.resume_async(run_id, {"text": "canary-answer"}, actor=actor)
    await flujo.signal_async(run_id, "paid", "canary-signal")
    if forked:
        await flujo.fork_async(run_id, from_step="fail", context={"word": "canary-edited"}, new_run_id=f"{run_id}-fork")


def held(raw: bytes) -> set[str]:
    return {canary for canary in CANARIES if canary.encode() in raw}


def test_no_value_is_in_the_bytes_of_a_store_with_keys(place: Place) -> None:
    place.run(everything, OLD)
    assert held(place.raw()) == set()
    document = place.run(lambda backend: document_of(backend, "r"), OLD)
    assert json.loads(document.start.input) == "canary-input"
    assert (document.head.status, document.head.error_message) == (RunStatus.FAILED, "canary-error")


def test_every_value_is_in_the_bytes_of_a_store_without_keys(tmp_path: Path) -> None:
    """Or the test above would show nothing."""
    place = Place("file", tmp_path, None)
    place.run(everything)
    assert held(place.raw()) == set(CANARIES)


def test_every_text_of_every_row_is_known_as_a_value_or_as_none() -> None:
    for record in RECORDS:
        if record not in (AuditEvent, Tombstone):
            texts = {name for name, kind in kinds(record).items() if kind is str}
            assert texts == set(PAYLOADS.get(record, ())) | set(NOT_VALUES[record.table].split()), record


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["no key", "another key"])
def test_missing_key_is_said_and_leaves_the_run_untouched(place: Place, keys: tuple[str, ...]) -> None:
    place.run(lambda backend: runner(backend).run_async("canary-input", run_id="r"), OLD)
    before = place.run(lambda backend: document_of(backend, "r"), OLD)

    def goes_on(backend: StateBackend) -> Any:
        return runner(backend).resume_async("r", {"text": "yes"}, actor="ana")

    with pytest.raises(KeyMissing, match=rf"with the key {Keys(OLD).ids[0]}, .*give (it the keys|that key)"):
        place.run(goes_on, *keys)
    assert place.run(lambda backend: document_of(backend, "r"), OLD) == before
    assert place.run(goes_on, OLD).status is RunStatus.PAUSED


def test_store_tells_which_keys_its_values_need_and_it_lacks(place: Place) -> None:
    (old,) = Keys(OLD).ids
    place.run(lambda backend: runner(backend).run_async(Keys(new_key()).seal("x", "y"), run_id="plain"))
    place.run(everything, OLD)
    held = {keys: place.run(lambda backend: backend.missing_keys(), *keys) for keys in ((), (NEW,), (OLD,), (NEW, OLD))}
    assert held.pop((OLD,)) == held.pop((NEW, OLD)) == {}
    assert [list(missing) for missing in held.values()] == [[old], [old]]
    assert held[()][old] < held[(NEW,)][old]  # without keys a text that is no JSON is not told from a plain one
    place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert place.run(lambda backend: backend.missing_keys(), NEW) == {}


def test_runs_are_listed_and_their_histories_verified_without_a_key(place: Place) -> None:
    place.run(everything, OLD)
    heads = place.run(lambda backend: backend.heads())
    assert {head.run_id for head in heads} == {"r", "r-fork"}
    assert place.run(verify_store)[0] == 2
    assert place.run(verify_store, NEW)[0] == 2


def test_store_is_switched_on_as_it_is_and_rotated_until_no_plain_value_is_left(place: Place) -> None:
    place.run(lambda backend: everything(backend, forked=False))  # a history keeps what it told of edits
    place.run(lambda backend: everything(backend, "later"), OLD)
    plain = place.run(lambda backend: document_of(backend, "r"), OLD)
    done = place.run(lambda backend: backend.rotate_keys(), OLD)
    assert (done.complete, done.resealed > 10) == (True, True)
    assert held(place.raw()) == set()
    assert place.run(lambda backend: document_of(backend, "r"), OLD) == plain


def test_old_key_may_go_after_a_rotation(place: Place) -> None:
    place.run(everything, OLD)
    before = place.run(lambda backend: document_of(backend, "r"), OLD)
    done = place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert (done.complete, done.failed, done.left) == (True, 0, 0)
    assert place.run(lambda backend: document_of(backend, "r"), NEW) == before
    assert place.run(lambda backend: backend.rotate_keys(), NEW, OLD).resealed == 0
    with pytest.raises(KeyMissing):
        place.run(lambda backend: document_of(backend, "r"), OLD)


def test_rotation_leaves_what_it_cannot_open_and_says_so(place: Place) -> None:
    place.run(lambda backend: everything(backend, "lost"), new_key())
    place.run(everything, OLD)
    done = place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert not done.complete
    assert done.failed > 0
    assert "encrypted with the key" in done.problems[0]
    assert place.run(lambda backend: document_of(backend, "r"), NEW).head.run_id == "r"


def test_rotation_goes_on_beside_a_running_worker(place: Place) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @step
    async def first(text: str) -> str:
        return f"{text} first"

    @step
    async def slow(text: str) -> str:
        started.set()
        await go.wait()
        return f"{text} slow"

    @step
    async def last(text: str) -> str:
        return f"{text} last"

    async def work(backend: StateBackend) -> Any:
        flujo = runner_of(first >> slow >> last, backend)
        running = asyncio.gather(flujo.run_async("canary-input", run_id="r"))
        await started.wait()
        head = await backend.head("r")
        rotation = await place.open(NEW, OLD).rotate_keys()
        assert (await place.open(NEW).head("r")) == head  # the lease, the fence and `seq` stand
        go.set()
        return *(await running), rotation

    result, rotation = place.run(work, OLD, NEW)
    assert (result.output, rotation.complete) == ("canary-input first slow last", True)
    again = place.run(lambda backend: backend.rotate_keys(), NEW, OLD)
    assert again.resealed > 0  # what the worker wrote with the key it has
    assert place.run(lambda backend: document_of(backend, "r"), NEW).head.status is RunStatus.COMPLETED


async def test_rotation_that_was_interrupted_is_finished_by_repeating_it(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db", encryption=Keys(OLD))

    @step
    async def one(number: int) -> int:
        return number

    flujo = runner_of(one, backend)
    for number in range(AT_ONCE + 10):
        await flujo.run_async(number, run_id=f"r{number}")
    await backend.close()
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        every = connection.execute("SELECT count(*) FROM flujo_run_input").fetchone()[0]
        broken = SQLiteBackend(tmp_path / "runs.db", encryption=Keys(NEW, OLD), busy_seconds=0.01)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendError):
            await broken.rotate_keys()
        connection.execute("ROLLBACK")
    done = await broken.rotate_keys()
    await broken.close()
    assert (done.complete, done.resealed) == (True, every * 3)


def test_values_that_were_swapped_are_found(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path, None)
    for run_id in ("a", "b"):
        place.run(lambda backend, run_id=run_id: runner(backend).run_async(f"for {run_id}", run_id=run_id), OLD)
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as connection:
        stored = dict(connection.execute("SELECT run_id, input FROM flujo_run_input"))
        for run_id, other in (("a", "b"), ("b", "a")):
            connection.execute("UPDATE flujo_run_input SET input = ? WHERE run_id = ?", [stored[other], run_id])
    with pytest.raises(CorruptState, match="was written for"):
        place.run(lambda backend: backend.load("a"), OLD)


def test_value_that_was_changed_is_found() -> None:
    keys = Keys(OLD)
    sealed = keys.seal("100", "there")
    assert is_sealed(sealed)
    assert keys.open(sealed, "there") == "100"
    assert keys.seal("100", "there") != sealed
    with pytest.raises(CorruptState, match="was changed since"):
        keys.open(sealed[:-6] + "AAAA==", "there")
    with pytest.raises(CorruptState, match="was written for there"):
        keys.open(sealed, "elsewhere")


def test_nobody_closes_a_store_without_keys_by_what_they_write(tmp_path: Path) -> None:
    hostile = Keys(OLD).seal("x", "y")

    @step
    async def broken(text: str) -> str:
        raise RuntimeError(text)

    gate = Step.human_in_the_loop("gate", message_for_user=lambda text: text)
    place = Place("sqlite", tmp_path, None)
    for kind in ("sqlite", "file"):
        place.kind = kind
        place.run(lambda backend: runner_of(gate >> broken, backend).run_async(hostile, run_id="r"))
        failed = place.run(lambda backend: runner_of(gate >> broken, backend).resume_async("r", hostile))
        assert failed.status is RunStatus.FAILED
        assert place.run(lambda backend: backend.heads())[0].error_message == hostile


def test_key_ids_are_told_and_keys_never(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = Keys(NEW, OLD)
    with pytest.raises(KeyMissing) as caught:
        keys.open(Keys(new_key()).seal("x", "y"), "y")
    assert all(key_id in str(caught.value) for key_id in keys.ids)
    with pytest.raises(ValueError, match="Key number 2") as refused:
        Keys(OLD, "not a key")
    assert not any(key in f"{caught.value}{refused.value}" for key in (OLD, NEW, "not a key"))


def test_keys_are_read_from_a_file_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# since June\n{NEW}\n\n{OLD}\n")
    assert keys_in(tmp_path / "keys") == (NEW, OLD)


def test_command_line_rotates_with_the_keys_of_the_file_that_the_environment_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("sqlite", tmp_path, None)
    place.run(everything, OLD)
    store = str(tmp_path / "runs.db")
    assert main(["rotate-keys", store]) == 3
    assert "no encryption keys" in capsys.readouterr().err
    (tmp_path / "keys").write_text(f"{NEW}\n{OLD}\n")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "keys"))
    assert main(["rotate-keys", store]) == 0
    assert "the others may go" in capsys.readouterr().out
    (tmp_path / "keys").write_text(f"{OLD}\n")
    assert main(["doctor", store]) == 1
    assert f"sealed with the key {Keys(NEW).ids[0]}" in capsys.readouterr().out
    assert main(["list", store, "--json"]) == 0
    assert f"sealed with the key {Keys(NEW).ids[0]}, which was not given" in capsys.readouterr().out
    (tmp_path / "keys").write_text(f"{NEW}\n")
    assert main(["doctor", store]) == 0
    assert main(["show", store, "r", "--values"]) == 0
    assert "canary-output" in capsys.readouterr().out
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "no file"))
    assert main(["list", store]) == 2


@pytest.mark.parametrize("name", ["runs.db", "runs/"])
@pytest.mark.parametrize("others", ["", NEW], ids=["no key", "another key"])
def test_show_without_the_key_tells_what_can_be_read(
    name: str, others: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / name)
    keys = tmp_path / "keys"
    keys.write_text(f"{OLD}\n")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(keys))

    async def start() -> None:
        backend = open_store(place + "/" * name.endswith("/"), new=True)
        await runner(backend).run_async("canary-input", run_id="r", initial_context_data={"word": "w"})
        await backend.close()

    asyncio.run(start())
    keys.write_text(f"{others}\n") if others else monkeypatch.delenv(KEY_FILE_VARIABLE)

    assert main(["show", place, "r", "--values"]) == 1

    said = capsys.readouterr()
    assert f"encrypted with the key {Keys(OLD).ids[0]}" in said.err
    assert said.err.count("\n") == 1
    for line in ("status       paused (human_task)", "asks at ask", "read "):
        assert line in said.out, line
    assert "canary" not in said.out
    assert main(["show", place, "r", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["run"]["status"], told["asked_at"], [step["path"] for step in told["steps"]]) == (
        "paused",
        ["ask"],
        ["read"],
    )
    assert main(["show", place, "nobody"]) == 2


async def test_run_that_moves_is_sealed_with_the_keys_of_its_new_store(tmp_path: Path) -> None:
    from flujo.clock import SystemClock
    from flujo.moving import Place as Side
    from flujo.moving import move

    here = SQLiteBackend(tmp_path / "here.db", encryption=Keys(OLD))
    there = FileBackend(tmp_path / "there", encryption=Keys(NEW))
    await runner(here).run_async("canary-input", run_id="r")
    await move("r", Side(here, "here"), Side(there, "there"), actor="ana", now=SystemClock().now(), facts={})
    await here.close()
    assert not held((tmp_path / "there" / "r.jsonl").read_bytes())
    document = await document_of(there, "r")
    assert json.loads(document.start.input) == "canary-input"


def test_without_the_extra_it_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None; sys.modules['cryptography.fernet'] = None\n"
        "import flujo.state.backends.sqlite, flujo.encryption\n"
        "try: flujo.encryption.Keys('x')\n"
        "except flujo.errors.BackendCannot as error: print(error)"
    )
    path = {"PYTHONPATH": str(ROOT / "engine")}
    done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, check=False)
    assert done.stdout == "Encryption needs the extra: pip install 'flujo[encryption]'.\n"


async def test_store_without_keys_has_nothing_to_rotate(tmp_path: Path) -> None:
    for backend in (InMemoryBackend(), FileBackend(tmp_path), SQLiteBackend(tmp_path / "runs.db")):
        with pytest.raises(BackendCannot):
            await backend.rotate_keys()


def test_every_value_in_every_table_is_sealed(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path, None)
    place.run(everything, OLD)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        for record, fields in PAYLOADS.items():
            for field in fields:
                for (text,) in connection.execute(f"SELECT {field} FROM {TABLES[record]}"):
                    assert not text or is_sealed(text), (record, field)


async def test_rotation_changes_no_value_that_was_written_since_it_was_read(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "runs.db", encryption=Keys(OLD))
    await runner(backend).run_async("canary-input", run_id="r")
    await backend.close()
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as connection:

        class Meanwhile(Keys):
            def open(self, text: str, place: str) -> str:
                if '"output"' in place:
                    connection.execute("UPDATE flujo_checkpoint SET output = 'newer'")
                return super().open(text, place)

        async def in_transaction(work: Callable[[Any], Any]) -> Any:
            return work(connection.cursor())

        dialect = SealingDialect(TABLES, keys=Meanwhile(NEW, OLD))
        done = await rotate(in_transaction, dialect, tables_of(dialect))
        stored = connection.execute("SELECT output FROM flujo_checkpoint").fetchone()
    assert (stored, done.complete, done.left) == (("newer",), False, 1)
