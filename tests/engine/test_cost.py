"""What a step costs, in bytes and statements, never in time: it must not grow with the steps before it."""

from __future__ import annotations

import gc
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from flujo import Pipeline, StepContext, step
from flujo.records import AuditEvent
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend

from bench.__main__ import MEASUREMENTS
from tests.engine.making import environment, python, runner_of
from tests.engine.stores import TracedSQLite

pytestmark = pytest.mark.slow

STEPS = 1_600
STATEMENTS_PER_STEP = 6


def adding(count: int) -> Pipeline:
    """`count` steps whose names are equally long."""

    async def add(value: int) -> int:
        return (value + 1) % 10

    return Pipeline([step(name=f"step_{number:04}")(add) for number in range(count)])


async def test_step_appends_as_many_bytes_to_its_file_late_as_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # size is looked at, not safety
    await runner_of(adding(STEPS), FileBackend(tmp_path)).run_async(0, run_id="r")
    lines = (tmp_path / "r.jsonl").read_bytes().splitlines()  # a line is a transition: the start, then the steps

    assert len(lines) == STEPS + 1
    assert len(lines[STEPS - 1]) <= 1.1 * len(lines[1])


async def test_step_binds_as_many_bytes_and_statements_late_as_early(tmp_path: Path) -> None:
    backend = TracedSQLite(tmp_path / "runs.db", synchronous="NORMAL")
    await runner_of(adding(STEPS), backend).run_async(0, run_id="r")
    await backend.close()
    made = [text for text in backend.statements if not text.startswith("PRAGMA")]  # now and then the log is emptied
    commits = [index for index, text in enumerate(made) if text.startswith("COMMIT")]
    steps = [made[begin + 1 : end + 1] for begin, end in pairwise(commits)]
    steps = [statements for statements in steps if any("_checkpoint" in text for text in statements)][:STEPS]

    assert len(steps) >= STEPS - 1
    assert max(len(statements) for statements in steps[1:-1]) <= STATEMENTS_PER_STEP
    early, late = (sum(map(len, statements)) for statements in (steps[1], steps[-3]))
    assert late <= 1.1 * early


async def test_worker_keeps_nothing_in_memory_that_only_the_store_is_asked_for(tmp_path: Path) -> None:
    """The audit events of a long run take more memory than all else of it."""
    kept: list[int] = []

    @step
    async def count(value: int, ctx: StepContext) -> int:
        kept.append(sum(type(held) is AuditEvent and held.run_id == ctx.run_id for held in gc.get_objects()))
        return value

    backend = SQLiteBackend(tmp_path / "runs.db", synchronous="NORMAL")
    await runner_of(Pipeline([*adding(20).nodes, count]), backend).run_async(0, run_id="counted")
    await backend.close()
    assert kept[0] < 5  # the last write may be at hand still


@pytest.mark.services
@pytest.mark.django_db(transaction=True, databases=["postgres"])
def test_step_on_postgresql_is_one_round_trip(tmp_path: Path) -> None:
    from bench.orm import round_trips

    assert round_trips(tmp_path / "trace") <= 1.1


def test_engine_imports_no_django() -> None:
    code = "import sys, flujo; print(*{name.partition('.')[0] for name in sys.modules} & {'django', 'runs'})"
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == ""


@pytest.mark.parametrize("row", MEASUREMENTS)
def test_benchmark_measures_each_row(row: str) -> None:
    done = python("-m", "bench", row, "--rounds", "1", timeout=120)

    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].endswith(("all targets met", "targets missed"))
