"""What the tests of the command line share: stores with runs in them, and how a command is called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from flujo import Pipeline, PipelineRegistry, Step, StoredRun, step
from flujo.__main__ import main
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend

from tests.engine.making import Ledger, order_pipeline, runner_of

KINDS = ["sqlite", "file"]
OLD = order_pipeline(Ledger())


@step
async def price(order: str) -> int:
    return len(order)


@step
async def pack(answer: str) -> str:
    return answer


@step
async def ship(answer: str) -> str:
    return f"shipped: {answer}"


def _registry(pipeline: Pipeline, version: str = "1.0.0", on_change: str = "refuse") -> PipelineRegistry:
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version=version, on_change=on_change)
    return registry


same = _registry(OLD)
changed = _registry(price >> Step.human_in_the_loop("approve", message_for_user="Ship it?") >> pack >> ship)
newer = _registry(OLD, "2.0.0")
migrating = _registry(
    price >> Step.human_in_the_loop("approve", message_for_user="Ship it?") >> ship, "2.0.0", "migrate"
)
not_a_registry = 42


@migrating.migration("demo", "1.0.0", "2.0.0")
def _as_it_was(run: StoredRun) -> None:
    """Only the version changes."""


def registry(name: str) -> list[str]:
    """The option that names one of the registries above."""
    return ["--registry", f"{__name__}:{name}"]


class Place:
    """A store of one kind in a folder, and the commands on it."""

    def __init__(self, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = folder / ("runs.db" if kind == "sqlite" else "runs")
        self.kind = kind
        self._capsys = capsys

    def backend(self) -> StateBackend:
        return SQLiteBackend(self.path) if self.kind == "sqlite" else FileBackend(self.path)

    def do(self, work: Callable[[StateBackend], Coroutine[Any, Any, Any]]) -> Any:
        """Do something with the store, as a program would."""

        async def doing() -> Any:
            backend = self.backend()
            try:
                return await work(backend)
            finally:
                await backend.close()

        return asyncio.run(doing())

    def start(self, *run_ids: str, name: str = "demo") -> None:
        """Start runs that wait for a person."""

        async def starting(backend: StateBackend) -> None:
            runner = runner_of(OLD, backend, name=name)
            for run_id in run_ids:
                await runner.run_async("lamp", run_id=run_id, title=f"Order {run_id}")

        self.do(starting)

    def call(self, command: str, *options: str) -> tuple[int, str, str]:
        """The exit code, the output and the errors of a command."""
        code = main([command, str(self.path), *options])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, command: str, *options: str, code: int = 0) -> Any:
        """The document that a command prints with --json."""
        got, out, err = self.call(command, *options, "--json")
        assert (got, err) == (code, "")
        return json.loads(out)
