"""Control flow: durable at every depth, by path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineContext, PipelineRegistry, PipelineResult, Reject, Step, StepContext, step
from flujo.pipeline import Node
from flujo.state.backends.memory import InMemoryBackend
from flujo.status import Outcome, RunStatus

Runner = Callable[[Node | Pipeline], Flujo]


@pytest.fixture
def runner() -> Runner:
    def make(pipeline: Node | Pipeline) -> Flujo:
        registry = PipelineRegistry()
        registry.register(pipeline, name="p", version="1.0.0")
        return Flujo(registry=registry, pipeline_name="p", state_backend=InMemoryBackend())

    return make


@step
async def double(number: int) -> int:
    return number * 2


@step
def increment(number: int) -> int:
    return number + 1


@step
async def fail(number: int) -> int:
    raise ValueError(f"cannot take {number}")


def paths(result: PipelineResult) -> list[str]:
    return [done.path for done in result.step_history]


async def test_parallel_gives_a_dictionary_of_its_branches_outputs(runner: Runner) -> None:
    result = await runner(increment >> Step.parallel("both", {"a": double, "b": increment >> double})).run_async(1)
    assert result.output == {"a": 4, "b": 6}
    assert set(paths(result)) == {"increment", "both/a", "both/b/increment", "both/b/double", "both/b", "both"}


async def test_map_keeps_the_order_of_its_items_and_names_them_by_path(runner: Runner) -> None:
    @step
    async def numbers(count: int) -> list[int]:
        return list(range(count))

    result = await runner(numbers >> Step.map_over("each", double >> increment, max_parallel=2)).run_async(5)
    assert result.output == [1, 3, 5, 7, 9]
    assert "each[3]/double" in paths(result)


async def test_a_map_over_no_items_gives_an_empty_list(runner: Runner) -> None:
    assert (await runner(Step.map_over("each", double)).run_async([])).output == []


async def test_a_map_over_something_else_fails_saying_so(runner: Runner) -> None:
    result = await runner(Step.map_over("each", double)).run_async({"not": "a list"})
    assert result.status is RunStatus.FAILED
    assert "maps over a list, but got dict" in str(result.error)


async def test_a_branch_runs_the_chosen_way_only(runner: Runner) -> None:
    way = Step.branch_on("way", lambda n: "big" if n > 10 else "small", {"big": fail, "small": double >> increment})
    result = await runner(way >> increment).run_async(3)
    assert result.output == 8
    assert "way/big" not in paths(result)


async def test_a_choice_that_is_no_branch_fails_naming_the_branches(runner: Runner) -> None:
    result = await runner(Step.branch_on("way", lambda n: "none", {"big": double})).run_async(3)
    assert result.status is RunStatus.FAILED
    assert "none of big" in str(result.error)


async def test_a_loop_runs_on_its_own_output_until_its_condition_holds(runner: Runner) -> None:
    result = await runner(Step.loop_until("poll", double, until=lambda n: n > 20)).run_async(3)
    assert result.output == 24
    assert [p for p in paths(result) if "#" in p] == ["poll#1/double", "poll#2/double", "poll#3/double"]


async def test_a_loop_that_never_ends_fails_at_its_bound(runner: Runner) -> None:
    result = await runner(Step.loop_until("poll", double, until=lambda n: False, max_iterations=3)).run_async(1)
    assert result.status is RunStatus.FAILED
    assert "LoopBoundReached" in str(result.error)


async def test_a_fallback_takes_the_place_of_a_failed_step(runner: Runner) -> None:
    result = await runner(Step.fallback("safe", fail, double) >> increment).run_async(5)
    assert result.status is RunStatus.COMPLETED
    assert result.output == 11


async def test_collect_keeps_failures_beside_the_outputs_of_the_others(runner: Runner) -> None:
    result = await runner(Step.parallel("both", [double, fail], on_error="collect")).run_async(2)
    assert result.output == {
        "double": {"output": 4},
        "fail": {"error": {"type": "ValueError", "message": "cannot take 2"}},
    }


async def test_fail_fast_fails_the_run_and_retry_keeps_the_finished_branch(runner: Runner) -> None:
    calls: Counter[str] = Counter()

    @step
    async def good(number: int) -> int:
        calls["good"] += 1
        return number

    @step
    async def flaky(number: int) -> int:
        calls["flaky"] += 1
        if calls["flaky"] == 1:
            raise ValueError("once")
        return number

    flujo = runner(Step.parallel("both", [good, flaky], max_parallel=1) >> count_keys)
    failed = await flujo.run_async(1, run_id="r")
    assert (failed.status, failed.error) == (RunStatus.FAILED, "ValueError: once")
    again = await flujo.retry_async("r")
    assert again.output == 2
    assert calls == {"good": 1, "flaky": 2}


@step
async def count_keys(outputs: dict[str, Any]) -> int:
    return len(outputs)


async def test_one_question_for_each_item_can_be_answered_in_any_order(runner: Runner) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user=lambda n: f"Take {n}?", input_schema=int)
    flujo = runner(Step.map_over("each", double >> ask >> increment, max_parallel=1))
    paused = await flujo.run_async([1, 2, 3], run_id="r")
    assert [pause.path for pause in paused.pauses] == ["each[0]/ask", "each[1]/ask", "each[2]/ask"]
    for path, answer in (("each[2]/ask", 30), ("each[0]/ask", 10)):
        paused = await flujo.resume_async("r", answer, step=path)
        assert paused.status is RunStatus.PAUSED
    final = await flujo.resume_async("r", 20)
    assert final.output == [11, 21, 31]


async def test_questions_in_two_branches_are_open_at_once(runner: Runner) -> None:
    legal = Step.human_in_the_loop("legal", message_for_user="Legal?", input_schema=bool)
    price = Step.human_in_the_loop("price", message_for_user="Price?", input_schema=int)
    flujo = runner(Step.parallel("checks", {"legal": legal, "price": price >> increment}) >> count_keys)
    paused = await flujo.run_async(1, run_id="r")
    assert {pause.path for pause in paused.pauses} == {"checks/legal", "checks/price/price"}
    await flujo.resume_async("r", 4, step="checks/price/price")
    final = await flujo.resume_async("r", True, step="checks/legal")
    assert final.output == 2


async def test_a_rejection_in_one_branch_ends_the_run_and_closes_the_other_question(runner: Runner) -> None:
    asks = [Step.human_in_the_loop(name, message_for_user="?", input_schema=bool) for name in ("a", "b")]
    flujo = runner(Step.parallel("both", asks))
    await flujo.run_async(1, run_id="r")
    ended = await flujo.resume_async("r", Reject("no"), step="both/a")
    assert (ended.status, ended.outcome, ended.pauses) == (RunStatus.CANCELLED, Outcome.REJECTED, [])


async def test_a_rejection_routed_inside_a_map_replaces_the_rest_of_that_item(runner: Runner) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int, on_reject=double)
    flujo = runner(Step.map_over("each", ask >> increment))
    await flujo.run_async([1, 2], run_id="r")
    await flujo.resume_async("r", Reject("no"), step="each[0]/ask")
    final = await flujo.resume_async("r", 5, step="each[1]/ask")
    assert (final.status, final.outcome, final.output) == (RunStatus.COMPLETED, None, [2, 6])


class Totals(PipelineContext):
    left: int = 0
    right: int = 0
    seen: list[int] = []


@step
async def add_left(number: int, context: Totals) -> int:
    context.left += number
    return number


@step
async def add_right(number: int, context: Totals) -> int:
    context.right += number
    return number


@step
async def see(number: int, context: Totals) -> int:
    context.seen.append(number)
    return number


async def test_branches_that_change_different_fields_are_merged(runner: Runner) -> None:
    result = await runner(Step.parallel("both", [add_left, add_right]) >> count_keys).run_async(7)
    assert result.final_pipeline_context == Totals(run_id=result.run_id, left=7, right=7)


async def test_branches_that_change_the_same_field_conflict(runner: Runner) -> None:
    result = await runner(Step.parallel("both", {"a": add_left, "b": see >> add_left})).run_async(7)
    assert result.status is RunStatus.FAILED
    assert "ContextConflict" in str(result.error)


async def test_a_reducer_settles_what_branches_changed_together(runner: Runner) -> None:
    each = Step.map_over("each", see, reducers={"seen": lambda lists: [n for part in lists for n in part]})
    result = await runner(each).run_async([1, 2, 3])
    context = result.final_pipeline_context
    assert isinstance(context, Totals)
    assert context.seen == [1, 2, 3]


async def test_three_levels_deep_nothing_committed_runs_again(runner: Runner) -> None:
    calls: Counter[str] = Counter()

    @step
    async def count(number: int, ctx: StepContext) -> int:
        calls[ctx.path] += 1
        return number + 1

    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    inner = (count >> ask).as_step("inner")
    flujo = runner(Step.map_over("each", Step.parallel("side", {"x": inner, "y": count})) >> count_items_of_dicts)
    paused = await flujo.run_async([1, 2], run_id="r")
    assert [pause.path for pause in paused.pauses] == ["each[0]/side/x/ask", "each[1]/side/x/ask"]
    await flujo.resume_async("r", 1, step="each[1]/side/x/ask")
    final = await flujo.resume_async("r", 0, step="each[0]/side/x/ask")
    assert final.output == [{"x": 0, "y": 2}, {"x": 1, "y": 3}]
    assert set(calls.values()) == {1}
    assert len(calls) == 4


@step
async def count_items_of_dicts(outputs: list[dict[str, int]]) -> list[dict[str, int]]:
    return outputs


async def test_the_saved_step_index_counts_top_level_steps_only(runner: Runner) -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)
    numbers = runner(list_of >> Step.map_over("each", ask >> double) >> count_items)
    await numbers.run_async(3, run_id="r")
    document = await numbers.backend.load("r")
    assert document is not None
    assert document.head is not None
    assert (document.head.step_index, document.head.step_name) == (1, "each")


@step
async def list_of(count: int) -> list[int]:
    return list(range(count))


@step
async def count_items(items: list[int]) -> int:
    return len(items)
