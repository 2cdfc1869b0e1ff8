"""Timers and signals: a waiting run holds nothing, and what happened stays so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineRegistry, StateBackend, Step, step
from flujo.errors import InvalidInput, RunFinished
from flujo.pipeline import Node
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.status import EventKind, RunStatus, Wait
from flujo.testing import FakeClock
from pydantic import BaseModel


class Payment(BaseModel):
    amount: int


@step
async def one(number: int) -> int:
    return number + 1


@step
async def amount(payment: Payment) -> int:
    return payment.amount


@step
async def two(number: int) -> int:
    return number + 1


@step
async def none(number: int) -> int:
    return 0


@pytest.fixture(params=["memory", "file", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Any) -> StateBackend:
    return {
        "memory": InMemoryBackend,
        "file": lambda: FileBackend(tmp_path / "runs"),
        "sqlite": lambda: SQLiteBackend(tmp_path / "runs.db"),
    }[request.param]()


def runner(backend: StateBackend, clock: FakeClock, pipeline: Node | Pipeline) -> Flujo:
    registry = PipelineRegistry()
    registry.register(pipeline, name="p", version="1.0.0")
    return Flujo(registry=registry, pipeline_name="p", state_backend=backend, clock=clock)


async def test_a_thirty_day_sleep_takes_no_time_and_no_process(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = runner(backend, clock, one >> Step.sleep("month", timedelta(days=30)) >> two)
    paused = await flujo.run_async(1, run_id="r")
    assert paused.status is RunStatus.PAUSED
    assert await backend.ready(clock.now()) == []
    clock.advance(timedelta(days=29).total_seconds())
    assert (await flujo.run_async(1, run_id="r")).status is RunStatus.PAUSED
    clock.advance(timedelta(days=1).total_seconds())
    assert [head.run_id for head in await backend.ready(clock.now())] == ["r"]
    assert (await flujo.continue_async("r")).output == 3


async def test_a_timer_in_the_past_goes_on_at_once(backend: StateBackend) -> None:
    then, no_time = Step.sleep_until("then", datetime(2020, 1, 1, tzinfo=UTC)), Step.sleep("no time", timedelta(0))
    flujo = runner(backend, FakeClock(), then >> one >> no_time >> two)

    assert (await flujo.run_async(1, run_id="r")).output == 3

    fired = [event.path for event in await backend.events("r") if event.kind is EventKind.TIMER_FIRED]
    assert fired == ["then", "no time"]


async def test_a_timer_whose_function_gives_no_time_fails_the_run(backend: StateBackend) -> None:
    without_zone = datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    for given, said in ((5, "5 is no datetime"), (without_zone, "has no time zone")):
        timer = Step.sleep_until("then", lambda _, it=given: it)
        failed = await runner(backend, FakeClock(), timer).run_async(1, run_id=type(given).__name__)
        assert said in str(failed.error)


async def test_a_signal_ends_its_wait_and_its_data_is_the_output(backend: StateBackend) -> None:
    flujo = runner(backend, FakeClock(), one >> Step.wait_for_signal("paid", Payment) >> amount)
    paused = await flujo.run_async(1, run_id="r")
    document = await backend.load("r")
    assert paused.status is RunStatus.PAUSED
    assert document is not None
    assert document.head is not None
    assert document.head.wait is Wait.SIGNAL
    assert (await flujo.signal_async("r", "paid", {"amount": 7})).output == 7


async def test_a_signal_that_does_not_fit_leaves_the_wait_untouched(backend: StateBackend) -> None:
    flujo = runner(backend, FakeClock(), Step.wait_for_signal("paid", Payment) >> amount)
    await flujo.run_async(1, run_id="r")
    with pytest.raises(InvalidInput):
        await flujo.signal_async("r", "paid", {"amount": "much"})
    assert (await flujo.signal_async("r", "paid", {"amount": 7})).output == 7


async def test_a_signal_may_come_before_its_wait(backend: StateBackend) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner(backend, FakeClock(), ask >> Step.wait_for_signal("paid", Payment) >> amount)
    await flujo.run_async(1, run_id="r")
    await flujo.signal_async("r", "paid", {"amount": 9})
    assert (await flujo.resume_async("r", 3)).output == 9


async def test_the_same_message_counts_once(backend: StateBackend) -> None:
    pair = Step.wait_for_signal("tick", int) >> one >> Step.wait_for_signal("tock", int)
    flujo = runner(backend, FakeClock(), pair)
    await flujo.run_async(1, run_id="r")
    for _ in range(2):
        await flujo.signal_async("r", "tick", 1, message_id="m1")
    document = await backend.load("r")
    assert document is not None
    assert [signal.taken_by for signal in document.rows[type(document.signal("m1"))].values()] == ["tick"]


async def test_a_signal_that_comes_too_late_does_not_undo_its_timeout(backend: StateBackend) -> None:
    clock = FakeClock()
    wait = Step.wait_for_signal("paid", Payment, timeout=timedelta(days=3))
    flujo = runner(backend, clock, Step.fallback("payment", wait >> amount, none) >> one)
    await flujo.run_async(1, run_id="r")
    clock.advance(timedelta(days=3).total_seconds())
    assert (await flujo.continue_async("r")).output == 1
    with pytest.raises(RunFinished):
        await flujo.signal_async("r", "paid", {"amount": 7})


async def test_a_timeout_that_nothing_catches_fails_the_run(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = runner(backend, clock, Step.wait_for_signal("paid", timeout=timedelta(hours=1)))
    await flujo.run_async(1, run_id="r")
    clock.advance(timedelta(hours=1).total_seconds())
    failed = await flujo.continue_async("r")
    assert failed.status is RunStatus.FAILED
    assert "SignalTimeout" in str(failed.error)


async def test_branches_wait_for_different_things_at_once(backend: StateBackend) -> None:
    clock = FakeClock()
    both = Step.parallel(
        "both",
        {
            "paid": Step.wait_for_signal("paid", Payment) >> amount,
            "later": Step.sleep("nap", timedelta(hours=1)),
            "asked": Step.human_in_the_loop("ask", message_for_user="?", input_schema=int),
        },
    )
    flujo = runner(backend, clock, both)
    paused = await flujo.run_async(1, run_id="r")
    assert [pause.path for pause in paused.pauses] == ["both/asked"]
    await flujo.signal_async("r", "paid", {"amount": 5})
    clock.advance(timedelta(hours=1).total_seconds())
    assert (await flujo.continue_async("r")).status is RunStatus.PAUSED
    assert (await flujo.resume_async("r", 8)).output == {"paid": 5, "later": 1, "asked": 8}


async def test_a_cancelled_run_waits_for_nothing(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = runner(backend, clock, Step.sleep("nap", timedelta(hours=1)) >> one)
    await flujo.run_async(1, run_id="r")
    await flujo.cancel_async("r")
    clock.advance(timedelta(hours=1).total_seconds())
    assert await backend.ready(clock.now()) == []
