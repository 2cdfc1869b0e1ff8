"""What is refused though an annotation names its type: it would come back as something else, or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from flujo import canonical, step
from flujo.errors import CorruptState, UnstorableValue
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from pydantic import BaseModel, ConfigDict, Field, Json, SecretStr, field_validator

from tests.engine.making import runner_of
from tests.engine.test_values import LINE, Login, cycle


class Base(BaseModel):
    value: int | date


class Holder(BaseModel):
    value: Any


class More(Base):
    extra: int = 3


class Cents(BaseModel):
    amount: int = Field(default=1, gt=0)


class Loud(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def louder(cls, text: str) -> str:
        return f"{text}!"


@dataclasses.dataclass
class Counted:
    number: int

    def __post_init__(self) -> None:
        self.number += 1


class Packed(BaseModel):
    values: Json[list[int]]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


def _past_its_bound() -> Cents:
    cents = Cents()
    cents.amount = -1
    return cents


Positive = Annotated[int, Field(gt=0)]
AMBIGUOUS: dict[str, tuple[Any, Any, str]] = {
    "number outside its bounds": (
        {"a": [-5]},
        dict[str, list[Positive]],
        r"value\.a\[0\] would not come back",
    ),
    "field assigned past its bound": ([_past_its_bound()], list[Cents], r"value\[0\]\.amount would not come back"),
    "text that is JSON": (Packed(values="[1]"), Packed, "values"),
    "validator that changes what it gave": (Loud(text="a"), Loud, r"value\.text would come back"),
    "class that changes what it was given": ([Counted(1)], list[Counted], r"value\[0\]\.number would come back"),
    "key that is None": ({None: 1, "a": 2}, dict[str | None, int], r"value would come back"),
    "key of two types": ({1: 1}, dict[int | str, int], r"value would come back"),
    "half a surrogate pair in a typed key": ({"\ud800": 1}, dict[str, int], "value would come back"),
    "further field of a type": (Open(day=date(2026, 1, 2)), Open, r"value\.day would come back"),
    "date or text": ([date(2026, 1, 1)], list[str | date], r"value\[0\] would come back"),
    "text that looks like a date": ("2026-01-01", date | str, "value would come back"),
    "subclass beside a union": (More(value=1), Base, "value would come back"),
    "key that is a tuple": ({(1, 2): 3}, dict[tuple[int, int], int], "would not come back"),
    "constant bytes": (b"x", Literal[b"x"], "would not come back"),
    "type pydantic does not know": (range(3), range, "value cannot be stored"),
    "secret without a type": ({"login": [SecretStr("hunter2")]}, Any, r"value\.login\[0\] is a secret"),
    "secret among untyped items": ([SecretStr("hunter2")], list, r"value\[0\] would come back"),
    "secret in an untyped field": (Holder(value=SecretStr("hunter2")), Holder, r"value\.value would come back"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_value_that_would_come_back_as_another_is_refused_with_its_path(name: str) -> None:
    value, annotation, told = AMBIGUOUS[name]

    with pytest.raises(UnstorableValue, match=told) as refused:
        canonical.encode(value, annotation)
    assert "hunter2" not in str(refused.value)


UNTYPED: dict[str, tuple[Any, Any, str]] = {
    "NaN in a list": ([math.nan], list, r"value\[0\] is nan"),
    "NaN in a dictionary": ({"a": [math.inf]}, dict[str, Any], r"value\.a\[0\] is inf"),
    "NaN in a field": ([Holder(value={"a": math.nan})], list[Holder], r"value\[0\]\.value\.a is nan"),
    "NaN in a further field": (Open(a=math.nan), Open, r"value\.a"),
    "NaN in a model in a list": ([Holder(value=math.nan)], Any, r"value\[0\]\.value is nan"),
    "key in a dictionary": ({1: 2}, dict, "value does not fit its annotation: the key 1"),
    "key in a list": ([{"a": {1: 2}}], list, r"value\[0\]\.a has the key 1"),
    "key in a field": (
        {"h": Holder(value={"a": {None: 2}})},
        dict[str, Holder],
        r"value\.h\.value\.a has the key None",
    ),
    "key in a model in a set": (({(Counted, 1): 2},), tuple[Any, ...], r"value\[0\] has the key"),
    "cycle": ({"a": cycle()}, dict[str, Any], "value"),
}


@pytest.mark.parametrize("name", UNTYPED)
def test_part_without_a_type_is_refused_as_if_it_were_the_whole(name: str) -> None:
    value, annotation, told = UNTYPED[name]

    with pytest.raises(UnstorableValue, match=told) as refused:
        canonical.encode(value, annotation)
    assert len(str(refused.value)) < 2_000


def test_part_without_a_type_comes_back_as_json_has_it() -> None:
    value = {"raw": b"\xff", "day": date(2026, 1, 2), "sizes": (1, 2), "line": LINE}

    text = canonical.encode(Holder(value=value), Holder)

    assert canonical.decode(text, Holder).value == json.loads(canonical.encode(value))
    assert json.loads(text)["value"]["raw"] == "_w=="


def test_value_of_another_type_is_refused_with_its_path_and_not_quoted() -> None:
    wrong: list[tuple[Any, Any, str]] = [
        (["a", "hunter2"], list[int], r"value\[0\] does not fit"),
        ({"a": {"b": "hunter2"}}, dict[str, dict[str, int]], r"value\.a\.b does not fit"),
        (Login.model_construct(user_name="ana", password="hunter2", key=None), Login, "value cannot be stored"),
        ({frozenset({1}): 1}, dict[frozenset[int], int], "value cannot be stored"),
    ]
    for value, annotation, told in wrong:
        with pytest.raises(UnstorableValue, match=told) as refused:
            canonical.encode(value, annotation)
        assert "hunter2" not in str(refused.value)


async def test_step_that_breaks_the_bounds_of_its_own_annotation_fails(backend: StateBackend) -> None:
    @step
    async def owe(given: int) -> Positive:
        return -given

    result = await runner_of(owe, backend).run_async(5, run_id="r")

    assert result.status is RunStatus.FAILED
    assert result.error is not None
    assert "would not come back" in result.error


def test_value_that_no_longer_fits_is_corrupt_without_saying_what_it_is() -> None:
    with pytest.raises(CorruptState, match=r"password: Field required") as refused:
        canonical.decode('{"user_name":"hunter2"}', Login)
    assert "hunter2" not in str(refused.value)
