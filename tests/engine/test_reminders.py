"""Reminders and the escalation of human tasks: each is recorded once, whoever notices it, and however late."""

from __future__ import annotations

from typing import Any

from flujo import Pipeline, Step
from flujo.deadlines import next_alarm
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import Outcome, RunStatus
from flujo.testing import FakeClock, crash_points

from tests.engine.asking import DAY, apologise, chase, flujo_of, gate, ship, task_of
from tests.engine.making import document_of, head_of, kinds_of, runner_of


async def test_reminders_and_the_escalation_are_recorded_once_each(backend: StateBackend) -> None:
    clock = FakeClock()
    asking = gate(
        deadline=30 * DAY,
        on_deadline="reject",
        reminders=[20 * DAY, 10 * DAY],
        candidates=["ana"],
        escalate_after=25 * DAY,
        escalate_to=["group:heads", "ana"],
    )
    flujo = flujo_of(asking >> ship, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    seen: list[tuple[int, list[str]]] = []
    for day in range(1, 30):
        clock.advance(DAY.total_seconds())
        before = len(await kinds_of(backend, "r"))
        if [head.run_id for head in await backend.ready(clock.now())] if backend.lists_runs else True:
            await flujo.run_async("lamp", run_id="r")
        seen += [(day, new)] if (new := (await kinds_of(backend, "r"))[before:]) else []

    assert seen == [(10, ["human_task.reminded"]), (20, ["human_task.reminded"]), (25, ["human_task.escalated"])]
    task = await task_of(backend)
    assert (task.candidates, task.generation) == ('["ana","group:heads"]', paused.pauses[0].generation)
    assert (task.reminders, next_alarm(task)) == ("", task.due_at)
    assert task.digest == paused.pauses[0].digest
    assert (await flujo.resume_async(paused, "yes")).output == "shipped yes", "a form opened before stays valid"


async def test_reminders_missed_in_a_downtime_come_as_one(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(deadline=30 * DAY, reminders=[n * DAY for n in (1, 2, 3, 9)]) >> ship, backend, clock)
    await flujo.run_async("lamp", run_id="r")
    clock.advance(5 * DAY.total_seconds())
    await flujo.run_async("lamp", run_id="r")
    await flujo.run_async("lamp", run_id="r")
    assert (await kinds_of(backend, "r")).count("human_task.reminded") == 1
    assert (await head_of(backend, "r")).wake_at == clock.now() + 4 * DAY


async def test_a_request_that_has_expired_reminds_nobody(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(deadline=3 * DAY, on_deadline="reject", reminders=[DAY, 2 * DAY]), backend, clock)
    await flujo.run_async("lamp", run_id="r")
    clock.advance(40 * DAY.total_seconds())
    assert (await flujo.run_async("lamp", run_id="r")).outcome is Outcome.EXPIRED
    assert "human_task.reminded" not in await kinds_of(backend, "r")


async def test_an_answered_request_reminds_nobody(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(reminders=[DAY / 2]) >> Step.human_in_the_loop("more") >> ship, backend, clock)
    await flujo.run_async("lamp", run_id="r")
    await flujo.resume_async("r", "yes")
    clock.advance(10 * DAY.total_seconds())
    assert (await head_of(backend, "r")).wake_at is None
    assert (await flujo.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    assert not {"human_task.reminded", "human_task.expired"} & set(await kinds_of(backend, "r"))


async def test_a_timer_beside_a_request_keeps_its_own_time(backend: StateBackend) -> None:
    clock = FakeClock()
    both = Step.parallel("both", {"a": gate(deadline=9 * DAY, reminders=[DAY]), "b": Step.sleep("nap", 2 * DAY)})
    flujo = flujo_of(both, backend, clock)
    start = clock.now()
    await flujo.run_async("lamp", run_id="r")
    for days, due in ((1, 2), (1, 9)):
        assert (await head_of(backend, "r")).wake_at == clock.now() + days * DAY
        clock.advance(DAY.total_seconds() * days)
        await flujo.run_async("lamp", run_id="r")
        assert (await head_of(backend, "r")).wake_at == start + due * DAY


# Crashes


def month() -> Pipeline:
    ask = Step.human_in_the_loop(
        "ask",
        deadline=30 * DAY,
        on_deadline=chase >> apologise,
        reminders=[10 * DAY, 20 * DAY],
        candidates=["ana"],
        escalate_after=25 * DAY,
        escalate_to=["ben"],
    )
    return Step.parallel("both", {"a": Step.fallback("f", gate(), chase), "b": ask}) >> ship


async def test_a_crash_at_any_write_keeps_deadlines_reminders_and_the_escalation() -> None:
    async def scenario(backend: StateBackend) -> Any:
        clock = FakeClock()
        flujo = runner_of(month(), backend, clock=clock)
        result = await flujo.run_async("lamp", run_id="r")
        while result.status is RunStatus.PAUSED:
            wake_at = (await head_of(backend, "r")).wake_at
            assert wake_at is not None
            clock.advance(max((wake_at - clock.now()).total_seconds(), 0))
            result = await flujo.run_async("lamp", run_id="r")
        document = await document_of(backend, "r")
        facts = sorted(kind for kind in await kinds_of(backend, "r") if kind.startswith("human_task"))
        tasks = sorted((task.path, task.status, task.candidates) for task in document.human_tasks())
        return result.status, result.outcome, result.output, facts, tasks

    seen = 0
    async for point in crash_points(InMemoryBackend, scenario):
        seen += 1
        assert point.expected[2] == "shipped {'a': 'chased lamp', 'b': 'sorry, chased lamp'}"
        assert point.result == point.expected, str(point)
    assert seen > 20
