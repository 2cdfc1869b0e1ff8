"""Old code in one process starts a run that waits; new code in another process follows each policy."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine.making import ROOT, python

pytestmark = pytest.mark.slow

PROGRAM = ROOT / "tests" / "engine" / "deployed.py"


class Deploy:
    """One store and one ledger of effects, for processes of either code."""

    def __init__(self, folder: Path, policy: str) -> None:
        self.store, self.ledger, self.policy = folder / "runs.db", folder / "ledger", policy

    def __call__(self, code: str, command: str) -> str:
        done = python(PROGRAM, self.store, self.ledger, code, self.policy, command)
        assert done.stderr == ""
        return done.stdout.split(" ")[0] if "changed" in done.stdout else done.stdout.strip()

    def state(self) -> tuple[str, str, str]:
        with closing(sqlite3.connect(self.store)) as connection:
            row: tuple[str, str, str] = connection.execute("SELECT version, status, wait FROM flujo_run").fetchone()
        return row

    def effects(self) -> Counter[str]:
        return Counter(self.ledger.read_text().split())


def test_deploy_with_refusal_parks_the_run_until_its_code_is_back(tmp_path: Path) -> None:
    deploy = Deploy(tmp_path, "refuse")
    assert deploy("old", "start") == "paused None"
    assert deploy("new", "resume") == "pipeline_changed"
    assert deploy.state() == ("1.0.0", "paused", "operator")
    assert deploy("both", "unpark") == "paused None"
    assert deploy("both", "resume") == "completed shipped: yes"
    assert deploy.effects() == {"price": 1, "ship": 1}


def test_deploy_with_pinning_leaves_the_run_to_the_old_code(tmp_path: Path) -> None:
    deploy = Deploy(tmp_path, "pin")
    assert deploy("old", "start") == "paused None"
    assert deploy("new", "resume") == "pipeline_changed"
    assert deploy.state() == ("1.0.0", "paused", "human_task")
    assert deploy("old", "resume") == "completed shipped: yes"
    assert deploy.effects() == {"price": 1, "ship": 1}


@pytest.mark.parametrize("first", ["look", "resume"])
def test_deploy_with_migration_goes_on_under_the_new_code(tmp_path: Path, first: str) -> None:
    deploy = Deploy(tmp_path, "migrate")
    assert deploy("old", "start") == "paused None"
    deploy("new", first)  # what follows the question is new, so it is asked again
    assert deploy("new", "look") == "paused None"
    assert deploy.state() == ("2.0.0", "paused", "human_task")
    assert deploy("new", "resume") == "completed shipped: yes, packed"
    assert deploy.effects() == {"price": 1, "pack": 1, "ship": 1}
