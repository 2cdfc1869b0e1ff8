"""What `assert_crash_safe` tells the author of a pipeline."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineContext, PipelineRegistry, Reject, Step, StepContext, step
from flujo.errors import RunningLoop
from flujo.state.backends.memory import InMemoryBackend
from flujo.testing import assert_crash_safe, check_crash_safety

from tests.engine.making import Ledger, order_pipeline
from tests.engine.stores import Store


class Bill(PipelineContext):
    lines: list[str] = []


def shop(charged: Counter[str]) -> Pipeline:
    """A pipeline whose effects carry their key, with a question, a map, a signal and a timer."""

    @step
    async def price(order: str, context: Bill) -> int:
        context.lines.append(order)
        return len(order)

    @step(retries=1, backoff=timedelta(seconds=5))
    async def charge(amount: Any, ctx: StepContext) -> list[int]:
        charged[ctx.idempotency_key] = 1
        if ctx.attempt == 1:
            raise ConnectionError("down")
        return [1, 2]

    @step
    def pack(item: int, ctx: StepContext) -> int:
        charged[ctx.idempotency_key] = 1
        return item * 2

    approve = Step.human_in_the_loop("approve", input_schema=bool)
    each = Step.map_over("each", pack >> Step.human_in_the_loop("check", input_schema=int))
    return price >> approve >> charge >> each >> Step.wait_for_signal("sent", str) >> Step.sleep("rest", timedelta(1))


YES = {"approve": "yes"}
ANSWERS = {"approve": True, "each[0]/check": 7, "check": 8}


def test_crash_safe_pipeline_passes_and_says_what_ran_again() -> None:
    report = assert_crash_safe(
        shop(Counter()), input="lamp", answers=ANSWERS, signals={"sent": "by train"}, repeatable=["price"]
    )
    assert report.crashes > 30
    assert report.repeated["price"] == 2
    assert set(report.repeated) == {"price", "charge", "each[0]/pack", "each[1]/pack"}
    assert str(report).startswith(f"{report.crashes} crashes: crash-safe. Steps that ran more than once: charge (")


def test_step_that_ran_twice_without_its_key_is_named() -> None:
    with pytest.raises(AssertionError) as raised:
        assert_crash_safe(order_pipeline(Ledger()), input="lamp", answers=YES, repeatable=["price"])
    told = str(raised.value)
    assert "not crash-safe, 2 problems" in told
    assert "- ship ran again after a crash and never read its idempotency key." in told
    assert "- tell ran again" in told
    assert "- price" not in told


def test_pipeline_that_remembers_in_its_process_is_found() -> None:
    seen: set[str] = set()

    @step
    async def first_time(value: str, ctx: StepContext) -> bool:
        known = ctx.idempotency_key in seen
        seen.add(ctx.idempotency_key)
        return not known

    with pytest.raises(AssertionError, match=r"After a crash before write 2 \(.*\), the output is 'false' instead"):
        assert_crash_safe(first_time, input="x")


def test_rejected_and_failed_runs_are_compared_too() -> None:
    @step
    async def broken(value: str, ctx: StepContext) -> str:
        raise ValueError(ctx.idempotency_key[:3])

    gate = Step.human_in_the_loop("approve")
    assert assert_crash_safe(gate >> broken, input="x", answers=YES).problems == []
    assert assert_crash_safe(gate >> broken, input="x", answers={"approve": Reject("no")}).repeated == {}


def test_time_goes_on_after_a_crash() -> None:
    """The error names the instant of the deadline, which a clock that began anew would bring forward."""
    gate = Step.human_in_the_loop("approve", deadline=timedelta(hours=1))
    report = assert_crash_safe(Step.sleep("rest", timedelta(hours=1)) >> gate, input="x")
    assert report.crashes > 10


def test_store_that_was_checked_on_before_is_crashed_as_often_again() -> None:
    """The runs of the first check are there still, and at their end."""
    shared = InMemoryBackend()
    options: Any = {"input": "lamp", "answers": YES, "repeatable": ["price", "ship", "tell"], "backend": lambda: shared}
    first, again = (assert_crash_safe(order_pipeline(Ledger()), **options) for _ in range(2))
    assert first.crashes == again.crashes > 10


def test_answer_that_is_missing_is_asked_for() -> None:
    with pytest.raises(AssertionError, match=r"waits for the human task 'approve' \(answers=\)"):
        assert_crash_safe(order_pipeline(Ledger()), input="lamp")


async def test_inside_a_loop_the_twin_is_named() -> None:
    with pytest.raises(RunningLoop, match="check_crash_safety"):
        assert_crash_safe(order_pipeline(Ledger()))


async def test_store_that_loses_what_it_acknowledged_is_found() -> None:
    """A store of one's own is checked as well: this one has its newest write in a buffer that dies with the process."""

    class Buffered(InMemoryBackend):
        kept = None

        async def transact(self, run_id: str, transition: Any, *, known: Any = None) -> Any:
            before = await self.load(run_id)
            batch = await super().transact(run_id, transition)
            self.kept = before
            return batch

    def reopened(store: Any) -> Any:
        store._runs = {} if store.kept is None else {store.kept.run_id: store.kept}
        return store

    with pytest.raises(
        AssertionError, match=r"The store acknowledged event \d+ of run crash-safety-\w+-\d+; after a crash"
    ):
        await check_crash_safety(order_pipeline(Ledger()), input="x", backend=Buffered, answers=YES, reopen=reopened)


async def test_crash_safety_holds_on_every_backend(store: Store) -> None:
    report = await check_crash_safety(
        order_pipeline(Ledger()),
        input="lamp",
        answers=YES,
        repeatable=["price", "ship", "tell"],
        backend=lambda: store.backend,
    )
    assert report.problems == []
    assert report.crashes > 10


async def test_watched_pipeline_is_as_before_afterwards() -> None:
    pipeline, ran = order_pipeline(ledger := Ledger()), InMemoryBackend()
    functions = [node.function for node in pipeline if isinstance(node, Step)]
    await check_crash_safety(pipeline, input="x", answers=YES)
    assert [node.function for node in pipeline if isinstance(node, Step)] == functions
    ledger.clear()
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version="1.0.0")
    await Flujo(registry=registry, pipeline_name="demo", state_backend=ran).run_async("lamp")
    assert ledger == {"price": 1}


def test_chance_is_not_mistaken_for_a_crash() -> None:
    """A step that draws at random differs between runs: the check says so, since a rerun would too."""

    @step
    async def draw(value: int, ctx: StepContext) -> float:
        return random.random() + len(ctx.idempotency_key)

    with pytest.raises(AssertionError, match="the output is"):
        assert_crash_safe(draw, input=1)
