"""The context: strict, and stored as changes that fold to exactly what it was."""

from __future__ import annotations

import copy
import json
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from flujo import Flujo, PipelineContext, PipelineRegistry, canonical, step
from flujo.context import changes, fold, restore, restore_stored
from flujo.errors import InvalidInput
from flujo.state.base import StateBackend
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.engine.making import document_of

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0, 0.5]) | st.text("ab", max_size=2)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)


@st.composite
def grown(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields before and after a step that mostly adds to what is there."""
    before = draw(FIELDS)
    after = copy.deepcopy(before)
    for name, value in before.items():
        if isinstance(value, list):
            after[name] = [*value, *draw(st.lists(VALUES, max_size=2))]
        elif isinstance(value, dict):
            after[name] = {**value, **draw(st.dictionaries(st.text("ab", max_size=1), VALUES, max_size=2))}
    return before, after


def exact(value: Any) -> str:
    """A text that tells 1 from True and from 1.0, and nothing of the order of keys."""
    return json.dumps(value, sort_keys=True)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(FIELDS, FIELDS) | grown())
@example(({"a": 1}, {"a": True}))
@example(({"a": 1}, {"a": 1.0}))
@example(({"a": {"k": 1}}, {"a": {"k": True, "l": 2}}))
@example(({"a": [1]}, {"a": [1.0, 2]}))
@example(({"a": []}, {"a": {}}))
@example(({"a": None}, {}))
def test_changes_fold_to_exactly_what_the_context_was(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = pair
    kept = exact(before)
    delta = json.loads(json.dumps(changes(before, after)))  # as it is stored

    assert exact(fold(before, delta)) == exact(after)
    assert exact(before) == kept, "folding leaves its argument as it was"
    assert bool(delta) == (exact(before) != exact(after)), "what did not change is not stored"


DELTAS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a new value": (1, 2, {"set": {"f": 2}}),
    "a value of another type": (1, True, {"set": {"f": True}}),
    "a key more": ({"k": 1}, {"k": 1, "l": 2}, {"add": {"f": {"l": 2}}}),
    "another value under a key": ({"k": 1}, {"k": 2}, {"set": {"f": {"k": 2}}}),
    "a key of another type": ({"k": 1}, {"k": 1.0, "l": 2}, {"set": {"f": {"k": 1.0, "l": 2}}}),
    "a key less": ({"k": 1, "l": 2}, {"k": 1}, {"set": {"f": {"k": 1}}}),
    "an item more": ([1], [1, 2], {"append": {"f": [2]}}),
    "an item less": ([1, 2], [1], {"set": {"f": [1]}}),
    "an item before": ([1], [0, 1], {"set": {"f": [0, 1]}}),
    "an item of another type": ([1], [True, 2], {"set": {"f": [True, 2]}}),
    "nothing": ([1], [1], {}),
}


@pytest.mark.parametrize("what", DELTAS)
def test_only_what_changed_is_stored(what: str) -> None:
    before, after, delta = DELTAS[what]
    assert exact(changes({"f": before, "g": [1]}, {"f": after, "g": [1]})) == exact(delta)


def test_long_text_is_neither_compared_nor_restored_by_writing_it_out() -> None:
    """Each step that takes a context of 100 KB would do so twice."""
    text, equal = ("é x" * 700_000 for _ in range(2))
    written_out = least(lambda: canonical.dump(text, where="context"))
    assert least(lambda: changes({"text": text}, {"text": equal})) < written_out / 4
    stored = {"run_id": "r", "text": text}
    assert least(lambda: restore_stored(Long, stored)) < least(lambda: restore(Long, stored)) * 0.8


def least(call: Callable[[], object]) -> float:
    """How many seconds a call takes that nothing holds up."""
    return min(timeit.repeat(call, number=1, repeat=5))


class Long(PipelineContext):
    text: str = ""


def test_field_that_is_gone_is_dropped() -> None:
    assert changes({"f": 1, "g": 2}, {"g": 2}) == {"drop": ["f"]}


class Basket(PipelineContext):
    count: int = 0
    paid: bool = False
    weight: float = 0.0
    items: list[str] = []
    prices: dict[str, int] = {}
    note: str | None = None


@step
async def fill(number: int, context: Basket) -> int:
    context.count = number
    context.items.append("apple")
    context.prices["apple"] = 3
    return number


@step
async def fill_more(number: int, context: Basket) -> int:
    context.items.append("pear")
    context.prices["pear"] = 4
    context.note = "heavy"
    return number


async def test_checkpoint_holds_the_changes_of_its_step(backend: StateBackend) -> None:
    registry = PipelineRegistry()
    registry.register(fill >> fill_more, name="demo", version="1.0.0")
    result = await Flujo(registry=registry, pipeline_name="demo", state_backend=backend).run_async(
        2, run_id="r", initial_context_data={"paid": True}
    )

    rows = {
        row.path: json.loads(row.context_changes or "{}") for row in (await document_of(backend, "r")).checkpoints()
    }
    assert rows["fill_more"] == {
        "set": {"note": "heavy"},
        "append": {"items": ["pear"]},
        "add": {"prices": {"pear": 4}},
    }
    assert result.final_pipeline_context == Basket(
        run_id="r", count=2, paid=True, items=["apple", "pear"], prices={"apple": 3, "pear": 4}, note="heavy"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("count", "1"), ("count", True), ("count", 1.0), ("paid", 1), ("items", "a"), ("colour", "red")],
)
async def test_initial_context_that_does_not_fit_starts_nothing(backend: StateBackend, field: str, value: Any) -> None:
    registry = PipelineRegistry()
    registry.register(fill, name="demo", version="1.0.0")
    runner = Flujo(registry=registry, pipeline_name="demo", state_backend=backend)
    with pytest.raises(InvalidInput, match=field):
        await runner.run_async(1, run_id="r", initial_context_data={field: value})
    assert await backend.load("r") is None


@pytest.mark.parametrize(("field", "value"), [("count", "1"), ("paid", 1), ("colour", "red")])
def test_assignment_of_another_type_or_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises((ValidationError, ValueError), match=field):
        setattr(Basket(), field, value)
