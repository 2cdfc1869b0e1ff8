"""Deadlines of human tasks: the time runs out once, as a recorded fact, and the run takes the declared way."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flujo import Approve, Pipeline, Step, step, transitions
from flujo.errors import HumanTaskExpired, PipelineDefinitionError
from flujo.state.base import StateBackend
from flujo.status import DecisionOutcome, Outcome, RunStatus, TaskStatus
from flujo.testing import FakeClock

from tests.engine.asking import DAY, EPOCH, Terms, apologise, chase, flujo_of, gate, late, ship, task_of
from tests.engine.making import decision_of, document_of, head_of, kinds_of

WAYS: list[Any] = [
    pytest.param({}, (RunStatus.FAILED, Outcome.EXPIRED, None), "the run fails", id="fail"),
    pytest.param(
        {"on_deadline": "reject"}, (RunStatus.CANCELLED, Outcome.EXPIRED, None), "reject: stop the run", id="reject"
    ),
    pytest.param(
        {"on_deadline": "reject", "on_reject": apologise},
        (RunStatus.COMPLETED, Outcome.EXPIRED, "sorry, lamp"),
        "reject: continue with apologise, then end the run as rejected",
        id="reject by its steps",
    ),
    pytest.param(
        {"on_deadline": chase, "on_reject": apologise},
        (RunStatus.COMPLETED, Outcome.EXPIRED, "chased lamp"),
        "continue with chase, then end the run as expired",
        id="steps",
    ),
    pytest.param(
        {"on_deadline": Approve(), "input_schema": bool},
        (RunStatus.COMPLETED, None, "shipped True"),
        "approve: continue with ship",
        id="approve",
    ),
    pytest.param(
        {"on_deadline": Approve({"limit": 0}), "input_schema": Terms},
        (RunStatus.COMPLETED, None, "shipped {'limit': 0}"),
        'answer {"limit":0}: continue with ship',
        id="answer by default",
    ),
]


@pytest.mark.parametrize(("options", "ends", "words"), WAYS)
async def test_a_deadline_that_passes_takes_the_declared_way(
    options: dict[str, Any], ends: tuple[RunStatus, Outcome | None, Any], words: str, backend: StateBackend
) -> None:
    clock = FakeClock()
    result = await late(gate(**options) >> ship, backend, clock)

    assert (result.status, result.outcome, result.output) == ends
    task = await task_of(backend)
    assert (task.status, task.closed_at, task.if_expired) == (TaskStatus.EXPIRED, clock.now(), words)
    assert (await kinds_of(backend, "r")).count("human_task.expired") == 1
    assert await decision_of(backend) is None


async def test_a_late_answer_is_refused_with_what_was_applied(backend: StateBackend) -> None:
    clock = FakeClock(datetime(2030, 1, 1, 14, 0, tzinfo=UTC))
    flujo = flujo_of(gate(on_deadline="reject") >> ship, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    clock.advance(DAY.total_seconds())
    await flujo.continue_async("r")
    events = await kinds_of(backend, "r")

    for late_answer in (paused, "r"):
        with pytest.raises(HumanTaskExpired, match="the default “reject” was applied on 2 January 2030 at 14:00 UTC"):
            await flujo.resume_async(late_answer, "yes")

    assert await kinds_of(backend, "r") == events


async def test_an_answer_after_the_deadline_is_refused_even_if_nobody_noticed_and_records_it(
    backend: StateBackend,
) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(on_deadline="reject") >> ship, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    clock.advance(DAY.total_seconds())

    with pytest.raises(HumanTaskExpired, match="reject"):
        await flujo.resume_async(paused, "yes", actor="ana")

    assert (await task_of(backend)).status is TaskStatus.EXPIRED
    assert (await kinds_of(backend, "r"))[-2:] == ["human_task.expired", "run.expired"]
    assert "ana" not in {event.actor for event in await backend.events("r")}


async def test_an_answer_a_moment_before_the_deadline_counts(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate() >> ship, backend, clock)
    await flujo.run_async("lamp", run_id="r")
    clock.advance(DAY.total_seconds() - 0.000001)
    assert (await flujo.resume_async("r", "yes")).output == "shipped yes"
    clock.advance(DAY.total_seconds())
    assert (await flujo.run_async("lamp", run_id="r")).output == "shipped yes"


async def test_of_an_answer_and_a_deadline_at_once_exactly_one_wins(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(on_deadline=Approve("late")) >> ship, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    assert paused.pause is not None
    answer = transitions.Answer(
        "approve",
        paused.pause.generation,
        paused.pause.digest,
        DecisionOutcome.APPROVED,
        '"yes"',
        "ana",
        "",
        "test",
        "key",
    )
    before = clock.now()
    clock.advance(DAY.total_seconds())

    async def decide() -> Any:
        """By a server whose clock is behind."""
        return await backend.transact("r", transitions.decide(answer, now=before, claim=None, facts={}))

    outcomes = await asyncio.gather(
        decide(), backend.transact("r", transitions.ring(now=clock.now())), return_exceptions=True
    )
    task = await task_of(backend)
    won = [await decision_of(backend) is not None, task.status is TaskStatus.EXPIRED]
    assert sorted(won) == [False, True]
    refused = [o for o in outcomes if isinstance(o, BaseException)]
    assert all(isinstance(error, HumanTaskExpired) for error in refused)
    assert len(refused) == won[1]
    done = await flujo.run_async("lamp", run_id="r")
    assert done.output == ("shipped yes" if won[0] else "shipped late")


async def test_two_workers_record_a_deadline_once(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(on_deadline="reject") >> ship, backend, clock)
    await flujo.run_async("lamp", run_id="r")
    clock.advance(DAY.total_seconds())
    ring = transitions.ring(now=clock.now())
    batches = await asyncio.gather(*(backend.transact("r", ring) for _ in range(4)))
    assert sum(batch.writes for batch in batches) == 1
    assert (await kinds_of(backend, "r")).count("human_task.expired") == 1


async def test_a_retry_of_a_run_that_failed_by_its_deadline_asks_again(backend: StateBackend) -> None:
    clock = FakeClock()
    failed = await late(gate() >> ship, backend, clock)
    assert failed.error is not None
    assert failed.error.startswith("DeadlinePassed: Nobody answered 'approve' by 2030-01-02 00:00 UTC")
    flujo = flujo_of(gate() >> ship, backend, clock)

    again = await flujo.retry_async("r")

    assert (again.status, again.outcome) == (RunStatus.PAUSED, None)
    assert again.pause is not None
    assert again.pause.due_at == clock.now() + DAY
    assert (await flujo.resume_async(again, "yes")).output == "shipped yes"


async def test_a_deadline_may_be_a_function_of_the_input(backend: StateBackend) -> None:
    clock = FakeClock()

    def by(order: Any) -> datetime:
        return datetime(2030, 1, 1 + len(order), tzinfo=UTC)

    flujo = flujo_of(gate(deadline=by, on_deadline="reject") >> ship, backend, clock)
    paused = await flujo.run_async("lamp", run_id="r")
    assert paused.pause is not None
    assert paused.pause.due_at == datetime(2030, 1, 5, tzinfo=UTC)


async def test_a_deadline_without_a_time_zone_fails_the_run_saying_so(backend: StateBackend) -> None:
    flujo = flujo_of(gate(deadline=lambda order: EPOCH.replace(tzinfo=None)), backend, FakeClock())
    failed = await flujo.run_async("lamp", run_id="r")
    assert (failed.status, "has no time zone" in str(failed.error)) == (RunStatus.FAILED, True)


async def test_an_overdue_request_that_waits_can_still_be_answered(backend: StateBackend) -> None:
    clock = FakeClock()
    flujo = flujo_of(gate(on_deadline="wait") >> ship, backend, clock)
    await flujo.run_async("lamp", run_id="r")
    clock.advance(10 * DAY.total_seconds())
    assert (await flujo.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    assert (await task_of(backend)).if_expired == "it is overdue and stays open"
    assert (await flujo.resume_async("r", "yes")).output == "shipped yes"


# Inside constructs


async def test_one_item_of_a_map_expires_and_the_others_are_answered(backend: StateBackend) -> None:
    clock = FakeClock()

    def by(days: Any) -> datetime:
        return datetime(2030, 1, 1 + days, tzinfo=UTC)

    ask = Step.human_in_the_loop("ask", deadline=by, on_deadline=Approve("default"))
    flujo = flujo_of(Step.map_over("each", ask >> ship), backend, clock)
    await flujo.run_async([1, 2, 3], run_id="r")
    assert (await head_of(backend, "r")).wake_at == by(1)
    await flujo.resume_async("r", "mine", step="each[1]/ask")
    clock.advance(DAY.total_seconds())
    paused = await flujo.run_async([1, 2, 3], run_id="r")
    assert [pause.path for pause in paused.pauses] == ["each[2]/ask"]
    assert (await head_of(backend, "r")).wake_at == by(3)
    clock.advance(2 * DAY.total_seconds())
    done = await flujo.run_async([1, 2, 3], run_id="r")
    assert done.output == ["shipped default", "shipped mine", "shipped default"]


async def test_a_failure_by_deadline_is_caught_by_the_construct_around_it(backend: StateBackend) -> None:
    clock = FakeClock()
    result = await late(Step.fallback("ask or chase", gate() >> ship, chase), backend, clock)
    assert (result.status, result.outcome, result.output) == (RunStatus.COMPLETED, None, "chased lamp")
    assert (await task_of(backend, "ask or chase/primary/approve")).if_expired == "this step fails"


async def test_a_rejection_by_deadline_in_one_branch_ends_the_whole_run(backend: StateBackend) -> None:
    clock = FakeClock()
    both = Step.parallel("both", {"a": gate(on_deadline="reject"), "b": Step.human_in_the_loop("other")})
    ended = await late(both, backend, clock)
    assert (ended.status, ended.outcome, ended.pauses) == (RunStatus.CANCELLED, Outcome.EXPIRED, [])
    assert (await task_of(backend, "both/b")).status is TaskStatus.CLOSED


async def test_a_loop_asks_with_a_new_deadline_each_time(backend: StateBackend) -> None:
    clock = FakeClock()
    ask = Step.human_in_the_loop("ask", input_schema=int, deadline=DAY, on_deadline=Approve(0))
    flujo = flujo_of(Step.loop_until("poll", ask, until=lambda number: number > 0), backend, clock)
    await flujo.run_async(1, run_id="r")
    clock.advance(DAY.total_seconds())
    paused = await flujo.run_async(1, run_id="r")
    assert paused.pause is not None
    assert (paused.pause.path, paused.pause.due_at) == ("poll#2/ask", clock.now() + DAY)
    assert (await flujo.resume_async(paused, 7)).output == 7


async def test_a_deadline_passes_while_a_step_beside_it_is_running(backend: StateBackend) -> None:
    clock = FakeClock(auto=False)
    seen: list[Any] = []

    @step
    async def slow(order: str) -> str:
        for _ in range(500):
            task = (await document_of(backend, "r")).human_task("both/a/approve")
            if task is not None and task.status is not TaskStatus.OPEN:
                seen.append(task.status)
                break
            if task is not None:
                clock.advance(DAY.total_seconds())
            await asyncio.sleep(0.01)  # the heartbeat's turn
        return "slow"

    both = Step.parallel("both", {"a": gate(on_deadline=Approve("default")) >> ship, "b": slow})
    flujo = flujo_of(both, backend, clock)
    done = await flujo.run_async("lamp", run_id="r")
    assert (done.status, done.output) == (RunStatus.COMPLETED, {"a": "shipped default", "b": "slow"})
    assert seen == [TaskStatus.EXPIRED]


async def test_a_run_that_a_deadline_ends_stops_the_step_beside_it(backend: StateBackend) -> None:
    clock = FakeClock(auto=False)

    @step
    async def slow(order: str) -> str:
        for _ in range(500):
            if (await document_of(backend, "r")).human_task("both/a") is not None:
                break
            await asyncio.sleep(0.01)
        clock.advance(DAY.total_seconds())
        await asyncio.Event().wait()
        return "never"

    both = Step.parallel("both", {"a": gate(on_deadline="reject"), "b": slow})
    ended = await flujo_of(both, backend, clock).run_async("lamp", run_id="r")
    assert (ended.status, ended.outcome) == (RunStatus.CANCELLED, Outcome.EXPIRED)


async def test_a_run_to_be_cancelled_is_not_failed_by_a_deadline(backend: StateBackend) -> None:
    clock = FakeClock(auto=False)

    @step
    async def slow(order: str) -> str:
        for _ in range(500):
            if (await document_of(backend, "r")).human_task("both/a") is not None:
                break
            await asyncio.sleep(0.01)
        await backend.transact("r", transitions.cancel(actor="ana", reason="", now=clock.now(), facts={}))
        clock.advance(DAY.total_seconds())
        await backend.transact("r", transitions.ring(now=clock.now()))
        return "too late"

    both = Step.parallel("both", {"a": gate(), "b": slow})
    ended = await flujo_of(both, backend, clock).run_async("lamp", run_id="r")
    assert (ended.status, ended.outcome) == (RunStatus.CANCELLED, None)


# What is refused when built

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"deadline": timedelta(0)}, "later than now"),
    ({"deadline": None, "on_deadline": "reject"}, "give one"),
    ({"on_deadline": "explode"}, "on_deadline is"),
    ({"on_deadline": Approve("x"), "input_schema": Terms}, "does not fit"),
    ({"on_deadline": Approve(False), "input_schema": bool}, "on_deadline='reject'"),
    ({"on_deadline": apologise, "on_reject": apologise}, "both ways out"),
    ({"reminders": [timedelta(0)]}, "longer than zero"),
    ({"reminders": [2 * DAY]}, "would never come"),
    ({"escalate_after": timedelta(hours=1)}, "both"),
    ({"escalate_to": ["ben"]}, "both"),
    ({"escalate_after": timedelta(hours=1), "escalate_to": ["ben"]}, "anyone may answer already"),
    ({"escalate_after": DAY, "escalate_to": ["ben"], "candidates": ["ana"]}, "would never come"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_a_deadline_that_contradicts_itself_is_an_error_when_built(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineDefinitionError, match=said):
        gate(**options)


def test_steps_for_a_deadline_are_part_of_the_fingerprint() -> None:
    plain, other = Pipeline([gate()]), Pipeline([gate(on_deadline=chase)])
    assert plain.fingerprint != other.fingerprint
    assert other.find("approve/chase") is chase
    assert Pipeline([gate(reminders=[DAY / 2])]).fingerprint == plain.fingerprint
