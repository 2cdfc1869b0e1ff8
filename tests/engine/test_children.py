"""Child runs: started once, waited for without holding anything, told of and ended together with their parents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineRegistry, Step, kin, step, transitions
from flujo.batch import Batch, RunView, Transition
from flujo.errors import IllegalTransition, InvalidInput, MigrationRefused, PipelineDefinitionError, RunCancelled
from flujo.migration import plan
from flujo.node import Node
from flujo.records import RunHead
from flujo.result import PipelineResult
from flujo.start import new_run
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait
from flujo.testing import FakeClock, FaultyBackend, crash_points

from tests.engine.making import Crash, Ledger, bury_holder, document_of, head_of, kinds_of
from tests.engine.stores import Store, make_store

ASK = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)


def flujo(backend: StateBackend, clock: FakeClock | None = None, /, **pipelines: Node | Pipeline) -> Flujo:
    """A runner of `parent` in a registry of all of these."""
    registry = PipelineRegistry()
    for name, pipeline in pipelines.items():
        registry.register(pipeline, name=name, version="1.0.0")
    return Flujo(registry=registry, pipeline_name="parent", state_backend=backend, clock=clock)


def of(runner: Flujo, name: str) -> Flujo:
    """The same for another pipeline."""
    return Flujo(registry=runner.registry, pipeline_name=name, state_backend=runner.backend, clock=runner.clock)


def counting(ledger: Ledger) -> Any:
    @step
    async def double(value: int) -> int:
        ledger.add("double")
        return 2 * value

    return double


@step
async def add_one(value: int) -> int:
    return value + 1


@step
async def minus_one(value: int) -> int:
    return value - 1


@step
async def broken(value: int) -> int:
    raise ValueError("The total is wrong.")


CHILD = Step.run_pipeline("bill", pipeline="child", start_on=lambda value: value + 10)


async def child_of(runner: Flujo, run_id: str = "p", path: str = "bill") -> str:
    """The id of the child that the run waits for."""
    (wait,) = [wait for wait in (await document_of(runner.backend, run_id)).open_waits() if wait.path == path]
    return wait.name


async def test_output_of_the_child_is_that_of_its_step(backend: StateBackend, ledger: Ledger) -> None:
    runner = flujo(backend, parent=add_one >> CHILD >> minus_one, child=counting(ledger))
    result = await runner.run_async(1, run_id="p")
    assert (result.status, result.output) == (RunStatus.COMPLETED, 23)
    assert [s.output for s in result.step_history if s.path == "bill"] == [24]
    assert ledger == {"double": 1}
    assert {"child.started", "child.ended"} <= set(await kinds_of(backend, "p"))


async def test_child_that_waits_for_a_person_lets_its_parent_wait_and_go_on(store: Store, ledger: Ledger) -> None:
    runner = flujo(store.backend, parent=CHILD >> add_one, child=ASK >> counting(ledger))
    paused = await runner.run_async(1, run_id="p")
    head = await head_of(store.backend, "p")
    assert (paused.status, head.wait, head.holder, paused.pause) == (RunStatus.PAUSED, Wait.CHILD, None, None)
    child_id = paused.children["bill"]
    child = await head_of(store.backend, child_id)
    assert (child.parent_run_id, child.parent_path, child.wait) == ("p", "bill", Wait.HUMAN_TASK)
    assert (await runner.run_async(1, run_id="p")).children == {"bill": child_id}

    await of(runner, "child").resume_async(child_id, 20)
    assert (await head_of(store.backend, "p")).status is RunStatus.QUEUED
    assert (await runner.run_async(1, run_id="p")).output == 41


@pytest.mark.parametrize("child", [broken, Step.run_pipeline("deeper", pipeline="grandchild")])
async def test_failure_of_the_child_is_the_failure_of_its_step(backend: StateBackend, child: Node) -> None:
    runner = flujo(backend, parent=CHILD, child=child, grandchild=broken)
    result = await runner.run_async(1, run_id="p")
    assert result.status is RunStatus.FAILED
    assert "ChildFailed" in (result.error or "")
    assert "The total is wrong." in (result.error or "")


async def test_failure_of_the_child_is_caught_where_that_of_a_step_would_be(backend: StateBackend) -> None:
    runner = flujo(backend, parent=Step.fallback("either", CHILD, add_one), child=broken)
    assert (await runner.run_async(1, run_id="p")).output == 2


async def test_cancelled_child_is_the_failure_of_its_step(backend: StateBackend) -> None:
    runner = flujo(backend, parent=CHILD, child=ASK)
    child_id = (await runner.run_async(1, run_id="p")).children["bill"]
    await of(runner, "child").cancel_async(child_id)
    result = await runner.run_async(1, run_id="p")
    assert "ChildCancelled" in (result.error or "")


async def test_retry_starts_another_child(backend: StateBackend, ledger: Ledger) -> None:
    @step
    async def flaky(value: int) -> int:
        ledger.add("flaky")
        if ledger["flaky"] == 1:
            raise ValueError("once")
        return value

    runner = flujo(backend, parent=CHILD, child=flaky)
    assert (await runner.run_async(1, run_id="p")).status is RunStatus.FAILED
    assert (await runner.retry_async("p")).output == 11
    assert ledger == {"flaky": 2}


async def test_retry_takes_the_child_of_the_round_before_if_it_was_retried_and_completed(
    backend: StateBackend, ledger: Ledger
) -> None:
    @step
    async def flaky(value: int) -> int:
        ledger.add("flaky")
        if ledger["flaky"] == 1:
            raise ValueError("once")
        return value

    runner = flujo(backend, parent=CHILD, child=flaky)
    await runner.run_async(1, run_id="p")
    child_id = kin.child_id(await head_of(backend, "p"), "bill", 0)
    assert (await of(runner, "child").retry_async(child_id)).status is RunStatus.COMPLETED
    assert (await runner.retry_async("p")).output == 11
    assert ledger == {"flaky": 2}


async def test_retry_takes_what_a_child_gave_that_was_deleted_since(built_in: Store, ledger: Ledger) -> None:
    @step
    async def beside(value: int) -> int:
        ledger.add("beside")
        if ledger["beside"] == 1:
            for _ in range(500):
                waits = (await document_of(runner.backend, "p")).open_waits()
                if waits and await runner.backend.load(waits[0].name) is not None:
                    break
                await asyncio.sleep(0.01)
            await work(runner, "child", waits[0].name)
            raise ValueError("not yet")
        return value

    both = Step.parallel("both", {"bill": CHILD, "beside": beside})
    runner = flujo(built_in.backend, parent=both, child=counting(ledger))
    await queue_parent(runner)
    await work(runner, "parent", "p")
    (wait,) = (await document_of(runner.backend, "p")).waits()
    await kin.settle(runner.backend, wait.name, runner.clock.now())
    await runner.backend.transact(wait.name, transitions.purge(actor="", reason="", now=runner.clock.now(), facts={}))
    done = await runner.retry_async("p")
    assert (done.status, ledger["double"]) == (RunStatus.COMPLETED, 1)


async def test_cancelled_parent_cancels_its_child_and_grandchild(backend: StateBackend) -> None:
    deep = Step.run_pipeline("deeper", pipeline="grandchild")
    runner = flujo(backend, parent=CHILD, child=deep, grandchild=ASK)
    child_id = (await runner.run_async(1, run_id="p")).children["bill"]
    grandchild_id = await child_of(runner, child_id, "deeper")
    await runner.cancel_async("p")
    heads = [await head_of(backend, run_id) for run_id in ("p", child_id, grandchild_id)]
    assert {head.status for head in heads} == {RunStatus.CANCELLED}
    assert not any(head.untold for head in heads)


async def test_child_of_a_part_that_was_given_up_is_cancelled(backend: StateBackend) -> None:
    """The sibling fails, a fallback catches it: nobody waits for the child any longer."""
    both = Step.parallel("both", {"child": CHILD, "late": Step.wait_for_signal("go", int) >> broken})
    runner = flujo(backend, parent=Step.fallback("either", both, ASK), child=ASK)
    child_id = (await runner.run_async(1, run_id="p")).children["either/both/child"]
    await runner.signal_async("p", "go", 1)
    await kin.settle(backend, "p", runner.clock.now())
    assert (await head_of(backend, "p")).status is RunStatus.PAUSED
    assert (await head_of(backend, child_id)).status is RunStatus.CANCELLED


async def test_each_item_of_a_map_has_a_child_and_they_go_on_in_any_order(backend: StateBackend) -> None:
    runner = flujo(backend, parent=Step.map_over("each", CHILD >> add_one), child=ASK)
    paused = await runner.run_async([1, 2, 3], run_id="p")
    assert sorted(paused.children) == ["each[0]/bill", "each[1]/bill", "each[2]/bill"]
    for number in (1, 2, 0):
        await of(runner, "child").resume_async(paused.children[f"each[{number}]/bill"], number)
        result = await runner.run_async([1, 2, 3], run_id="p")
    assert result.output == [1, 2, 3]


async def test_child_starts_in_the_version_that_is_newest_then_or_the_one_that_is_named(backend: StateBackend) -> None:
    pinned = Step.run_pipeline("old", pipeline="child", version="1.0.0")
    runner = flujo(backend, parent=Step.parallel("both", [CHILD, pinned]), child=add_one)
    runner.registry.register(broken >> add_one, name="child", version="2.0.0")
    result = await runner.run_async(1, run_id="p")
    assert result.status is RunStatus.FAILED
    assert "ValueError" in (result.error or "")


async def test_input_that_the_child_does_not_take_fails_the_step(backend: StateBackend) -> None:
    wrong = Step.run_pipeline("bill", pipeline="child", start_on=lambda value: "seven")
    result = await flujo(backend, parent=wrong, child=add_one).run_async(1, run_id="p")
    assert InvalidInput.__name__ in (result.error or "")


async def test_a_crash_at_any_write_of_parent_or_child_starts_no_second_child(tmp_path: Any) -> None:
    ledger = Ledger()

    async def scenario(backend: StateBackend) -> tuple[Any, ...]:
        runner = flujo(backend, FakeClock(), parent=add_one >> CHILD >> minus_one, child=counting(ledger))
        for _ in range(3):  # a dead worker's child is taken up by a later look
            result: PipelineResult = await runner.run_async(1, run_id="p")
            if result.status is RunStatus.COMPLETED:
                break
        await kin.settle(backend, "p", runner.clock.now())
        return result.status, result.output, len(await backend.run_ids())

    points = 0
    async for point in crash_points(lambda: make_store("memory", tmp_path).backend, scenario):
        assert point.result == point.expected == (RunStatus.COMPLETED, 23, 2), str(point)
        points += 1
    assert points > 20


async def test_a_crash_at_any_write_of_a_cancellation_leaves_no_child_behind(tmp_path: Any) -> None:
    async def scenario(backend: StateBackend) -> list[RunStatus]:
        runner = flujo(backend, FakeClock(), parent=CHILD, child=Step.run_pipeline("deeper", pipeline="asks"), asks=ASK)
        with suppress(RunCancelled):
            await runner.run_async(1, run_id="p")
            await runner.cancel_async("p")
        while untold := await backend.untold():
            for run_id in untold:
                await kin.settle(backend, run_id, runner.clock.now())
        for head in await backend.ready(runner.clock.now()):  # what a worker would do with a child it finds
            await of(runner, head.pipeline).continue_async(head.run_id)
        return [head.status for head in await backend.heads()]

    points = 0
    async for point in crash_points(lambda: make_store("memory", tmp_path).backend, scenario):
        assert set(point.result) == {RunStatus.CANCELLED}, str(point)
        points += 1
    assert points > 30


# Workers: children are queued, and parents are woken by what is stored


async def work(runner: Flujo, name: str, run_id: str) -> None:
    await of(runner, name).continue_async(run_id)


async def queue_parent(runner: Flujo) -> None:
    entry = runner.registry.get("parent")
    new = new_run(entry, 1, {"run_id": "p"})
    await runner.backend.transact("p", transitions.start(new, now=runner.clock.now(), claim=None, facts={}))


async def test_worker_leaves_the_child_to_any_worker_and_is_woken_when_it_ends(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD >> add_one, child=add_one)
    await queue_parent(runner)
    await work(runner, "parent", "p")
    child_id = await child_of(runner)
    ready = [head.run_id for head in await built_in.backend.ready(runner.clock.now())]
    assert ready == [child_id]
    await work(runner, "child", child_id)
    assert [head.run_id for head in await built_in.backend.ready(runner.clock.now())] == ["p"]
    await work(runner, "parent", "p")
    assert (await runner.run_async(1, run_id="p")).output == 13


async def test_parent_whose_childs_worker_died_before_it_told_is_found_and_woken(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=add_one)
    await queue_parent(runner)
    await work(runner, "parent", "p")
    child_id = await child_of(runner)

    async def dies() -> None:
        raise Crash

    dying = Between(built_in.backend, lambda run_id, what: what.startswith("child_ended."), dies)
    with pytest.raises(Crash):
        await work(flujo(dying, parent=CHILD, child=add_one), "child", child_id)
    assert (await head_of(built_in.backend, "p")).status is RunStatus.PAUSED
    assert await built_in.backend.untold() == [child_id]
    for _ in range(2):
        for run_id in await built_in.backend.untold() or [child_id]:
            await kin.settle(built_in.backend, run_id, runner.clock.now())
    assert (await head_of(built_in.backend, "p")).status is RunStatus.QUEUED
    assert (await kinds_of(built_in.backend, "p")).count("child.ended") == 1


async def test_no_signal_passes_for_the_end_of_a_child(built_in: Store) -> None:
    runner = flujo(
        built_in.backend, parent=Step.parallel("p", {"go": Step.wait_for_signal("go"), "bill": CHILD}), child=add_one
    )
    await queue_parent(runner)
    await work(runner, "parent", "p")
    child_id = await child_of(runner, path="p/bill")
    with pytest.raises(InvalidInput, match="does not begin with"):
        await runner.signal_async("p", "go", 1, message_id=f"child {child_id}")
    await work(runner, "child", child_id)
    assert (await kinds_of(built_in.backend, "p")).count("child.ended") == 1
    assert (await head_of(built_in.backend, "p")).status is RunStatus.QUEUED


class Between(FaultyBackend):
    """A backend that lets `other` happen once, before the first write to a run that `matches` names."""

    def __init__(self, inner: StateBackend, matches: Callable[[str, str], bool], other: Callable[[], Any]) -> None:
        super().__init__(inner)
        self.matches = matches
        self.other: Callable[[], Any] | None = other

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        if self.other is not None and self.matches(run_id, getattr(transition, "__qualname__", "")):
            other, self.other = self.other, None
            await other()
        return await super().transact(run_id, transition, known=known)


async def test_child_that_ends_before_its_parent_pauses_is_not_missed(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=add_one)
    await queue_parent(runner)

    async def child_ends() -> None:
        await work(runner, "child", await child_of(runner))

    slow = Between(built_in.backend, lambda run_id, what: what.startswith("pause."), child_ends)
    await work(flujo(slow, parent=CHILD, child=add_one), "parent", "p")
    assert (await head_of(built_in.backend, "p")).status is RunStatus.COMPLETED


async def test_child_that_a_lost_worker_started_after_its_parent_ended_does_nothing(
    built_in: Store, ledger: Ledger
) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=counting(ledger))
    await queue_parent(runner)

    async def parent_ends() -> None:
        await bury_holder(built_in.backend, "p")
        await runner.cancel_async("p")

    slow = Between(built_in.backend, lambda run_id, what: run_id != "p", parent_ends)
    await work(flujo(slow, parent=CHILD, child=add_one), "parent", "p")
    (child,) = [head for head in await built_in.backend.heads() if head.parent_run_id]
    assert child.status is RunStatus.QUEUED
    await work(runner, "child", child.run_id)
    assert (await head_of(built_in.backend, child.run_id)).status is RunStatus.CANCELLED
    assert ledger == {}


async def test_run_is_not_deleted_before_its_parent_knows_of_its_end(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=add_one)
    child_id = (await runner.run_async(1, run_id="p")).step_history and next(
        run_id for run_id in await built_in.backend.run_ids() if run_id != "p"
    )

    def again(view: RunView) -> Batch:
        assert view.head is not None
        return Batch(view.run_id, view.head, view.head.changed({"untold": True}))

    await built_in.backend.transact(child_id, again)
    with pytest.raises(Exception, match="until its parent"):
        await built_in.backend.delete_state(child_id)
    await kin.settle(built_in.backend, child_id, runner.clock.now())
    await built_in.backend.delete_state(child_id)


def test_child_step_that_makes_no_sense_is_refused_when_built() -> None:
    async def later(value: int) -> int:
        return value

    with pytest.raises(PipelineDefinitionError, match="names no pipeline"):
        Step.run_pipeline("bill", pipeline="")
    with pytest.raises(PipelineDefinitionError, match="start_on is a plain function"):
        Step.run_pipeline("bill", pipeline="child", start_on=later)


async def test_parent_and_child_are_not_moved_to_another_store_while_one_waits_for_the_other(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=ASK)
    child_id = (await runner.run_async(1, run_id="p")).children["bill"]
    for run_id in ("p", child_id):
        away = transitions.leave("elsewhere", actor="", now=runner.clock.now(), facts={})
        with pytest.raises(IllegalTransition, match="Move it when"):
            await built_in.backend.transact(run_id, away)


async def test_migration_abandons_no_child_that_is_waited_for(backend: StateBackend) -> None:
    runner = flujo(backend, parent=add_one >> CHILD, child=ASK)
    await runner.run_async(1, run_id="p")
    without = flujo(backend, parent=add_one >> minus_one).registry.get("parent")
    with pytest.raises(MigrationRefused, match="waits for its child"):
        plan(await document_of(backend, "p"), without, lambda run: None)
