"""Child runs: started once, waited for without holding anything, told of and ended together with their parents."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from flujo import Flujo, PipelineRegistry, Step, StepContext, kin, step, transitions
from flujo.errors import (
    IllegalTransition,
    InvalidInput,
    MigrationRefused,
    PipelineDefinitionError,
    RunCancelled,
    RunFailed,
    RunFinished,
)
from flujo.pipeline import Node
from flujo.planning import plan
from flujo.result import PipelineResult
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait
from flujo.testing import FakeClock, crash_points

from tests.engine.family import (
    ASK,
    CHILD,
    Between,
    add_one,
    broken,
    child_of,
    counting,
    flujo,
    minus_one,
    of,
    queue_parent,
    work,
)
from tests.engine.making import Crash, Ledger, bury_holder, document_of, head_of, kinds_of
from tests.engine.stores import Store, make_store


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


def failing_once(ledger: Ledger) -> Any:
    @step
    async def flaky(value: int) -> int:
        ledger.add("flaky")
        if ledger["flaky"] == 1:
            raise ValueError("once")
        return value

    return flaky


async def test_retry_waits_for_the_child_of_the_round_before_if_it_is_at_work_again(
    backend: StateBackend, ledger: Ledger
) -> None:
    """Else the work of the child, which somebody retried, would be done twice, and side by side."""
    runner = flujo(backend, parent=CHILD >> add_one, child=failing_once(ledger) >> ASK >> counting(ledger))
    await runner.run_async(1, run_id="p")
    child_id = kin.child_id(await head_of(backend, "p"), "bill", 0)
    await of(runner, "child").retry_async(child_id)
    assert (await runner.retry_async("p")).children == {"bill": child_id}
    await of(runner, "child").resume_async(child_id, 20)
    assert (await head_of(backend, "p")).status is RunStatus.QUEUED
    assert (await runner.run_async(1, run_id="p")).output == 41
    assert ledger == {"flaky": 2, "double": 1}


async def test_child_that_fails_again_fails_its_parent_again(backend: StateBackend) -> None:
    runner = flujo(backend, parent=CHILD, child=ASK >> broken)
    child_id = (await runner.run_async(1, run_id="p")).children["bill"]
    await of(runner, "child").resume_async(child_id, 20)
    assert (await runner.run_async(1, run_id="p")).status is RunStatus.FAILED
    queue = transitions.retry(actor="", reason="", now=runner.clock.now(), claim=None, facts={})
    await backend.transact(child_id, queue)
    both = await runner.retry_async("p")
    assert (both.status, both.error) == (
        RunStatus.FAILED,
        f"ChildFailed: The child run {child_id} of 'bill' has failed: ValueError: The total is wrong.",
    )
    assert (await kinds_of(backend, "p")).count("child.ended") == 2
    assert (await kinds_of(backend, child_id)).count("run.failed") == 2


async def test_child_that_is_at_work_again_is_not_cancelled_with_one_that_is_given_up(ledger: Ledger) -> None:
    """The wait for it that the failure closed is not the one that is open now."""
    late = Step.sleep("nap", timedelta(hours=1)) >> broken
    hurry = Step.parallel("hurry", {"late": late, "idle": Step.run_pipeline("idle", pipeline="asks")})
    both = Step.parallel("both", {"bill": CHILD, "other": Step.fallback("other", hurry, add_one)})
    child = failing_once(ledger) >> ASK
    runner = flujo(InMemoryBackend(), FakeClock(), parent=both, child=child, asks=ASK)
    await runner.run_async(1, run_id="p")
    child_id = kin.child_id(await head_of(runner.backend, "p"), "both/bill", 0)
    await of(runner, "child").retry_async(child_id)
    idle = (await runner.retry_async("p")).children["both/other/hurry/idle"]
    runner.clock.advance(3600)
    await runner.continue_async("p")
    statuses = [(await head_of(runner.backend, run_id)).status for run_id in (idle, child_id)]
    assert statuses == [RunStatus.CANCELLED, RunStatus.PAUSED]
    await of(runner, "child").resume_async(child_id, 20)
    assert (await runner.run_async(1, run_id="p")).output == {"bill": 20, "other": 2}


async def test_a_crash_at_any_write_of_two_retries_starts_no_second_child() -> None:
    """The child is retried, and its parent too while the child is at work again."""

    @step
    async def fails_at_first(value: int, ctx: StepContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return value

    async def scenario(backend: StateBackend) -> tuple[Any, ...]:
        runner = flujo(backend, FakeClock(), parent=CHILD, child=fails_at_first >> Step.wait_for_signal("go", int))
        with suppress(RunFailed):
            await runner.run_async(1, run_id="p")
        child_id = kin.child_id(await head_of(backend, "p"), "bill", 0)
        for name, run_id in (("child", child_id), ("parent", "p")):
            with suppress(IllegalTransition):  # it was retried before the crash
                await of(runner, name).retry_async(run_id)
        with suppress(RunFinished):
            await of(runner, "child").signal_async(child_id, "go", 7, message_id="go")
        result = await runner.run_async(1, run_id="p")
        return result.status, result.output, len(await backend.run_ids())

    points = 0
    async for point in crash_points(InMemoryBackend, scenario):
        assert point.result == point.expected == (RunStatus.COMPLETED, 7, 2), str(point)
        points += 1
    assert points > 25


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


async def test_child_that_cannot_be_started_here_fails_the_step_until_it_can() -> None:
    @step(transactional=True)
    def pays(value: int) -> int:
        return value

    backend, registry = InMemoryBackend(), PipelineRegistry()
    registry.register(Step.run_pipeline("call", pipeline="later"), name="demo", version="1.0.0")
    runner = Flujo(registry=registry, pipeline_name="demo", state_backend=backend)
    failed = await runner.run_async(1, run_id="r")
    assert (failed.status, str(failed.error)[:35]) == (RunStatus.FAILED, "PipelineNotFound: No pipeline is na")

    registry.register(pays, name="later", version="1.0.0")
    assert "BackendCannot" in str((await runner.retry_async("r")).error)

    @step
    async def counts(value: int) -> int:
        return value + 1

    registry.register(counts, name="later", version="2.0.0")
    assert (await runner.retry_async("r")).output == 2


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


async def test_pipelines_that_start_one_another_come_to_an_end_that_names_the_chain(backend: StateBackend) -> None:
    there = Step.run_pipeline("there", pipeline="child", max_levels=3)
    back = Step.run_pipeline("back", pipeline="parent")
    runner = flujo(backend, parent=there, child=back)
    result = await runner.run_async(1, run_id="p")
    assert result.status is RunStatus.FAILED
    assert (result.error or "").count("ChildFailed") == 4
    assert "'there' starts no child more than 3 levels below the first run; " in (result.error or "")
    assert "from run p on it would be parent → child → parent → child → parent → child." in (result.error or "")


@pytest.mark.slow
async def test_pipeline_that_starts_itself_starts_twenty_others(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=Step.run_pipeline("again", pipeline="parent"))
    await queue_parent(runner)
    while ready := await built_in.backend.ready(runner.clock.now()):
        for head in ready:
            await work(runner, "parent", head.run_id)
    heads = await built_in.backend.heads()
    assert len(heads) == 21
    assert {head.status for head in heads} == {RunStatus.FAILED}
    assert [head.error_type for head in heads].count("ChildTooDeep") == 1


def test_child_step_that_makes_no_sense_is_refused_when_built() -> None:
    async def later(value: int) -> int:
        return value

    with pytest.raises(PipelineDefinitionError, match="names no pipeline"):
        Step.run_pipeline("bill", pipeline="")
    with pytest.raises(PipelineDefinitionError, match="start_on is a plain function"):
        Step.run_pipeline("bill", pipeline="child", start_on=later)
    with pytest.raises(PipelineDefinitionError, match="at least 1, not 0"):
        Step.run_pipeline("bill", pipeline="child", max_levels=0)


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
