"""Type errors between neighbours: found when the pipeline is built, where the annotations tell."""

from __future__ import annotations

import collections.abc
import typing
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, TypedDict

import pytest
from flujo import Pipeline, Step, step
from flujo.errors import PipelineDefinitionError
from flujo.typing import fits
from pydantic import BaseModel, Field

Older: Any = typing.Optional  # the spellings of older code
Either: Any = typing.Union


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int = 0


class Colour(StrEnum):
    RED = "red"


class Row(TypedDict):
    name: str


class HasX(Protocol):
    x: int


@dataclass
class Point:
    x: int


FITTING: list[tuple[Any, Any]] = [
    (int, int),
    (Any, int),
    (int, Any),
    (int, object),
    (bool, int),
    (int, float),
    (int, Decimal),
    (Dog, Animal),
    (Colour, str),
    (None, None),
    (None, type(None)),
    (int, Older[int]),
    (int, Either[int, str]),
    (int, int | str),
    (int | str, str | int | None),
    (bool | int, int),
    (Annotated[int, Field(gt=0)], int),
    (int, Annotated[int, Field(gt=0)]),
    (list[int], list[int]),
    (list[Dog], list[Animal]),
    (list[int], list[Any]),
    (list[int], list),
    (list, list[int]),
    (list[int], tuple[int, ...]),
    (tuple[int, str], list[int]),
    (list[int], collections.abc.Sequence[int]),
    (list[int], typing.Iterable[int]),
    (dict[str, int], dict[str, int]),
    (dict[str, int], dict[str, float]),
    (dict[str, Any], Animal),
    (dict[str, Any], Point),
    (dict[str, str], Row),
    (Row, dict[str, str]),
    (Row, Animal),
    (Point, HasX),
    (Literal["a"], str),
    (str, Literal["a"]),
]

NOT_FITTING: list[tuple[Any, Any]] = [
    (int, str),
    (str, int),
    (float, int),
    (int, bool),
    (Animal, Dog),
    (Animal, str),
    (str, Colour),
    (None, int),
    (int, None),
    (Older[int], int),
    (int | str, int),
    (int, str | None),
    (Annotated[int, Field(gt=0)], str),
    (list[int], list[str]),
    (list[int], int),
    (int, list[int]),
    (list[list[int]], list[list[str]]),
    (dict[str, int], dict[str, str]),
    (dict[str, int], list[int]),
    (dict[str, Any], str),
    (list[int], Animal),
    (int, Row),
    (Row, int),
]


@pytest.mark.parametrize(("output", "wanted"), FITTING, ids=str)
def test_annotations_fit(output: Any, wanted: Any) -> None:
    assert fits(output, wanted)


@pytest.mark.parametrize(("output", "wanted"), NOT_FITTING, ids=str)
def test_annotations_do_not_fit(output: Any, wanted: Any) -> None:
    assert not fits(output, wanted)


@step
async def number(value: str) -> int:
    return len(value)


@step
async def text(value: str) -> str:
    return value


@step
async def anything(value: Any) -> Any:
    return value


@step
async def start() -> int:
    return 1


@step
async def dog(value: Dog) -> str:
    return value.name


WRONG: dict[str, Any] = {
    "number >> text": lambda: number >> text,
    "two pipelines": lambda: Pipeline([anything, number]) >> Pipeline([text, start]),
    "inside a step": lambda: anything >> (number >> text).as_step("inner"),
    "behind a gate": lambda: Step.human_in_the_loop("ask", message_for_user="?", input_schema=Animal) >> dog,
    "behind a yes or no": lambda: Step.human_in_the_loop("ask", message_for_user="?", input_schema=bool) >> dog,
}


@pytest.mark.parametrize("where", WRONG)
def test_step_that_cannot_take_what_comes_is_refused_when_built(where: str) -> None:
    with pytest.raises(PipelineDefinitionError, match=r"^Step '\w+' takes \w+, but '\w+' before it gives \w+\.$"):
        WRONG[where]()


def test_refusal_names_both_steps_and_both_types() -> None:
    with pytest.raises(PipelineDefinitionError, match="Step 'text' takes str, but 'number' before it gives int"):
        number >> text  # building it is what is tested


def test_steps_whose_annotations_do_not_tell_are_built() -> None:
    assert len(number >> anything >> text >> start) == 4, "a step without an input may follow any other"
