"""The holder of a lease: dead only when that is sure."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flujo.lease import Holder, is_dead, this_process


@pytest.fixture
def living() -> Iterator[Holder]:
    """Another process of this host that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield dataclasses.replace(this_process(), pid=process.pid, started=_started(process.pid))
        process.communicate()


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def hide(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Let /proc tell nothing of single processes, as when it is mounted with `hidepid`."""
    read_text = Path.read_text

    def hidden(path: Path, *arguments: str | None) -> str:
        if path.name == "stat":
            raise error
        return read_text(path, *arguments)

    monkeypatch.setattr(Path, "read_text", hidden)


def test_holder_that_lives_is_not_dead(living: Holder) -> None:
    assert not is_dead(living)
    assert not is_dead(this_process())


def test_holder_that_is_gone_is_dead(living: Holder) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        holder = dataclasses.replace(living, pid=process.pid, started=_started(process.pid))
    assert is_dead(holder)


def test_zombie_is_dead(living: Holder) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        holder = dataclasses.replace(living, pid=process.pid, started=_started(process.pid))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        process.stdout.read()  # it has closed everything; nobody has waited for it
        while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]:
            pass
        assert is_dead(holder)


def test_process_that_has_its_number_now_is_not_the_holder(living: Holder) -> None:
    assert is_dead(dataclasses.replace(living, started="1"))


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError()])
def test_process_that_is_hidden_from_us_may_live(
    monkeypatch: pytest.MonkeyPatch, living: Holder, error: OSError
) -> None:
    hide(monkeypatch, error)
    assert not is_dead(living)
    assert not is_dead(dataclasses.replace(living, pid=1)), "another user's process"


def test_process_that_is_gone_is_dead_though_others_are_hidden(monkeypatch: pytest.MonkeyPatch, living: Holder) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    hide(monkeypatch, FileNotFoundError())
    assert is_dead(dataclasses.replace(living, pid=process.pid))


ELSEWHERE: dict[str, Callable[[Holder], Holder]] = {
    "another boot or host": lambda holder: dataclasses.replace(holder, boot="another"),
    "another container": lambda holder: dataclasses.replace(holder, namespace="pid:[1]"),
    "nobody knows which boot": lambda holder: dataclasses.replace(holder, boot=""),
    "nobody knows which container": lambda holder: dataclasses.replace(holder, namespace=""),
    "nobody knows when it began": lambda holder: dataclasses.replace(holder, started=""),
    "no process at all": lambda holder: dataclasses.replace(holder, pid=2**70),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_holder_that_cannot_be_seen_from_here_may_live(living: Holder, where: str) -> None:
    holder = ELSEWHERE[where](living)
    assert not is_dead(holder)
