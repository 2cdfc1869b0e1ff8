"""Two shapes are compared step by step, at every depth, and what a run has passed is told from what lies ahead."""

from __future__ import annotations

from flujo import Pipeline, Step, step
from flujo.shape import Change, differences


@step
async def a(value: str) -> str:
    return value


@step
async def b(value: str) -> str:
    return value


@step
async def c(value: str) -> str:
    return value


@step(name="b")
async def other_b(value: str) -> str:
    return value


def told(before: Pipeline, after: Pipeline, step_index: int = 0) -> set[tuple[str, str, bool]]:
    found = differences(before.shape(), after.shape(), step_index=step_index)
    return {(difference.change.value, difference.path, difference.ahead) for difference in found}


def test_the_same_shape_does_not_differ() -> None:
    assert told(a >> b >> c, a >> other_b >> c) == set()


def test_a_missing_and_a_new_step_are_named() -> None:
    assert told(a >> b, a >> c) == {("missing", "b", True), ("added", "c", True)}


def test_the_fewest_steps_count_as_moved() -> None:
    assert told(a >> b >> c, c >> a >> b) == {("moved", "c", True)}


def test_a_step_of_another_kind_has_changed() -> None:
    gate = Step.human_in_the_loop("b", message_for_user="Go on?")
    assert told(a >> b, a >> gate) == {("changed", "b", True)}


def test_what_the_run_has_passed_is_not_ahead() -> None:
    assert told(a >> b >> c, b >> c, step_index=1) == {("missing", "a", False)}
    assert told(b >> c, a >> b >> c, step_index=1) == {("added", "a", False)}
    assert told(b >> c, b >> a >> c, step_index=1) == {("added", "a", True)}


def test_differences_are_found_at_every_depth() -> None:
    def nested(inner: Pipeline) -> Pipeline:
        return a >> Step.map_over("each", Step.loop_until("again", inner, until=bool, max_iterations=3))

    assert told(nested(Pipeline([b])), nested(b >> c)) == {("added", "each/again/c", True)}
    no = Step.human_in_the_loop("ask", message_for_user="?", on_reject=b)
    other = Step.human_in_the_loop("ask", message_for_user="?", on_reject=c)
    assert told(a >> no, a >> other) == {("missing", "ask/b", True), ("added", "ask/c", True)}


def test_sentences_say_where_a_step_is_now() -> None:
    found = differences((a >> b).shape(), (c >> a >> b).shape())
    assert [(difference.change, difference.sentence) for difference in found] == [
        (Change.ADDED, "c is new, to the front")
    ]
