"""What comes from outside while a sibling branch works: taken up at once, not when the sibling has ended."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from flujo import Approve, Flujo, PipelineRegistry, Step, step, watch
from flujo.pipeline import Node
from flujo.result import PipelineResult
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock

from tests.engine.making import kinds_of
from tests.engine.stores import Store

SOON = 10
DAY = timedelta(days=1)


class Beside:
    """A pipeline of a branch that works until `end` is set and one that waits, then notes what it got."""

    def __init__(self, waiting: Node, backend: StateBackend, clock: FakeClock | None = None) -> None:
        self.works, self.end, self.got = asyncio.Event(), asyncio.Event(), asyncio.Queue[Any]()

        @step
        async def long(value: Any) -> str:
            self.works.set()
            await self.end.wait()
            return "long"

        @step
        async def note(value: Any) -> Any:
            self.got.put_nowait(value)
            return value

        @step
        async def instead(value: Any) -> str:
            return "instead"

        registry = PipelineRegistry()
        waits = Step.fallback("tried", waiting, instead) >> note
        both = Step.parallel("both", {"long": long, "waits": waits})
        registry.register(both, name="demo", version="1.0.0")
        self.backend, self.clock = backend, clock or FakeClock()
        self.registry = registry
        self.runner = self.on(backend)

    def on(self, backend: StateBackend) -> Flujo:
        return Flujo(registry=self.registry, pipeline_name="demo", state_backend=backend, clock=self.clock)

    async def begin(self) -> None:
        self.run = asyncio.ensure_future(_awaited(self.runner.run_async(1, run_id="r")))
        await self.works.wait()
        await self.recorded("human_task.raised", "signal.awaited")

    async def recorded(self, *kinds: str) -> None:
        """Wait for an event of one of these kinds."""
        async with asyncio.timeout(SOON):
            while not set(kinds) & set(await kinds_of(self.backend, "r")):  # noqa: ASYNC110  # the store tells of nothing
                await asyncio.sleep(0.005)

    async def given(self) -> Any:
        """What the waiting branch went on with, while the other one still works."""
        async with asyncio.timeout(SOON):
            return await self.got.get()

    async def ended(self) -> PipelineResult:
        self.end.set()
        async with asyncio.timeout(SOON):
            result: PipelineResult = await self.run
        assert result.status is RunStatus.COMPLETED, result.error
        return result


async def _awaited(handle: Any) -> Any:
    return await handle


GATE = Step.human_in_the_loop("gate")


async def test_answer_is_taken_up_while_a_sibling_works(backend: StateBackend) -> None:
    beside = Beside(GATE, backend)
    await beside.begin()

    assert (await beside.runner.resume_async("r", "yes")).status is RunStatus.RUNNING

    assert await beside.given() == "yes"
    assert (await beside.ended()).output == {"long": "long", "waits": "yes"}


async def test_answer_from_another_process_is_taken_up_while_a_sibling_works(
    durable: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watch, "hint", lambda run_id: None)
    beside = Beside(GATE, durable.backend)
    await beside.begin()

    await beside.on(durable.reopen()).resume_async("r", "yes")

    assert await beside.given() == "yes"
    await beside.ended()


async def test_signal_is_taken_up_while_a_sibling_works(backend: StateBackend) -> None:
    beside = Beside(Step.wait_for_signal("paid", int), backend)
    await beside.begin()

    await beside.runner.signal_async("r", "paid", 7)

    assert await beside.given() == 7
    assert (await beside.ended()).output == {"long": "long", "waits": 7}


@pytest.mark.parametrize(
    ("on_deadline", "given"), [("fail", "instead"), (Approve("default"), "default")], ids=["fail", "approve"]
)
async def test_deadline_passes_while_a_sibling_works(backend: StateBackend, on_deadline: Any, given: str) -> None:
    gate = Step.human_in_the_loop("gate", deadline=DAY, on_deadline=on_deadline, reminders=[DAY / 2])
    beside = Beside(gate, backend)
    await beside.begin()

    beside.clock.advance(DAY.total_seconds() / 2)
    await beside.recorded("human_task.reminded")
    beside.clock.advance(DAY.total_seconds() / 2)

    assert await beside.given() == given
    assert (await beside.ended()).output == {"long": "long", "waits": given}


async def test_deadline_that_ends_the_run_ends_the_sibling_that_works(backend: StateBackend) -> None:
    beside = Beside(Step.human_in_the_loop("gate", deadline=DAY, on_deadline="reject"), backend)
    await beside.begin()

    beside.clock.advance(DAY.total_seconds())

    async with asyncio.timeout(SOON):
        result = await beside.run
    assert (result.status, result.outcome) == (RunStatus.CANCELLED, "expired")
