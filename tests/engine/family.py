"""Parents and their child runs, as tests know them: pipelines, runners, and workers that come in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo import Flujo, Pipeline, PipelineRegistry, Step, step, transitions
from flujo.batch import Batch, Transition
from flujo.pipeline import Node
from flujo.records import RunHead
from flujo.start import new_run
from flujo.state.base import StateBackend
from flujo.testing import FakeClock, FaultyBackend

from tests.engine.making import Ledger, document_of

ASK = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)


def flujo(backend: StateBackend, clock: FakeClock | None = None, /, **pipelines: Node | Pipeline) -> Flujo:
    """A runner of `parent` in a registry of all of these."""
    registry = PipelineRegistry()
    for name, pipeline in pipelines.items():
        registry.register(pipeline, name=name, version="1.0.0")
    return Flujo(registry=registry, pipeline_name="parent", state_backend=backend, clock=clock)


def of(runner: Flujo, name: str) -> Flujo:
    """The same for another pipeline."""
    return Flujo(registry=runner.registry, pipeline_name=name, state_backend=runner.backend, clock=runner.clock)


def counting(ledger: Ledger) -> Any:
    @step
    async def double(value: int) -> int:
        ledger.add("double")
        return 2 * value

    return double


@step
async def add_one(value: int) -> int:
    return value + 1


@step
async def minus_one(value: int) -> int:
    return value - 1


@step
async def broken(value: int) -> int:
    raise ValueError("The total is wrong.")


CHILD = Step.run_pipeline("bill", pipeline="child", start_on=lambda value: value + 10)


async def child_of(runner: Flujo, run_id: str = "p", path: str = "bill") -> str:
    """The id of the child that the run waits for."""
    (wait,) = [wait for wait in (await document_of(runner.backend, run_id)).open_waits() if wait.path == path]
    return wait.name


async def work(runner: Flujo, name: str, run_id: str) -> None:
    await of(runner, name).continue_async(run_id)


async def queue_parent(runner: Flujo) -> None:
    entry = runner.registry.get("parent")
    new = new_run(entry, 1, {"run_id": "p"})
    await runner.backend.transact("p", transitions.start(new, now=runner.clock.now(), claim=None, facts={}))


class Between(FaultyBackend):
    """A backend that lets `other` happen once, before the first write to a run that `matches` names."""

    def __init__(self, inner: StateBackend, matches: Callable[[str, str], bool], other: Callable[[], Any]) -> None:
        super().__init__(inner)
        self.matches = matches
        self.other: Callable[[], Any] | None = other

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        if self.other is not None and self.matches(run_id, getattr(transition, "__qualname__", "")):
            other, self.other = self.other, None
            await other()
        return await super().transact(run_id, transition, known=known)
