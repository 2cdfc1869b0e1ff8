"""What the engine's tests are made of: runners, ledgers of effects, and crashes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from flujo import Flujo, Pipeline, PipelineRegistry, Step, step
from flujo.batch import Batch, RunView, required
from flujo.document import RunDocument
from flujo.lease import Holder, this_process
from flujo.pipeline import Node
from flujo.records import Decision, RunHead
from flujo.state.base import StateBackend

ROOT = Path(__file__).resolve().parents[2]


class Crash(GeneratorExit):
    """The process dies here, in an async step: the engine lets this one out of it, and writes nothing on the way."""


class Ledger(Counter[str]):
    """Effects in the outside world, counted by name."""

    def add(self, what: str) -> None:
        self[what] += 1


def runner_of(
    pipeline: Pipeline | Node, backend: StateBackend, *, name: str = "demo", version: str = "1.0.0", **options: Any
) -> Flujo:
    """A runner of one pipeline in a registry of its own."""
    registry = PipelineRegistry()
    registry.register(pipeline, name=name, version=version)
    return Flujo(registry=registry, pipeline_name=name, pipeline_version=version, state_backend=backend, **options)


def order_pipeline(ledger: Ledger, *, crash_in: str = "", fail_in: str = "") -> Pipeline:
    """`price >> approve >> ship >> tell`; a step may be told to crash or to fail, after its effect."""

    def effect(name: str) -> None:
        ledger.add(name)
        if name == crash_in:
            raise Crash(name)
        if name == fail_in:
            raise RuntimeError(f"{name} is broken")

    @step
    async def price(order: str) -> int:
        effect("price")
        return len(order)

    @step
    async def ship(answer: str) -> str:
        effect("ship")
        return f"shipped: {answer}"

    @step
    async def tell(text: str) -> str:
        effect("tell")
        return text.upper()

    return price >> Step.human_in_the_loop("approve", message_for_user="Ship it?") >> ship >> tell


async def head_of(backend: StateBackend, run_id: str) -> RunHead:
    """The run's head row as it is stored."""
    return required(await document_of(backend, run_id))


async def document_of(backend: StateBackend, run_id: str) -> RunDocument:
    """All rows of a run as they are stored."""
    document = await backend.load(run_id)
    assert document is not None
    return document


async def decision_of(backend: StateBackend, path: str = "approve") -> Decision | None:
    """The decision on the newest question that run r asked there."""
    document = await document_of(backend, "r")
    task = document.human_task(path)
    return None if task is None else document.decision(path, task.generation)


async def kinds_of(backend: StateBackend, run_id: str) -> list[str]:
    """The kinds of the run's audit events, in order."""
    return [event.kind.value for event in await backend.events(run_id)]


async def bury_holder(backend: StateBackend, run_id: str) -> None:
    """Let the run's lease belong to a process of this host that is gone, as after kill -9."""
    await _hold(backend, run_id, holder=_dead_process().to_json())


async def hold_elsewhere(backend: StateBackend, run_id: str) -> None:
    """Let the run's lease belong to a process of another host, of which nobody here knows whether it lives."""
    elsewhere = dataclasses.replace(this_process(), host="elsewhere", boot="another", pid=4711)
    await _hold(backend, run_id, holder=elsewhere.to_json())


async def expire_lease(backend: StateBackend, run_id: str) -> None:
    """Let the run's lease have ended an hour ago."""
    head = await head_of(backend, run_id)
    await _hold(backend, run_id, lease_expires_at=head.updated_at - timedelta(hours=1))


async def _hold(backend: StateBackend, run_id: str, **fields: Any) -> None:
    def transition(view: RunView) -> Batch:
        head = required(view)
        return Batch(view.run_id, head, dataclasses.replace(head, **fields))

    await backend.transact(run_id, transition)


def _dead_process() -> Holder:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(this_process(), pid=process.pid, started="1", nonce="dead")


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that knows the engine and these tests, and nothing of the suite's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUJO_", "DJANGO_"))}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "engine")])} | more


def python(*arguments: str | Path, timeout: float = 30, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours to its end."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, timeout=timeout, check=False
    )
