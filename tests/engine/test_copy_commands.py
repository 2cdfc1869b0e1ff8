"""Runs are carried in files and between stores, old ones deleted, and a sick store is told from a healthy one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from flujo import Flujo, PipelineRegistry, Step
from flujo.__main__ import main
from flujo.state.backends import sqlite_health
from flujo.state.base import StateBackend

from tests.engine.command_line import KINDS, OLD, Place
from tests.engine.making import Crash, Ledger, bury_holder, hold_elsewhere, order_pipeline, runner_of


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(request.param, tmp_path, capsys)


@pytest.fixture
def other(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    """A store of the other kind."""
    (tmp_path / "other").mkdir()
    return Place("file" if place.kind == "sqlite" else "sqlite", tmp_path / "other", capsys)


def finish(place: Place, run_id: str) -> None:
    place.do(lambda backend: runner_of(OLD, backend).resume_async(run_id, "yes"))


def delete(place: Place, run_id: str) -> None:
    place.do(lambda backend: runner_of(OLD, backend).cancel_async(run_id))
    place.do(lambda backend: backend.delete_state(run_id))


def test_export_and_import_carry_runs_and_the_histories_of_deleted_ones(
    place: Place, other: Place, tmp_path: Path
) -> None:
    place.start("a", "b", "c")
    finish(place, "b")
    delete(place, "c")
    file = tmp_path / "runs.jsonl"
    assert place.json("export", "--all", "--output", str(file)) == {"file": str(file), "runs": 3}
    assert file.stat().st_mode & 0o777 == 0o600
    other.start("z")
    assert other.json("import", str(file)) == {"dry_run": False, "runs": 3, "refused": []}
    for run_id in ("a", "b", "c"):
        assert other.json("history", run_id)["events"] == place.json("history", run_id)["events"]
    assert other.call("verify")[0] == 0
    assert other.call("import", str(file))[1] == "3 of 3 runs are in the store.\n"
    finish(other, "a")
    told = other.json("import", str(file), code=3)
    assert [refused["run_id"] for refused in told["refused"]] == ["a"]


def test_import_of_a_parent_without_its_child_lets_it_fail(place: Place, other: Place, tmp_path: Path) -> None:
    registry = PipelineRegistry()
    registry.register(OLD, name="demo", version="1.0.0")
    registry.register(Step.run_pipeline("order", pipeline="demo"), name="parent", version="1.0.0")

    def runner(backend: StateBackend) -> Flujo:
        return Flujo(registry=registry, pipeline_name="parent", state_backend=backend)

    place.do(lambda backend: runner(backend).run_async("lamp", run_id="p"))
    parent, whole = tmp_path / "parent.jsonl", tmp_path / "whole.jsonl"
    place.call("export", "--all", "--output", str(whole))
    place.call("export", "--run", "p", "--output", str(parent))
    place.json("import", str(whole))
    assert place.json("show", "p")["run"]["status"] == "paused"

    other.start("z")
    other.json("import", str(parent))
    assert other.json("show", "p")["run"]["status"] == "queued"
    result = other.do(lambda backend: runner(backend).continue_async("p"))
    assert "it was deleted" in result.error


def test_export_of_one_run_goes_to_standard_output(place: Place) -> None:
    place.start("a", "b")
    code, out, err = place.call("export", "--run", "a")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(lines)) == (0, "", 3)
    assert lines[0] == {"format": "flujo.export", "version": 1}
    assert lines[1]["state"]["run_id"] == "a"
    assert lines[2] == {"runs": 1}
    assert place.call("export", "--run", "nobody")[0] == 2
    assert place.call("export", "--all", "--json")[0] == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda lines: lines[:-1], "not whole"),
        (lambda lines: [lines[0], *lines[2:]], "not whole"),
        (lambda lines: lines[1:], "no export"),
        (lambda lines: [lines[0], lines[1].replace("lamp", "lump"), *lines[2:]], "checksum differs"),
        (lambda lines: ["nonsense"], "no JSON"),
        (lambda lines: [*lines, lines[1]], "behind the export's end"),
        (lambda lines: ['{"format":"flujo.export","version":9}', *lines[1:]], "newer Flujo"),
    ],
)
def test_import_takes_nothing_from_a_damaged_export(
    place: Place, other: Place, tmp_path: Path, damage: Callable[[list[str]], list[str]], sentence: str
) -> None:
    place.start("a", "b")
    _, out, _ = place.call("export", "--all")
    file = tmp_path / "damaged.jsonl"
    file.write_text("\n".join(damage(out.splitlines())) + "\n")
    other.start("z")
    code, _, err = other.call("import", str(file))
    assert code == 3
    assert sentence in err
    assert [run["run_id"] for run in other.json("list")["runs"]] == ["z"]


@pytest.mark.parametrize("name", ["restored.db", "restored/"])
def test_import_makes_the_store_that_it_restores_into(place: Place, tmp_path: Path, name: str) -> None:
    place.start("a")
    file, restored = tmp_path / "runs.jsonl", f"{tmp_path}/{name}"
    place.call("export", "--all", "--output", str(file))

    assert main(["import", restored, str(tmp_path / "nothing")]) == 2
    assert main(["import", restored, str(file), "--dry-run"]) == 0
    assert not Path(restored).exists()
    assert main(["import", restored, str(file)]) == 0
    assert main(["show", restored, "a"]) == 0


def test_export_to_where_nobody_can_write_names_the_file(place: Place, tmp_path: Path) -> None:
    place.start("a")
    target = tmp_path / "nowhere" / "runs.jsonl"
    assert place.call("export", "--all", "--output", str(target))[::2] == (
        2,
        f"{target} cannot be written: No such file or directory.\n",
    )


def test_import_dry_run_checks_and_writes_nothing(place: Place, other: Place, tmp_path: Path) -> None:
    place.start("a")
    file = tmp_path / "runs.jsonl"
    place.call("export", "--all", "--output", str(file))
    assert place.call("export", "--all", "--output", str(file))[0] == 2
    other.start("z")
    assert other.call("import", str(file), "--dry-run")[1] == "1 of 1 runs would be imported.\n"
    assert [run["run_id"] for run in other.json("list")["runs"]] == ["z"]
    assert other.call("import", str(tmp_path / "nothing"))[0] == 2


def test_move_carries_a_run_to_a_new_store_and_leaves_word(place: Place, other: Place) -> None:
    place.start("a")
    target = str(other.path) + ("/" if other.kind == "file" else "")
    told = place.json("move", "a", "--to", target, "--actor", "ana")
    assert told["run"]["status"] == "paused"
    assert [run["run_id"] for run in other.json("list")["runs"]] == ["a"]
    code, _, err = place.call("show", "a")
    assert code == 2
    assert f"moved to {other.path}" in err
    assert [event["kind"] for event in place.json("history", "a")["events"]][-1] == "run.moved"
    assert place.json("move", "a", "--to", target)["run"]["run_id"] == "a"
    assert (place.call("verify")[0], other.call("verify")[0]) == (0, 0)


def test_move_of_a_leased_run_or_to_nowhere_is_refused(place: Place, other: Place) -> None:
    place.start("a")
    assert place.call("move", "a", "--to", str(place.path))[0] == 2
    assert place.call("move", "a", "--to", str(other.path) + ".txt")[0] == 2

    async def crash(backend: StateBackend) -> None:
        with pytest.raises(Crash):
            await runner_of(order_pipeline(Ledger(), crash_in="price"), backend).run_async("lamp", run_id="held")
        await hold_elsewhere(backend, "held")

    place.do(crash)
    target = str(other.path) + ("/" if other.kind == "file" else "")
    code, _, err = place.call("move", "held", "--to", target)
    assert (code, "is running in" in err) == (3, True)


def test_prune_shows_first_and_deletes_ended_runs_only(place: Place) -> None:
    place.start("a", "b")
    finish(place, "b")
    options = ["--older-than", "0h"]
    assert place.json("prune", *options, "--dry-run")["found"] == ["b"]
    assert "1 runs would be deleted." in place.call("prune", *options, "--dry-run")[1]
    assert place.json("list", "--status", "completed")["runs"]
    assert place.call("prune", *options, "--yes")[0] == 2
    told = place.json("prune", *options, "--yes", "--reason", "old")
    assert (told["deleted"], told["kept"]) == (["b"], [])
    assert [run["run_id"] for run in place.json("list")["runs"]] == ["a"]
    assert place.json("history", "b")["events"][-1]["data"]["reason"] == "old"
    assert place.json("prune", "--older-than", "1d", "--dry-run")["found"] == []


def test_prune_keeps_to_its_filters(place: Place) -> None:
    place.start("a", "b")
    finish(place, "a")
    place.call("cancel", "b")
    options = ["--older-than", "0h", "--dry-run"]
    assert place.json("prune", *options, "--status", "cancelled")["found"] == ["b"]
    assert place.json("prune", *options, "--pipeline", "other")["found"] == []


def test_doctor_finds_a_healthy_store_healthy(place: Place) -> None:
    place.start("a")
    told = place.json("doctor")
    assert (told["healthy"], [check for check in told["checks"] if not check["ok"]]) == (True, [])
    assert place.call("doctor")[0] == 0


def test_doctor_says_what_is_wrong_and_what_to_do(place: Place) -> None:
    async def crash(backend: StateBackend) -> None:
        with pytest.raises(Crash):
            await runner_of(order_pipeline(Ledger(), crash_in="price"), backend).run_async("lamp", run_id="dead")
        await bury_holder(backend, "dead")

    place.do(crash)
    place.path.chmod(0o755)
    name = f"permissions of {place.path.name}"
    assert name not in {check["name"] for check in place.json("doctor", code=1)["checks"] if not check["ok"]}
    place.path.parent.chmod(0o755)
    told = place.json("doctor", code=1)
    sick = {check["name"]: check for check in told["checks"] if not check["ok"]}
    assert {"dead leases", name} <= set(sick)
    assert "chmod" in sick[name]["advice"]
    assert "dead leases: their workers are gone" in place.call("doctor")[1]


@pytest.mark.tampers
def test_doctor_finds_broken_chains_and_orphans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place("sqlite", tmp_path, capsys)
    place.start("a")
    connection = sqlite3.connect(place.path)
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM flujo_run")
    connection.commit()
    connection.close()
    told = place.json("doctor", code=1)
    assert {check["name"] for check in told["checks"] if not check["ok"]} == {"audit chains", "orphans"}


def test_doctor_finds_a_log_that_is_not_emptied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_health, "LARGE_LOG", 0)
    place = Place("sqlite", tmp_path, capsys)
    place.start("a")
    assert "log: a program reads from the store and does not end" in place.call("doctor")[1]


def test_file_of_an_older_flujo_gets_the_columns_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place("sqlite", tmp_path, capsys)
    place.start("a")
    connection = sqlite3.connect(place.path)
    connection.execute("ALTER TABLE flujo_run DROP COLUMN on_change")
    connection.execute("ALTER TABLE flujo_attempt DROP COLUMN traceback")
    connection.execute("DROP TABLE flujo_signal")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    shown = place.json("show", "a")["run"]
    assert (shown["on_change"], shown["status"]) == (None, "paused")
    finish(place, "a")
    assert place.json("doctor")["healthy"]


def test_lines_of_an_older_flujo_take_the_defaults_of_what_they_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flujo import canonical

    place = Place("file", tmp_path, capsys)
    place.start("a")
    path = place.path / "a.jsonl"
    lines = []
    for line in path.read_text().splitlines():
        rows = json.loads(line)["rows"]
        for table in rows:
            for row in table.get("run", []):
                del row["on_change"], row["title"]
        lines.append(canonical.dump({"rows": rows, "sha256": canonical.digest(canonical.dump(rows))}))
    path.write_text("\n".join(lines) + "\n")
    shown = place.json("show", "a")["run"]
    assert (shown["on_change"], shown["title"]) == (None, "")
    finish(place, "a")


def test_line_of_a_newer_flujo_is_refused_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flujo import canonical

    place = Place("file", tmp_path, capsys)
    place.start("a")
    path = place.path / "a.jsonl"
    rows = [{"run": [{**place.json("show", "a")["run"], "colour": "red"}]}]
    with path.open("a") as file:
        file.write(canonical.dump({"rows": rows, "sha256": canonical.digest(canonical.dump(rows))}) + "\n")
    before = path.read_bytes()
    code, _, err = place.call("show", "a")
    assert (code, "newer Flujo" in err) == (1, True)
    assert path.read_bytes() == before
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
