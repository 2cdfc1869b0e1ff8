"""A value is checked against a stored schema as pydantic checks it against the model behind that schema."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from flujo.json_schema import problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    amount: int = Field(gt=0)


class Card(BaseModel):
    kind: Literal["card"]
    number: str = Field(pattern=r"^\d{4}$")


class Terms(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(gt=0, le=10, multiple_of=2)
    ratio: float | None = None
    note: str = Field(default="", max_length=3)
    colour: Colour = Colour.RED
    tags: list[str] = Field(default=[], max_length=2)
    pair: tuple[int, bool] = (1, True)
    sizes: dict[str, int] = {}
    payment: Annotated[Cash | Card, Field(discriminator="kind")] = Cash(amount=1)
    inside: Terms | None = None
    day: date | None = None
    price: Decimal | None = None


SCHEMA = Terms.model_json_schema(mode="validation")
GOOD: dict[str, Any] = {"limit": 4}
FITS = [
    GOOD,
    {**GOOD, "ratio": 1.5, "note": "abc", "colour": "blue", "tags": ["a"], "pair": [2, False], "sizes": {"a": 1}},
    {**GOOD, "payment": {"kind": "card", "number": "1234"}, "inside": {"limit": 2, "inside": {"limit": 2}}},
    {**GOOD, "day": "2026-03-02", "price": "9.99"},
    {**GOOD, "price": 9.5, "limit": 2.0},
]
FITS_NOT: list[tuple[dict[str, Any], list[str | int]]] = [
    ({}, ["limit"]),
    ({"limit": "four"}, ["limit"]),
    ({"limit": True}, ["limit"]),
    ({"limit": 0}, ["limit"]),
    ({"limit": 12}, ["limit"]),
    ({"limit": 3}, ["limit"]),
    ({**GOOD, "note": "long"}, ["note"]),
    ({**GOOD, "colour": "green"}, ["colour"]),
    ({**GOOD, "tags": ["a", "b", "c"]}, ["tags"]),
    ({**GOOD, "tags": [1]}, ["tags", 0]),
    ({**GOOD, "pair": [1]}, ["pair"]),
    ({**GOOD, "pair": [1, 2]}, ["pair", 1]),
    ({**GOOD, "sizes": {"a": "x"}}, ["sizes", "a"]),
    ({**GOOD, "payment": {"kind": "card", "number": "12"}}, ["payment"]),
    ({**GOOD, "payment": {"kind": "coin"}}, ["payment"]),
    ({**GOOD, "inside": {"limit": 1}}, ["inside"]),
    ({**GOOD, "colour": None}, ["colour"]),
    ({**GOOD, "surprise": 1}, ["surprise"]),
]


@pytest.mark.parametrize("value", FITS)
def test_value_that_fits_the_model_fits_its_schema(value: Any) -> None:
    Terms.model_validate(value)
    assert problems(SCHEMA, value) == []


@pytest.mark.parametrize(("value", "location"), FITS_NOT)
def test_value_that_does_not_fit_is_named_by_its_place(value: Any, location: list[str | int]) -> None:
    with pytest.raises(ValidationError):
        Terms.model_validate(value, strict=True)
    assert location in [problem["loc"] for problem in problems(SCHEMA, value)]


@pytest.mark.parametrize("schema", [{}, True, {"pattern": "(?<=x"}, {"$ref": "#"}, {"type": "rare"}])
def test_what_the_checker_does_not_know_refuses_nothing(schema: Any) -> None:
    assert problems(schema, "anything") == []


MODELS = [int, float, str, bool, list[int], dict[str, bool], int | None, Literal["a", "b"], Cash, tuple[int, str]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["a", "b", "cash", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "amount", "x"]), inner),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=JSON)
def test_checker_and_pydantic_agree_on_what_is_strictly_valid(value: Any) -> None:
    for model in MODELS:
        adapter: TypeAdapter[Any] = TypeAdapter(model)
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            continue
        assert problems(adapter.json_schema(mode="validation"), value) == []
