"""Control flow under attack: nesting, races between branches, and functions of the author's that go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Step, step, transitions
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock

from tests.engine.making import document_of, runner_of
from tests.engine.stores import Store


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateBackend]:
    """A store that writes at once, and one whose writes let other branches work meanwhile."""
    backend = InMemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "runs.db")
    yield backend
    asyncio.run(backend.close())


@step
async def double(number: int) -> int:
    return number * 2


@step
async def fail(number: int) -> int:
    raise ValueError(f"cannot take {number}")


async def test_a_question_in_a_map_in_a_map_can_be_answered(built_in: Store) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner_of(Step.map_over("outer", Step.map_over("inner", ask)), built_in.backend)
    paused = await flujo.run_async([[1]], run_id="r")
    assert [pause.path for pause in paused.pauses] == ["outer[0]/inner[0]/ask"]
    assert (await flujo.resume_async("r", 5)).output == [[5]]


async def test_a_signal_that_comes_while_the_step_before_its_wait_runs_is_not_lost(backend: StateBackend) -> None:
    @step
    async def signalled(number: int) -> int:
        await flujo.signal_async("r", "paid", 7)
        return number

    flujo = runner_of(signalled >> Step.wait_for_signal("paid", int) >> double, backend)
    result = await flujo.run_async(1, run_id="r")
    assert (result.status, result.output) == (RunStatus.COMPLETED, 14)


async def test_one_signal_ends_one_wait_though_two_branches_wait_for_it(backend: StateBackend) -> None:
    waits = {name: Step.wait_for_signal("paid", int) for name in ("a", "b")}
    flujo = runner_of(Step.parallel("both", waits), backend)
    await flujo.run_async(1, run_id="r")
    assert (await flujo.signal_async("r", "paid", 7)).status is RunStatus.PAUSED
    final = await flujo.signal_async("r", "paid", 8)
    assert sorted(final.output.values()) == [7, 8]
    taken = [signal.taken_by for signal in (await document_of(backend, "r")).rows[transitions.steps.Signal].values()]
    assert sorted(taken) == ["both/a", "both/b"]


async def test_a_signal_in_time_counts_though_the_worker_comes_late() -> None:
    clock = FakeClock()
    backend = InMemoryBackend(clock=clock)
    flujo = runner_of(Step.wait_for_signal("paid", int, timeout=timedelta(hours=1)), backend, clock=clock)
    facts: dict[str, Any] = {"actor": "", "claim": None, "facts": {}}
    for minutes, number in ((59, 7), (2, 8)):
        if number == 7:
            await flujo.run_async(1, run_id="r")
        clock.advance(60 * minutes)
        await backend.transact(
            "r", transitions.receive("paid", str(number), message_id=f"m{number}", now=clock.now(), **facts)
        )
    final = await flujo.continue_async("r")
    assert (final.status, final.output) == (RunStatus.COMPLETED, 7)


@pytest.mark.parametrize("at_once", [1, 3])
async def test_what_a_caught_failure_leaves_behind_is_waited_for_no_longer(backend: StateBackend, at_once: int) -> None:
    clock = FakeClock()
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    failing = Step.parallel(
        "failing",
        {
            "bad": Step.sleep("nap", timedelta(minutes=1)) >> fail,
            "nap": Step.sleep("nap", timedelta(hours=1)),
            "paid": Step.wait_for_signal("paid", timeout=timedelta(hours=1)),
            "ask": ask,
            "last": Step.sleep("nap", timedelta(hours=2)),
        },
        max_concurrency=at_once,
    )
    flujo = runner_of(Step.parallel("both", {"a": failing, "b": ask}, on_error="collect"), backend, clock=clock)
    await flujo.run_async(1, run_id="r")
    clock.advance(60)
    paused = await flujo.continue_async("r")
    document = await document_of(backend, "r")
    assert [pause.path for pause in paused.pauses] == ["both/b"]
    assert (document.open_waits(), document.open_attempts()) == ([], [])
    clock.advance(10_000)
    assert await backend.ready(clock.now()) == []
    final = await flujo.resume_async("r", 5)
    assert final.output == {"a": {"error": {"type": "ValueError", "message": "cannot take 1"}}, "b": {"output": 5}}


async def test_a_caught_failure_stands_though_its_cause_has_gone(backend: StateBackend) -> None:
    asked: list[int] = []

    def choose(number: int) -> str:
        asked.append(number)
        if len(asked) == 1:
            raise ConnectionError("no answer")
        return "double"

    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner_of(Step.fallback("safe", Step.branch_on("way", choose, {"double": double}), double >> ask), backend)
    assert (await flujo.run_async(1, run_id="r")).status is RunStatus.PAUSED
    assert (await flujo.resume_async("r", 9)).output == 9
    assert asked == [1]
