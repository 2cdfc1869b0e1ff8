"""The command line says what a store holds, in words and as JSON, and what is wrong in one sentence."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from flujo.__main__ import main
from flujo.commands import COMMANDS
from flujo.commands.output import printable

from tests.engine.command_line import KINDS, OLD, Place, registry
from tests.engine.making import environment, python, runner_of
from tests.engine.stores import JsonFiles


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(request.param, tmp_path, capsys)


def test_list_pages_through_all_runs(place: Place) -> None:
    place.start("a", "b", "c")
    first = place.json("list", "--limit", "2")
    rest = place.json("list", "--limit", "2", "--after", first["next"])
    assert [run["run_id"] for run in first["runs"] + rest["runs"]] == ["a", "b", "c"]
    assert (first["next"], rest["next"]) == ("b", None)


def test_list_filters_by_status_and_pipeline(place: Place) -> None:
    place.start("a", "b")
    place.start("c", name="other")
    place.do(lambda backend: runner_of(OLD, backend).resume_async("a", "yes"))
    assert [run["run_id"] for run in place.json("list", "--status", "paused")["runs"]] == ["b", "c"]
    assert [run["run_id"] for run in place.json("list", "--pipeline", "other")["runs"]] == ["c"]


def test_list_in_words_has_a_line_for_each_run(place: Place) -> None:
    place.start("a", "b")
    code, out, err = place.call("list", "--limit", "1")
    head, row, more = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["RUN", "PIPELINE", "STATUS", "NEXT", "STEP", "UPDATED", "TITLE"]
    assert row.startswith("a    demo 1.0.0  paused (human_task)  approve")
    assert more == "There are more: go on with --after a"


def test_show_tells_what_a_run_did_and_waits_for(place: Place) -> None:
    place.start("a")
    code, out, _ = place.call("show", "a")
    assert code == 0
    assert "asks at approve: Ship it?" in out
    assert "next step    approve (2 of 4)" in out
    shown = place.json("show", "a")
    assert shown["run"]["status"] == "paused"
    assert [step["path"] for step in shown["steps"]] == ["price"]


def test_show_keeps_values_to_itself_unless_they_are_asked_for(place: Place) -> None:
    place.start("a")
    assert "lamp" not in json.dumps(place.json("show", "a"))
    shown = place.json("show", "a", "--values")
    assert (shown["input"], shown["steps"][0]["output"], shown["context"]) == ("lamp", 4, {"run_id": "a"})
    assert "lamp" in place.call("show", "a", "--values")[1]


def test_history_lists_the_events_of_a_run_that_was_deleted_too(place: Place) -> None:
    place.start("a")
    place.do(lambda backend: runner_of(OLD, backend).cancel_async("a", actor="ana", reason="late"))
    place.do(lambda backend: backend.delete_state("a"))
    events = place.json("history", "a")["events"]
    assert [event["kind"] for event in events][-2:] == ["run.cancelled", "run.purged"]
    assert events[-2]["data"]["reason"] == "late"
    assert [event["seq"] for event in place.json("history", "a", "--after", "2", "--limit", "2")["events"]] == [3, 4]
    assert "run.purged" in place.call("history", "a")[1]
    assert place.call("show", "a")[0] == 2


@pytest.mark.parametrize("command", ["show", "history", "log"])
def test_a_run_that_is_not_there_is_said_in_one_sentence(place: Place, command: str) -> None:
    place.start("a")
    code, out, err = place.call(command, "nobody")
    assert (code, out) == (2, "")
    assert err == "No run has the id 'nobody' in this store.\n"
    assert place.call(command, "../etc")[0] == 2


@pytest.mark.parametrize("command", [command.name for command in COMMANDS if not command.makes])
def test_a_store_that_is_not_there_is_said_in_one_sentence_and_not_made(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([command, str(tmp_path / "nothing.db"), *NEEDED.get(command, ["a"])])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert "nothing.db does not exist." in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


NEEDED = {
    "list": [],
    "check": [],
    "verify": [],
    "doctor": [],
    "restored": [],
    "rotate-keys": [],
    "migrate": ["a", "--version", "2.0.0"],
    "resume": ["a", "--approve"],
    "signal": ["a", "paid"],
    "fork": ["a", "--from-step", "ship"],
    "move": ["a", "--to", "other.db"],
    "export": ["--all"],
    "prune": ["--older-than", "1d", "--dry-run"],
}


@pytest.mark.parametrize("arguments", [["list"], ["fly", "x"], ["list", "x", "--limit", "0"], ["show", "x"], []])
def test_a_wrong_command_line_is_said_in_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "Try: python -m flujo" in said.err


def test_a_folder_of_other_things_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("Dear Ana")
    assert main(["list", str(tmp_path)]) == 2
    assert "holds other things than runs" in capsys.readouterr().err
    assert main(["list", str(tmp_path.joinpath("new").resolve())]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["list", str(tmp_path / "empty")]) == 0


def test_a_store_that_may_not_be_written_is_said_in_one_sentence(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.start("a")
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)  # the suite may run as root
    code, out, err = place.call("list")
    assert (code, out) == (2, "")
    assert err == f"{place.path} may not be read and written here. A store needs both, also to be looked at.\n"


def test_a_file_of_another_program_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alien = tmp_path / "letters.txt"
    alien.write_text("Dear Ana, " * 100)
    assert main(["list", str(alien)]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert alien.read_text().startswith("Dear Ana, ")


def test_check_is_content_while_the_code_is_the_same(place: Place) -> None:
    place.start("a")
    assert place.json("check", *registry("same")) == {"unfinished": 1, "findings": []}
    assert place.call("check", *registry("same"))[1] == "All 1 unfinished runs can go on with this code.\n"


def test_check_names_the_steps_that_a_run_would_miss(place: Place) -> None:
    place.start("a", "b")
    place.do(lambda backend: runner_of(OLD, backend).resume_async("b", "yes"))
    told = place.json("check", *registry("changed"), code=1)
    (finding,) = told["findings"]
    assert told["unfinished"] == 1
    assert (finding["run_id"], finding["next_step"]) == ("a", "approve")
    assert finding["fingerprint"] != finding["registered"]["fingerprint"]
    assert {(d["change"], d["path"]) for d in finding["differences"]} == {("added", "pack"), ("missing", "tell")}
    code, out, _ = place.call("check", *registry("changed"))
    assert code == 1
    assert "tell is missing" in out
    assert "pack is new, behind approve" in out


def test_check_names_the_version_that_is_gone(place: Place) -> None:
    place.start("a")
    (finding,) = place.json("check", *registry("newer"), code=1)["findings"]
    assert finding["problem"] == "demo has no version 1.0.0. Registered: 2.0.0."
    assert (finding["registered"]["version"], finding["differences"]) == ("2.0.0", [])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tests.engine.command_line:not_a_registry", "is no PipelineRegistry but a int"),
        ("tests.engine.command_line:nothing", "cannot be imported: AttributeError"),
        ("no_such_module:registry", "cannot be imported: ModuleNotFoundError"),
        ("nonsense", "is no module:attribute"),
    ],
)
def test_a_registry_that_is_none_is_said_in_one_sentence(place: Place, name: str, sentence: str) -> None:
    place.start("a")
    code, _, err = place.call("check", "--registry", name)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1


def test_check_asks_for_the_registry(place: Place) -> None:
    place.start("a")
    code, _, err = place.call("check")
    assert (code, "--registry module:attribute" in err) == (2, True)


def test_a_store_of_ones_own_is_named_by_its_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", f"{__name__}:own_store"]) == 3
    assert "cannot list its runs" in capsys.readouterr().err
    assert main(["list", "tests.engine.command_line:not_a_registry"]) == 2
    assert "gives no StateBackend" in capsys.readouterr().err


def own_store() -> JsonFiles:
    """A user's own backend, which cannot list."""
    return JsonFiles(Path(mkdtemp()))


def test_stored_texts_cannot_steer_a_terminal() -> None:
    assert printable("red \x1b[31m\u202eevil\n") == "red \\x1b[31m\\u202eevil\\n"


@pytest.mark.slow
def test_a_closed_pipe_ends_a_command_in_peace(place: Place) -> None:
    place.start("a")
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "flujo", "history", str(place.path), "a", "--json"]
    done = subprocess.run(
        command, env=environment(), stdout=writes, stderr=subprocess.PIPE, text=True, timeout=30, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_a_terminal_gets_a_table_in_which_texts_are_no_markup(place: Place) -> None:
    place.start("a")
    place.do(lambda backend: runner_of(OLD, backend).run_async("x", run_id="b", title="[bold]not bold[/bold]"))
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "flujo", "list", str(place.path)],
        env=environment(COLUMNS="200", TERM="xterm"),
        stdout=theirs,
        timeout=30,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "[bold]not bold[/bold]" in shown
    assert "─" in shown


@pytest.mark.slow
def test_the_command_line_runs_as_a_program(place: Place) -> None:
    place.start("a")
    done = python("-m", "flujo", "list", place.path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [run["run_id"] for run in json.loads(done.stdout)["runs"]] == ["a"]
