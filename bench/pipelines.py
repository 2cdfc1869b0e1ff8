"""The pipelines that are measured, and their runners."""

from __future__ import annotations

import itertools
import time

from flujo import Flujo, Pipeline, PipelineContext, PipelineRegistry, Step, step
from flujo.pipeline import Node
from flujo.state.base import StateBackend

_ids = itertools.count()


class Notes(PipelineContext):
    """A context whose size a measurement chooses."""

    text: str = ""
    count: int = 0


async def _add(value: int) -> int:
    return value + 1


def _add_in_thread(value: int) -> int:
    return value + 1


async def _add_and_look(value: int, context: Notes) -> int:
    return value + 1


def adding(count: int, *, kind: str = "async") -> Pipeline:
    """`count` steps that add one: "async", "sync", or "context" for steps that take the context and leave it."""
    function = {"async": _add, "sync": _add_in_thread, "context": _add_and_look}[kind]
    return Pipeline([step(name=f"step_{number}")(function) for number in range(count)])


def noting(count: int, moments: list[float]) -> Pipeline:
    """`count` steps that note when they begin."""

    async def note(value: int) -> int:
        moments.append(time.perf_counter())
        return value + 1

    return Pipeline([step(name=f"step_{number}")(note) for number in range(count)])


def asking() -> Pipeline:
    """A pipeline that asks at once and has one step behind the gate."""
    return Step.human_in_the_loop("approve", message_for_user="Go on?") >> step(name="after")(_after)


async def _after(answer: str) -> str:
    return answer


def runner(pipeline: Pipeline | Node, backend: StateBackend) -> Flujo:
    """A fresh runner of a pipeline on a backend."""
    registry = PipelineRegistry()
    registry.register(pipeline, name="bench", version="1.0.0", context_model=Notes)
    return Flujo(registry=registry, pipeline_name="bench", pipeline_version="1.0.0", state_backend=backend)


def new_id() -> str:
    """A run id that no other measurement in this process has."""
    return f"run-{next(_ids)}"


async def seconds_of(runner: Flujo, *, text: str = "", run_id: str = "") -> float:
    """How long one run takes from its start to its result."""
    began = time.perf_counter()
    result = await runner.run_async(0, initial_context_data={"run_id": run_id or new_id(), "text": text})
    seconds = time.perf_counter() - began
    assert result.status == "completed", result.error
    return seconds
