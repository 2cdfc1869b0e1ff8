"""The example of the documentation, word for word, in one process and in two."""

from __future__ import annotations

import sqlite3
import textwrap
from pathlib import Path

import pytest
from flujo import Flujo, PipelineRegistry, Step, step
from flujo.state.backends.sqlite import SQLiteBackend

from tests.engine.making import python

PIPELINE = """
from pathlib import Path
from flujo import Flujo, PipelineRegistry, step, Step
from flujo.state.backends.sqlite import SQLiteBackend

@step
async def to_upper(text: str) -> str:
    return text.upper()

pipeline = to_upper >> Step.human_in_the_loop("approve", message_for_user="Approve?")
registry = PipelineRegistry()
registry.register(pipeline, name="demo", version="1.0.0")
backend = SQLiteBackend(Path("workflow_state.db"))
"""
RUN = """
runner = Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=backend)
paused = runner.run("hello", initial_context_data={"run_id": "example"})
print(paused.run_id, paused.status, paused.pause.message, paused.step_history[0].output)
"""
RESUME = """
import asyncio

async def go_on():
    resumer = Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=backend)
    return await resumer.resume_async("example", "yes")

final = asyncio.run(go_on())
print(final.run_id, final.status, final.output)
"""


def test_example_runs_as_it_is_written(tmp_path: Path) -> None:
    @step
    async def to_upper(text: str) -> str:
        return text.upper()

    pipeline = to_upper >> Step.human_in_the_loop("approve", message_for_user="Approve?")
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version="1.0.0")
    backend = SQLiteBackend(tmp_path / "workflow_state.db")

    runner = Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=backend)
    paused = runner.run("hello", initial_context_data={"run_id": "example"})

    resumer = Flujo(registry=registry, pipeline_name="demo", pipeline_version="1.0.0", state_backend=backend)
    final = resumer.resume(paused, "yes")

    assert (paused.run_id, paused.status, paused.output) == ("example", "paused", None)
    assert (final.run_id, final.status, final.output) == ("example", "completed", "yes")
    assert [s.output for s in final.step_history] == ["HELLO", "yes"]


@pytest.mark.slow
def test_example_pauses_in_one_process_and_resumes_in_another(tmp_path: Path) -> None:
    """Neither process calls `close()`, and both end."""
    for name, body, said in (
        ("run", RUN, "example paused Approve? HELLO"),
        ("again", RUN, "example paused Approve? HELLO"),
        ("resume", RESUME, "example completed yes"),
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(f"import os\nos.chdir({str(tmp_path)!r})\n" + textwrap.dedent(PIPELINE + body))
        done = python(script)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, said, "")

    with sqlite3.connect(tmp_path / "workflow_state.db") as connection:
        rows = connection.execute("SELECT run_id, status, step_index FROM flujo_run").fetchall()
    connection.close()
    assert rows == [("example", "completed", 2)]
    checked = python("-m", "flujo", "verify", tmp_path / "workflow_state.db")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "intact" in checked.stdout
