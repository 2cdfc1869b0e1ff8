"""The one domain of values: what goes in comes out on every backend, and what cannot is refused everywhere alike."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,  # pydantic wants these before Python 3.12
)
from uuid import UUID

import pytest
from flujo import PipelineContext, StepContext, canonical, step
from flujo.errors import InvalidAnswer, InvalidInput, UnstorableValue
from flujo.human import HumanStep
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.step import Step
from flujo.stored_type import difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    computed_field,
)
from typing_extensions import TypedDict

from tests.engine.making import document_of, kinds_of, runner_of

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


class Kind(Enum):
    BIG = "big"
    SMALL = "small"


class Line(BaseModel):
    sku: str
    price: Decimal
    kind: Kind
    sizes: tuple[int, float] = (1, 2.0)
    by_number: dict[int, str] = {}


@dataclasses.dataclass
class Box:
    lines: list[Line]
    day: date


LINE = Line(sku="ä €", price=Decimal("0.10"), kind=Kind.BIG, by_number={3: "three"})
TYPED: list[tuple[Any, Any]] = [
    (Decimal("12345678901234567890.10"), Decimal),
    (datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC), datetime),
    (timedelta(days=1, microseconds=3), timedelta),
    (UUID("12345678-1234-5678-1234-567812345678"), UUID),
    (b"\x00\xff bytes", bytes),
    (Kind.SMALL, Kind),
    ({1, 2, 3}, set[int]),
    ((1, "two"), tuple[int, str]),
    ({1: "one"}, dict[int, str]),
    (LINE, Line),
    ([LINE], list[Line]),
    (Box([LINE], date(2026, 1, 2)), Box),
    (None, Line | None),
    (PurePosixPath("a/b"), PurePosixPath),
    ("b", Literal["a", "b"]),
    (5, Annotated[int, Field(gt=3)]),
    (10**300, int),
    (1e16, float),
    (-0.0, float),
    (5e-324, float),
    (True, bool),
]


@pytest.mark.parametrize(("value", "annotation"), TYPED, ids=lambda part: str(part)[:30])
def test_typed_value_comes_back_as_it_was(value: Any, annotation: Any) -> None:
    back = canonical.decode(canonical.encode(value, annotation), annotation)

    assert (back, type(back)) == (value, type(value))
    assert str(back) == str(value)


async def test_typed_values_pass_from_step_to_step(backend: StateBackend) -> None:
    @step
    async def make(day: date) -> Box:
        return Box([LINE], day)

    @step
    async def look(box: Box, ctx: StepContext) -> tuple[Decimal, bytes]:
        assert box == ctx.output_of("make") == Box([LINE], date(2026, 1, 2))
        return box.lines[0].price, b"\xff"

    result = await runner_of(make >> look, backend).run_async(date(2026, 1, 2), run_id="r")

    assert result.output == (Decimal("0.10"), b"\xff")
    assert result.step_history[0].output == Box([LINE], date(2026, 1, 2))


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_json_text_is_canonical_and_comes_back(value: Any) -> None:
    text = canonical.encode(value)

    assert _exact(canonical.decode(text)) == _exact(value)
    assert canonical.encode(canonical.decode(text)) == text
    assert canonical.encode(dict(reversed(value.items())) if isinstance(value, dict) else value) == text


class Carried(PipelineContext):
    value: Any = None


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, min_size=1, max_size=8))
async def test_json_comes_back_from_every_store(backend: StateBackend, values: list[Any]) -> None:
    @step
    async def pass_on(value: Any, context: Carried) -> Any:
        assert _exact(value) == _exact(values)
        context.value = value
        return value

    run_id = f"r{next(_NUMBERS)}"
    result = await runner_of(pass_on, backend).run_async(values, run_id=run_id)

    assert result.status is RunStatus.COMPLETED
    assert isinstance(result.final_pipeline_context, Carried)
    assert _exact(result.output) == _exact(result.final_pipeline_context.value) == _exact(values)
    document = await document_of(backend, run_id)
    assert document.start.input == document.checkpoints()[0].output == canonical.encode(values)


_NUMBERS = iter(range(1_000_000))


def _exact(value: Any) -> str:
    """Tells 1 from 1.0 and True, and 0.0 from -0.0."""
    return json.dumps(value, sort_keys=True)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def cycle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


class Sensor(BaseModel):
    reading: float


NASTY: dict[str, tuple[Any, str]] = {
    "NaN": (math.nan, "is nan"),
    "infinity": ([1, math.inf], r"\[1\] is inf"),
    "minus infinity": ({"a": {"b": -math.inf}}, r"\.a\.b is -inf"),
    "NaN in a model": (Sensor(reading=math.nan), r"\.reading is nan"),
    "NUL": ({"a": "x\0y"}, r"\.a holds a NUL"),
    "NUL in a key": ({"x\0y": 1}, "NUL"),
    "half a surrogate pair": (["\udc00"], r"\[0\] holds half"),
    "surrogate in a key": ({"\ud83d": 1}, "surrogate"),
    "key that is a number": ({"a": {1: 2}}, r"\.a has the key 1"),
    "key that is None": ({None: 2}, "has the key None"),
    "number of 4,001 digits": (10**4000, "4000 digits"),
    "minus that number": ([-(10**5000)], "4000 digits"),
    "101 levels": (deep(101), "100 levels"),
    "2,000 levels": (deep(2_000), "cannot be stored"),
    "cycle": (cycle(), "cannot be stored"),
    "16 MiB": ("x" * (16 * 1024 * 1024 + 1), "larger than"),
    "16 MiB in few letters": ("€" * (6 * 1024 * 1024), "larger than"),
    "object": ({"a": [object()]}, r"\.a\[0\]"),
    "function": (len, "cannot be stored"),
}


@pytest.mark.parametrize("name", NASTY)
def test_value_outside_the_domain_is_refused_with_its_path(name: str) -> None:
    value, said = NASTY[name]

    with pytest.raises(UnstorableValue, match=said) as refused:
        canonical.encode(value)
    assert len(str(refused.value)) < 2_000


async def test_nasty_value_is_refused_before_the_first_write(backend: StateBackend) -> None:
    for number, (name, (value, _)) in enumerate(NASTY.items()):

        @step
        async def make(given: Any, value: Any = value) -> Any:
            return value

        runner, run_id = runner_of(make, backend), f"r{number}"
        with pytest.raises(InvalidInput):
            await runner.run_async(value, run_id="never")
        with pytest.raises((InvalidInput, UnstorableValue)):
            await runner.run_async(1, run_id="never", initial_context_data={"value": value})
        failed = await runner.run_async(1, run_id=run_id)

        assert failed.error is not None, name
        assert failed.error.startswith("UnstorableValue"), name
        assert await kinds_of(backend, run_id) == ["run.started", "run.claimed", "step.failed", "run.failed"]
    assert await backend.load_state("never") is None


LENGTHS = {"title": 200, "owner": 150, "requester": 150}


async def test_nasty_description_of_a_run_starts_nothing(backend: StateBackend) -> None:
    @step
    async def only(value: int) -> int:
        return value

    nasty: list[dict[str, Any]] = [{where: text} for where in LENGTHS for text in ("a\0b", "\ud800", 5)]
    nasty += [{where: "x" * (n + 1)} for where, n in LENGTHS.items()]
    nasty += [{"tags": ["a\0b"]}, {"tags": [5]}, {"tags": "abc"}]
    runner = runner_of(only, backend)
    for wrong in nasty:
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            await runner.run_async(1, run_id="never", **wrong)

    assert await backend.load_state("never") is None
    longest: dict[str, Any] = {where: "é" * n for where, n in LENGTHS.items()}
    assert (await runner.run_async(1, run_id="r", **longest)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("name", ["NaN", "NUL", "half a surrogate pair", "key that is a number", "object"])
def test_nasty_answer_is_invalid(name: str) -> None:
    gate = Step.human_in_the_loop("approve")
    assert isinstance(gate, HumanStep)

    with pytest.raises(InvalidAnswer):
        gate.validate_answer(NASTY[name][0])


def test_hundred_levels_and_four_thousand_digits_are_within_the_domain() -> None:
    for value in (deep(100), 10**4000 - 1, "x" * (16 * 1024 * 1024 - 2), "\U0001f600", "\u2028", ""):
        assert canonical.decode(canonical.encode(value)) == value


# Types that JSON alone does not keep


class Reading(NamedTuple):
    number: int
    raw: bytes


class Extras(TypedDict):
    amount: Decimal
    raw: NotRequired[bytes]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    raw: bytes = b""
    tags: set[str] = set()


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    naps: list[timedelta] = []
    home: PurePosixPath = PurePosixPath("/")


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_name: str = Field(alias="userName")
    password: SecretStr
    key: SecretBytes | None = None

    @computed_field
    @property
    def initial(self) -> str:
        return self.user_name[:1]


@dataclasses.dataclass(frozen=True)
class Parcel:
    pets: list[Pet]
    reading: Reading
    extras: Extras
    ids: frozenset[UUID]
    key: Secret[int] | None = None


BYTES = st.binary(max_size=12)
PETS = st.builds(Cat, raw=BYTES, tags=st.sets(TEXT, max_size=3)) | st.builds(
    Dog, naps=st.lists(st.timedeltas(), max_size=2), home=st.just(PurePosixPath("a/ä"))
)
LOGINS = st.builds(Login, userName=TEXT, password=TEXT.map(SecretStr), key=st.none() | BYTES.map(SecretBytes))
PARCELS = st.builds(
    Parcel,
    pets=st.lists(PETS, max_size=2),
    reading=st.builds(Reading, st.integers(), BYTES),
    extras=st.fixed_dictionaries({"amount": st.decimals()}, optional={"raw": BYTES}),
    ids=st.frozensets(st.uuids(), max_size=3),
    key=st.none() | st.integers().map(Secret[int]),
)


@settings(max_examples=40, deadline=None)
@given(PARCELS | LOGINS)
def test_typed_value_of_any_shape_comes_back_exactly(value: Any) -> None:
    text = canonical.encode(value, type(value))
    back = canonical.decode(text, type(value))

    assert type(back) is type(value)
    assert difference(value, back, "value") is None
    assert canonical.encode(back, type(back)) == text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PARCELS, LOGINS)
async def test_typed_values_come_back_from_every_store(backend: StateBackend, parcel: Parcel, login: Login) -> None:
    @step
    async def pack(given: Login) -> Parcel:
        assert difference(login, given, "input") is None
        return parcel

    @step
    async def open_it(given: Parcel) -> set[bytes]:
        assert difference(parcel, given, "parcel") is None
        return {b"\xff", given.reading.raw}

    result = await runner_of(pack >> open_it, backend).run_async(login, run_id=f"r{next(_NUMBERS)}")

    assert result.output == {b"\xff", parcel.reading.raw}, result.error


def test_input_is_taken_as_a_value_of_its_type_or_as_json_by_either_name() -> None:
    value = Login(userName="ana", password=SecretStr("hunter2"))
    for name in ("userName", "user_name"):
        assert canonical.decode(canonical.take({name: "ana", "password": "hunter2"}, Login), Login) == value
    assert canonical.decode(canonical.take(value, Login), Login) == value
    with pytest.raises(ValidationError):
        canonical.take({"userName": "ana"}, Login)


def test_same_set_is_the_same_text_whatever_its_order() -> None:
    words = [f"word {number:02}" for number in range(50)]
    assert json.loads(canonical.encode(set(words), set[str])) == words
