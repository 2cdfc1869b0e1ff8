"""What the tests of deadlines and reminders share: a gate whose time runs out, and the steps around it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flujo import Flujo, Pipeline, PipelineResult, Step, step
from flujo.pipeline import Node
from flujo.records import HumanTask
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock
from pydantic import BaseModel

from tests.engine.making import document_of, head_of, runner_of

DAY = timedelta(days=1)
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


@step
async def ship(answer: Any) -> str:
    return f"shipped {answer}"


@step
async def apologise(order: Any) -> str:
    return f"sorry, {order}"


@step
async def chase(order: Any) -> str:
    return f"chased {order}"


class Terms(BaseModel):
    limit: int


def gate(**options: Any) -> Step | Node:
    return Step.human_in_the_loop("approve", **{"deadline": DAY, **options})


def flujo_of(pipeline: Pipeline | Node, backend: StateBackend, clock: FakeClock) -> Flujo:
    return runner_of(pipeline, backend, clock=clock)


async def late(pipeline: Pipeline | Node, backend: StateBackend, clock: FakeClock) -> PipelineResult:
    """The result of a run whose question nobody answered in time."""
    flujo = flujo_of(pipeline, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    assert (await head_of(backend, "r")).wake_at == clock.now() + DAY
    assert clock.now() + DAY in [pause.due_at for pause in paused.pauses]
    clock.advance((DAY - timedelta(seconds=1)).total_seconds())
    assert (await flujo.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    clock.advance(1)
    return await flujo.run_async("lamp", run_id="r")


async def task_of(backend: StateBackend, path: str = "approve") -> HumanTask:
    task = (await document_of(backend, "r")).human_task(path)
    assert task is not None
    return task
