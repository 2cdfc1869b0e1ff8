"""Before a deploy, the site says which unfinished runs the new code would not go on with."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from flujo.__main__ import main

from runs.registry import registry
from tests.runs import factories

pytestmark = pytest.mark.django_db(transaction=True)


def checked(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = 0
    try:
        call_command("check_inflight", *options)
    except SystemExit as left:
        code = int(str(left.code))
    return code, capsys.readouterr().out


def known_run(run_id: str, **fields: Any) -> None:
    name = registry.names()[0]
    entry = registry.get(name)
    factories.run(run_id, pipeline=name, **{"version": entry.version, "fingerprint": entry.fingerprint, **fields})


def test_check_inflight_is_content_while_every_run_can_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    known_run("r1")
    factories.run("r2", status="cancelled")
    assert checked(capsys) == (0, "All 1 unfinished runs can go on with this code.\n")


@pytest.mark.parametrize("command", ["check_inflight", "verify_audit", "rotate_keys", "restored"])
def test_database_that_is_away_is_said_in_one_sentence(command: str) -> None:
    with connection.execute_wrapper(_away), pytest.raises(CommandError, match="cannot be opened: gone") as refused:
        call_command(command)
    assert refused.value.returncode == 2  # 1 says that something was found


def _away(*_: Any) -> None:
    raise OperationalError("gone")


def test_check_inflight_lists_the_runs_whose_code_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    known_run("r1")
    known_run("r2", fingerprint="f" * 64)
    factories.run("r3", pipeline="nobody knows it")
    code, out = checked(capsys, "--json")
    assert code == 1
    found = {finding["run_id"]: finding for finding in json.loads(out)["findings"]}
    assert sorted(found) == ["r2", "r3"]
    assert "another shape" in found["r2"]["problem"]
    assert found["r3"]["registered"] is None


def test_the_command_line_reads_the_sites_store(capsys: pytest.CaptureFixture[str]) -> None:
    known_run("r1")
    assert main(["list", "django:", "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["r1"]
    assert main(["check", "django:"]) == 0
    assert main(["list", "django:nowhere"]) == 2
    assert "no database 'nowhere'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_says_that_a_site_must_be_named() -> None:
    from tests.engine.making import python

    done = python("-m", "flujo", "list", "django:")
    assert (done.returncode, done.stdout) == (2, "")
    assert "set DJANGO_SETTINGS_MODULE" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "DJANGO_SETTINGS_MODULE" in os.environ
