"""What `assert_crash_safe` does with a pipeline that starts child runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flujo import Pipeline, PipelineContext, PipelineRegistry, Reject, Step, StepContext, step
from flujo.errors import BackendCannot, PipelineNotFound
from flujo.pipeline import Node
from flujo.testing import When, assert_crash_safe, check_crash_safety

from tests.engine.family import ASK, CHILD, add_one, broken, minus_one
from tests.engine.stores import Store

HARMLESS = ["add_one", "minus_one", "broken", "note"]
HOUR = timedelta(hours=1)


class Notes(PipelineContext):
    lines: list[int] = []


@step
async def note(value: int, context: Notes) -> int:
    context.lines.append(value)
    return value + 1


def registry_of(**pipelines: Node | Pipeline) -> PipelineRegistry:
    registry = PipelineRegistry()
    for name, pipeline in pipelines.items():
        registry.register(pipeline, name=name, version="1.0.0")
    return registry


def third(write: int, when: When) -> bool:
    """One crash in three, as many before a write as after one: the whole would take long."""
    return (2 * write + (when == "after")) % 3 == 0


def check(pipeline: Node | Pipeline, **options: Any) -> Any:
    children = registry_of(**options.pop("children", {}))
    return assert_crash_safe(pipeline, **{"input": 1, "registry": children, "repeatable": HARMLESS, **options})


def test_child_and_grandchild_are_crashed_and_compared() -> None:
    deeper = Step.run_pipeline("deeper", pipeline="grandchild")
    report = check(add_one >> CHILD, children={"child": note >> deeper, "grandchild": minus_one})
    assert report.crashes > 35
    assert report.repeated == {"add_one": 2, "bill/note": 2, "bill/deeper/minus_one": 2}
    assert "bill/deeper/minus_one (2 times)" in str(report)


def test_children_are_answered_by_path_or_name_wherever_they_were_started() -> None:
    asks = Step.parallel("both", {"asked": ASK, "told": Step.wait_for_signal("go", int, timeout=HOUR)})
    seen: dict[str, list[int]] = {}

    @step
    async def see(values: dict[str, int], ctx: StepContext) -> int:
        assert ctx.idempotency_key
        seen.setdefault(f"{ctx.run_id}/{ctx.path}", list(values.values()))
        return 1

    way = Step.branch_on("way", lambda n: "big" if n > 1 else "small", {"big": add_one >> CHILD, "small": CHILD})
    check(
        Step.map_over("each", way),
        input=[1, 2],
        children={"child": asks >> see >> Step.sleep("rest", HOUR)},
        answers={"each[0]/way/small/both/asked": 3, "ask": 4},
        signals={"each[1]/way/big/bill/both/told": 6, "go": 5},
        chosen=lambda write, when: write % 8 == 0,
    )
    assert sorted(map(tuple, {tuple(values) for values in seen.values()})) == [(3, 5), (4, 6)]


@pytest.mark.parametrize("child", [broken, ASK])
def test_child_that_fails_or_is_refused_is_compared(child: Node) -> None:
    caught = Step.fallback("either", CHILD, add_one)
    for parent in (CHILD, caught):
        report = check(parent, children={"child": child}, answers={"ask": Reject("no")}, chosen=third)
        assert report.crashes >= 7


def test_child_of_a_part_that_was_given_up_ends_with_it() -> None:
    both = Step.parallel("both", {"child": CHILD, "late": Step.sleep("rest", HOUR) >> broken})
    deeper = Step.run_pipeline("deeper", pipeline="grandchild")
    report = check(Step.fallback("either", both, add_one), children={"child": deeper, "grandchild": ASK}, chosen=third)
    assert report.crashes > 14


def test_step_of_a_child_that_ran_twice_without_its_key_is_named_with_its_pipeline() -> None:
    with pytest.raises(AssertionError) as raised:
        check(Step.map_over("each", CHILD), input=[1], children={"child": add_one}, repeatable=[])
    told = "- each[0]/bill/add_one (step add_one of the pipeline child) ran again after a crash and never read its"
    assert told in str(raised.value)


def test_child_that_remembers_in_its_process_is_found() -> None:
    seen: set[str] = set()

    @step
    async def first_time(value: int, ctx: StepContext) -> bool:
        known = ctx.idempotency_key in seen
        seen.add(ctx.idempotency_key)
        return not known

    with pytest.raises(AssertionError, match=r"the output of the child bill \(child\) is 'false' instead of 'true'"):
        check(CHILD, children={"child": first_time})


def test_answer_that_a_child_lacks_is_asked_for() -> None:
    with pytest.raises(AssertionError, match=r"waits for the human task 'bill/ask' of the child bill \(child\) \(answ"):
        check(CHILD, children={"child": ASK})


def test_child_whose_pipeline_was_not_given_is_asked_for() -> None:
    deeper = Step.run_pipeline("deeper", pipeline="grandchild", version="2.0.0")
    with pytest.raises(
        PipelineNotFound, match=r"'bill' starts a child run.*Give assert_crash_safe a registry that has"
    ):
        assert_crash_safe(CHILD, input=1)
    with pytest.raises(PipelineNotFound, match=r"'deeper' starts a child run. grandchild has no version 2.0.0"):
        check(CHILD, children={"child": deeper, "grandchild": add_one})


def test_child_that_the_store_cannot_run_is_refused() -> None:
    @step(transactional=True)
    def pays(value: int) -> int:
        return value

    with pytest.raises(BackendCannot, match="pays"):
        check(CHILD, children={"child": pays})


def test_registry_of_the_children_is_left_as_it_was() -> None:
    registry = registry_of(child=add_one)
    assert_crash_safe(CHILD, input=1, registry=registry, repeatable=HARMLESS)
    assert registry.names() == ["child"]


@pytest.mark.slow
async def test_crash_safety_of_children_holds_on_every_backend(store: Store) -> None:
    report = await check_crash_safety(
        CHILD,
        input=1,
        registry=registry_of(child=ASK),
        answers={"ask": 7},
        backend=lambda: store.backend,
        chosen=lambda write, when: write % 8 == 0,
    )
    assert report.problems == []
    assert report.crashes >= 2
