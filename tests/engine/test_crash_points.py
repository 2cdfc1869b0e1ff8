"""A crash before and after every write, on every backend: the recovered run is the uncrashed one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flujo import Pipeline, PipelineContext, Reject, Step, StepContext, step
from flujo.errors import BackendError, StepTimeout
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import Crashed, FakeClock, Fault, FaultyBackend, Scenario, crash_points
from flujo.verify import verify_chain

from tests.engine.making import Ledger, document_of, head_of, kinds_of, order_pipeline, runner_of
from tests.engine.stores import Store, emptied

pytestmark = pytest.mark.slow


class Bill(PipelineContext):
    lines: list[str] = []
    total: int = 0


def pipeline_of(effects: Counter[str]) -> Pipeline:
    """Steps, retries, a gate with a route for rejections, and a context that grows."""

    @step
    async def price(order: str, context: Bill) -> int:
        effects["price"] += 1
        context.lines.append(order)
        context.total += len(order)
        return len(order)

    @step(retries=2, backoff=timedelta(0))
    async def reserve(price: int, context: Bill, ctx: StepContext) -> int:
        effects["reserve"] += 1
        context.lines.append("reserved")
        if ctx.attempt == 1:
            raise ConnectionError("down")
        return price

    @step
    def pack(answer: str, context: Bill) -> str:
        effects["pack"] += 1
        context.lines.append("packed")
        return f"{answer}, packed"

    @step
    async def apologise(price: int, context: Bill) -> str:
        effects["apologise"] += 1
        context.lines.append("sorry")
        return "sorry"

    @step
    async def refund(text: str) -> str:
        effects["refund"] += 1
        return f"{text}, refunded"

    gate = Step.human_in_the_loop("approve", on_reject=apologise >> refund)
    return price >> reserve >> gate >> pack


def scenario_of(effects: Counter[str], answer: Any) -> Scenario:
    async def scenario(backend: StateBackend) -> Any:
        runner = runner_of(pipeline_of(effects), backend)
        result = await runner.run_async("lamp", run_id="r")
        if result.status is RunStatus.PAUSED:
            result = await runner.resume_async("r", answer, actor="ana")
        document = await document_of(backend, "r")
        return {
            "result": (result.status, result.outcome, result.output),
            "context": result.final_pipeline_context,
            "steps": [(row.path, row.output, row.context_changes) for row in document.checkpoints()],
            "decisions": (await kinds_of(backend, "r")).count("decision.recorded"),
            "position": (await head_of(backend, "r")).step_index,
        }

    return scenario


@pytest.mark.parametrize("answer", ["yes", Reject("no")], ids=["approved", "rejected"])
async def test_crash_at_any_write_changes_nothing_but_attempts(store: Store, answer: Any) -> None:
    effects: Counter[str] = Counter()
    seen = 0
    fresh = _empty_stores(store)
    async for point in crash_points(fresh, scenario_of(effects, answer)):
        seen += 1
        assert point.result == point.expected, str(point)
        events = list(await point.backend.events("r"))
        verify_chain(events, await head_of(point.backend, "r"))
        attempts = (await document_of(point.backend, "r")).attempts()
        assert len({(a.path, a.number) for a in attempts}) == len(attempts)
    assert seen >= 2 * 7
    assert effects["pack"] == 0 or effects["apologise"] == 0


def _empty_stores(store: Store) -> Any:
    """A new store for each crash; the databases are emptied instead."""
    from tests.engine.stores import make_store

    if store.name in ("django", "postgres"):
        return lambda: emptied(store)
    numbers = iter(range(1_000))
    folder = getattr(store.backend, "folder", None) or getattr(store.backend, "path", None)

    def make() -> StateBackend:
        if folder is None:
            return make_store(store.name, None).backend  # type: ignore[arg-type]  # memory needs no folder
        place = folder.parent / f"crash{next(numbers)}"
        place.mkdir()
        another = make_store(store.name, place)
        store.opened.append(another.backend)
        return another.backend

    return make


async def test_save_error_stops_the_run(backend: StateBackend) -> None:
    """At every write: the error is raised, nothing behind it runs, and the same call again goes on."""
    whole = FaultyBackend(backend)
    await runner_of(order_pipeline(Ledger()), whole).run_async("lamp", run_id="whole")
    for number in range(1, len(whole.writes) + 1):
        ledger, run_id = Ledger(), f"r{number}"
        failing = FaultyBackend(backend, Fault(number, "before", BackendError("no space")))
        runner = runner_of(order_pipeline(ledger), failing)

        with pytest.raises(BackendError, match="no space"):
            await runner.run_async("lamp", run_id=run_id)

        assert ledger["price"] == (0 if number == 1 else 1)
        result = await runner.run_async("lamp", run_id=run_id)
        assert (result.status, ledger["ship"]) == (RunStatus.PAUSED, 0)


async def test_write_that_was_kept_though_it_failed_is_not_done_twice(backend: StateBackend) -> None:
    ledger = Ledger()
    failing = FaultyBackend(backend, Fault(2, "after", BackendError("the line went dead")))
    runner = runner_of(order_pipeline(ledger), failing)

    with pytest.raises(BackendError):
        await runner.run_async("lamp", run_id="r")
    result = await runner.run_async("lamp", run_id="r")

    assert (result.status, ledger) == (RunStatus.PAUSED, {"price": 1})


# The fakes are tested like anything else


async def test_faulty_backend_fails_before_and_after_its_write(backend: StateBackend, ledger: Ledger) -> None:
    for when, kept in (("before", False), ("after", True)):
        run_id = f"r-{when}"
        faulty = FaultyBackend(backend, Fault(1, when))  # type: ignore[arg-type]  # the two words
        with pytest.raises(Crashed):
            await runner_of(order_pipeline(ledger), faulty).run_async("lamp", run_id=run_id)
        assert (await backend.load(run_id) is not None) is kept
        assert faulty.writes == [("run.started", "run.claimed")]
    assert not ledger


async def test_fake_clock_jumps_to_the_nearest_end() -> None:
    clock, order = FakeClock(), []

    async def wait(seconds: float) -> None:
        await clock.sleep(seconds)
        order.append((seconds, (clock.now() - start).total_seconds()))

    start = clock.now()
    await asyncio.gather(wait(30), wait(10), wait(20), wait(10))

    assert order == [(10, 10), (10, 10), (20, 20), (30, 30)]


async def test_fake_clock_without_auto_waits_for_the_test() -> None:
    clock = FakeClock(auto=False)
    waits = asyncio.ensure_future(clock.sleep(60))
    for _ in range(3):
        await asyncio.sleep(0)
    clock.advance(59)
    await asyncio.sleep(0.01)
    assert not waits.done()
    clock.advance(1)
    await asyncio.wait_for(waits, 5)


async def test_fake_clock_repeats_itself() -> None:
    one, two = FakeClock(seed=3), FakeClock(seed=3)
    assert [one.random() for _ in range(5)] == [two.random() for _ in range(5)]
    assert [one.new_id(), one.new_id()] == ["run-1", "run-2"]


async def test_heartbeat_does_not_move_a_fake_clock() -> None:
    clock = FakeClock()

    @step
    async def long(value: int) -> int:
        await asyncio.sleep(0.05)
        return value

    from flujo.state.backends.memory import InMemoryBackend

    before = clock.now()
    await runner_of(long, InMemoryBackend(clock=clock), clock=clock).run_async(1)
    assert clock.now() == before


async def test_crash_points_find_a_pipeline_that_does_not_recover() -> None:
    """A step that counts on its process's memory gives another result after a crash, and is found."""
    from flujo.state.backends.memory import InMemoryBackend

    remembered: list[int] = []

    @step
    async def count(value: int) -> int:
        remembered.append(value)
        return len(remembered)

    async def scenario(backend: StateBackend) -> Any:
        remembered.clear() if await backend.load("r") is None else None
        return (await runner_of(count, backend).run_async(1, run_id="r")).output

    outcomes = [point.result == point.expected async for point in crash_points(InMemoryBackend, scenario)]
    assert outcomes.count(False) == 1


def test_errors_and_faults_can_be_told_apart() -> None:
    assert not issubclass(Crashed, Exception)
    assert Fault(1, "before") != Fault(1, "after")
    assert dataclasses.is_dataclass(Fault)
    assert issubclass(StepTimeout, Exception)
