"""Control flow under attack: nesting, races between branches, and functions of the author's that go wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Pipeline, PipelineContext, PipelineResult, Reject, Step, StepContext, step, transitions
from flujo.answers import answer_to
from flujo.errors import PipelineDefinitionError
from flujo.pipeline import Node
from flujo.records import Signal
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus
from flujo.testing import FakeClock, let_lease_expire
from pydantic import BaseModel

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
    taken = [signal.taken_by for signal in (await document_of(backend, "r")).rows[Signal].values()]
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
        max_parallel=at_once,
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


@step
async def cancel_itself(number: int) -> int:
    work = asyncio.ensure_future(asyncio.sleep(60))
    work.cancel()
    await work
    return number


@pytest.mark.parametrize("pipeline", [cancel_itself, Step.parallel("both", [cancel_itself, double])])
async def test_a_step_that_lets_a_cancellation_out_has_failed(backend: StateBackend, pipeline: Node) -> None:
    failed = await runner_of(pipeline, backend).run_async(1, run_id="r")
    assert failed.status is RunStatus.FAILED
    assert "StepCancelled" in str(failed.error)


@step
async def apologise(number: int) -> str:
    return "sorry"


@step
async def shout(text: Any) -> str:
    return str(text).upper()


ROUTED = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int, on_reject=apologise)


@pytest.mark.parametrize(
    ("pipeline", "output"),
    [
        (ROUTED >> shout, "sorry"),
        (Pipeline([ROUTED]).as_step("sub") >> shout, "SORRY"),
        (Step.loop_until("loop", ROUTED, until=lambda answer: True) >> shout, "SORRY"),
        (
            Pipeline([ROUTED]).as_step("sub")
            >> Step.human_in_the_loop("check", message_for_user=lambda v: f"{v}?", when=lambda v: v != "sorry")
            >> shout,
            "SORRY",
        ),
    ],
    ids=["top", "sub", "loop", "gate behind"],
)
async def test_steps_for_a_rejection_may_give_another_type_than_the_answer(
    backend: StateBackend, pipeline: Pipeline, output: str
) -> None:
    flujo = runner_of(pipeline, backend)
    paused = await flujo.run_async(1, run_id="r")
    ended = await flujo.resume_async(paused, Reject("no"))
    assert (ended.status, ended.output) == (RunStatus.COMPLETED, output)


class Seen(PipelineContext):
    seen: list[int] = []


@step
async def see(number: int, context: Seen) -> int:
    context.seen.append(number)
    return number


@pytest.mark.parametrize("value", ["no list", object(), [0.5]], ids=["other type", "no JSON", "other items"])
async def test_what_a_reducer_gives_must_fit_the_context(backend: StateBackend, value: object) -> None:
    flujo = runner_of(Step.map_over("each", see, reducers={"seen": lambda lists: value}), backend)
    failed = await flujo.run_async([1, 2], run_id="r")
    assert failed.status is RunStatus.FAILED
    assert failed.final_pipeline_context == Seen(run_id="r")


async def test_no_attempt_stays_open_when_an_operator_ends_the_run_beside_it(backend: StateBackend) -> None:
    @step
    async def reject(number: int) -> int:
        await flujo.resume_async("r", Reject("no"), step="both/ask")
        return number

    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner_of(Step.parallel("both", [ask, reject]), backend)
    ended = await flujo.run_async(1, run_id="r")
    attempts = (await document_of(backend, "r")).attempts()
    assert ended.status is RunStatus.CANCELLED
    assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.CANCELLED]


async def test_a_rejection_inside_a_construct_says_what_it_leads_to(backend: StateBackend) -> None:
    await runner_of(Step.parallel("both", {"a": ROUTED, "b": double}), backend).run_async(1, run_id="r")
    asked = (await document_of(backend, "r")).human_task("both/a")
    assert asked is not None
    assert asked.if_rejected == "continue with apologise, then finish both"


async def test_a_retry_without_backoff_does_not_wait_for_a_fake_clock(backend: StateBackend) -> None:
    @step(retries=1, backoff=timedelta(0))
    async def flaky(number: int, ctx: StepContext) -> int:
        if ctx.attempt == 1:
            raise ConnectionError("down")
        return number

    async def run() -> PipelineResult:
        return await runner_of(flaky, backend, clock=FakeClock()).run_async(1)

    result = await asyncio.wait_for(run(), 5)
    assert result.output == 1


@step
def leave(number: int) -> int:
    sys.exit(3)


@step
async def leave_async(number: int) -> int:
    sys.exit(3)


@pytest.mark.parametrize("leaves", [leave, leave_async, Step.parallel("both", [leave, leave_async])])
async def test_a_step_that_exits_has_failed_and_its_worker_lives_on(backend: StateBackend, leaves: Node) -> None:
    failed = await runner_of(leaves, backend).run_async(1, run_id="r")
    assert failed.status is RunStatus.FAILED
    assert "StepExited" in str(failed.error)


class Panic(BaseException):
    """What libraries written in other languages raise when they break."""


@step
def panic(number: int) -> int:
    raise Panic("index out of bounds")


@step
async def panic_async(number: int) -> int:
    raise Panic("index out of bounds")


@step
def interrupt(number: int) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("breaks", [panic, panic_async, interrupt, Step.parallel("both", [panic, panic_async])])
async def test_a_step_that_raises_no_exception_has_failed_and_its_worker_lives_on(
    backend: StateBackend, breaks: Node
) -> None:
    failed = await runner_of(breaks, backend).run_async(1, run_id="r")
    assert failed.status is RunStatus.FAILED
    assert "which is no Exception" in str(failed.error)


def test_a_path_that_no_store_could_hold_is_refused_when_it_is_registered() -> None:
    nested: Node = double
    for depth in range(3):
        nested = Step.map_over(f"{depth}{'x' * 160}", nested)
    with pytest.raises(PipelineDefinitionError, match="shorter names"):
        runner_of(nested, InMemoryBackend())
    route = Step.human_in_the_loop("a" * 200, on_reject=Step.human_in_the_loop("b" * 200, on_reject=shout))
    runner_of(route, InMemoryBackend())


class Order(BaseModel):
    number: int


@step
async def order(number: int) -> Order:
    return Order(number=number)


@step
async def orders(number: int) -> list[Order]:
    return [Order(number=number)]


ABOUT = Step.human_in_the_loop("ask", message_for_user=lambda order: f"Take {order.number}?", input_schema=int)


@pytest.mark.parametrize(
    "pipeline",
    [
        order >> ABOUT,
        order >> Step.parallel("both", [ABOUT]),
        order >> Pipeline([ABOUT]).as_step("sub"),
        order >> Step.branch_on("way", lambda order: str(order.number), {"1": ABOUT}),
        order >> Step.fallback("safe", ABOUT, shout),
        orders >> Step.map_over("each", ABOUT),
        Step.map_over("each", order >> ABOUT),
        order >> Step.loop_until("loop", ABOUT, until=lambda answer: answer > 0),
    ],
    ids=["top", "parallel", "sub", "branch", "fallback", "map", "body", "loop"],
)
async def test_a_gate_is_asked_about_the_same_type_wherever_it_stands(pipeline: Pipeline | Node) -> None:
    value = [1] if isinstance(pipeline, Node) else 1
    paused = await runner_of(pipeline, InMemoryBackend()).run_async(value, run_id="r")
    assert [pause.message for pause in paused.pauses] == ["Take 1?"]


async def _later(value: Any) -> Any:
    return value


later: Any = _later  # type checkers see the mistake; these tests are for programs without one


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step.branch_on("way", later, {"a": double}),
        lambda: Step.loop_until("loop", double, until=later),
        lambda: Step.map_over("each", double, reducers={"seen": later}),
        lambda: Step.human_in_the_loop("ask", when=later),
        lambda: Step.human_in_the_loop("ask", message_for_user=later),
        lambda: Step.sleep_until("then", later),
        lambda: Step.wait_for_signal("paid", timeout=timedelta(0)),
    ],
    ids=["choose", "until", "reducer", "when", "message", "due", "timeout"],
)
def test_a_function_that_nobody_would_await_is_refused_when_it_is_given(make: Callable[[], Node]) -> None:
    with pytest.raises(PipelineDefinitionError):
        make()


async def test_a_deadline_beyond_the_calendar_fails_its_run(backend: StateBackend) -> None:
    flujo = runner_of(Step.wait_for_signal("paid", timeout=timedelta.max), backend)
    assert (await flujo.run_async(1, run_id="r")).status is RunStatus.FAILED


async def test_the_same_answer_again_is_harmless_while_the_run_goes_on() -> None:
    backend = InMemoryBackend()
    again: list[PipelineResult] = []

    @step
    async def repeat(number: int) -> int:
        again.append(await flujo.resume_async(paused, 5))
        return number

    flujo = runner_of(Step.human_in_the_loop("ask", message_for_user="?", input_schema=int) >> repeat, backend)
    paused = await flujo.run_async(1, run_id="r")
    assert (await flujo.resume_async(paused, 5)).output == 5
    assert [result.status for result in again] == [RunStatus.RUNNING]


async def test_a_run_that_a_dead_worker_left_is_not_behind_every_queued_one(built_in: Store) -> None:
    backend = built_in.backend
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    flujo = runner_of(ask, backend)
    for run_id in ("left", "q1", "q2"):
        await flujo.run_async(1, run_id=run_id)
        asked = (await document_of(backend, run_id)).human_task("ask")
        assert asked is not None
        given = answer_to(ask, 1, path="ask", generation=asked.generation, digest=asked.digest, actor="")
        terms = flujo._scope.terms(flujo.registry.get("demo")) if run_id == "left" else None
        await backend.transact(run_id, transitions.decide(given, now=flujo.clock.now(), claim=terms, facts={}))
    await let_lease_expire(backend, "left")
    assert "left" in [head.run_id for head in await backend.ready(flujo.clock.now(), 2)]
