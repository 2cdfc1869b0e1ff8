"""Each type: shown, posted untouched or typed over, and equal in the pydantic model again."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from django.http import QueryDict
from django.utils import timezone
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, create_model

from runs.forms import SchemaForm
from tests.runs.form_browser import page, touch_nothing

BIG = 9007199254740993


class Colour(Enum):
    RED = "red"
    SEA = "sea green"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """Where it goes."""

    street: str
    number: int = 7


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog", "wolf"] = "dog"
    name: str


class Node(BaseModel):
    word: str
    inside: list[Node] = []
    next: Node | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
BERLIN_SUMMER = "2026-07-01T10:00:00.123456+02:00"

VALUES: list[tuple[Any, Any]] = [
    (int, BIG),
    (int, -3),
    (int, 10**60),
    (Decimal, Decimal("0.10")),
    (Decimal, Decimal("-1E+3")),
    (Decimal | None, None),
    (float, 1.5),
    (float, 1e300),
    (bool, False),
    (bool, True),
    (bool | None, None),
    (bool | None, False),
    (str, "naïve 東京 🚀  two spaces "),
    (str, ""),
    (str, " "),
    (str, "one\ntwo\n"),
    (str, "\nfirst line empty"),
    (str, "carriage\r\nreturn\rs"),
    (str, 'quotes " & <tags>'),
    (str, "nul \0 and lone \u0007 bell"),
    (str | None, None),
    (str | None, ""),
    (date, date(2026, 2, 28)),
    (date | None, None),
    (datetime, datetime(2026, 7, 1, 10, 0, 0, 123456, tzinfo=UTC)),
    (datetime, datetime.fromisoformat("2026-07-01T10:00")),
    (time, time(23, 59, 58, 7)),
    (time, time(10, 0, tzinfo=UTC)),
    (timedelta, timedelta(hours=3, seconds=2)),
    (UUID, UUID(int=5)),
    (Colour, Colour.SEA),
    (Colour | None, None),
    (Level, Level.HIGH),
    (Literal[1, 2], 2),
    (Literal[1, "1", True], "1"),
    (Literal[1, "1", True], True),
    (Literal["a"] | None, None),
    (Literal["", "b"], ""),
    (Literal["only"], "only"),
    (Literal[1, 2, 3, 4, 5, 6], 6),
    (list[str], ["ä", "", "b "]),
    (list[str], []),
    (list[int], [BIG, 0]),
    (list[int | None], [1, None]),
    (list[bool], [True, False]),
    (list[str] | None, None),
    (list[str] | None, []),
    (set[int], {3, 1}),
    (tuple[int, str], (4, "x")),
    (list[list[int]], [[1], [], [2, 3]]),
    (Address, Address(street="Main", number=BIG)),
    (Address | None, None),
    (Address | None, Address(street="")),
    (list[Address], [Address(street="a"), Address(street="b", number=1)]),
    (Node, Node(word="a", inside=[Node(word="b", next=Node(word="c"))])),
    (Pet, Cat(kind="cat", lives=9)),
    (Pet, Dog(kind="wolf", name="Akela")),
    (Pet | None, None),
    (list[Pet], [Cat(kind="cat", lives=1), Dog(name="Rex")]),
    (int | str, "5"),
    (int | str, 5),
    (dict[str, int], {"a": BIG, "ä": 1}),
    (dict[str, Any] | None, None),
    (Any, None),
    (Any, {"deep": [1, {"a": None}], "text": "\u2028"}),
    (list, [1, "two", None]),
    (Open, Open.model_validate({"known": 1, "other": [2], "more": "x"})),
]


def model_of(kind: Any) -> type[BaseModel]:
    return create_model("Answer", field=(kind, ...))


def stored(model: BaseModel) -> Any:
    """The value as the engine keeps it: through JSON text."""
    return json.loads(model.model_dump_json())


def ids(pair: Any) -> str:
    return repr(pair)[:40]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_an_untouched_value_comes_back_equal_and_of_its_type(kind: Any, value: Any) -> None:
    model = model_of(kind)
    before = model(field=value)
    form = touch_nothing(model.model_json_schema(), stored(before))
    assert form.is_valid(), form.errors_summary
    assert form.value == stored(before)
    again: Any = model.model_validate_json(json.dumps(form.value))
    assert again == before
    assert type(again.field) is type(value)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_an_untouched_default_comes_back_equal(kind: Any, value: Any) -> None:
    model = create_model("Answer", field=(kind, value))
    form = touch_nothing(model.model_json_schema())
    assert form.is_valid(), form.errors_summary
    assert model.model_validate_json(json.dumps(form.value)) == model()


@pytest.mark.parametrize(("kind", "value"), [pair for pair in VALUES if pair[1] is not None], ids=ids)
def test_a_root_of_any_type_comes_back_equal(kind: Any, value: Any) -> None:
    adapter = TypeAdapter(kind)
    kept = json.loads(adapter.dump_json(value))
    form = touch_nothing(adapter.json_schema(), kept)
    assert form.is_valid(), form.errors_summary
    assert form.value == kept


TYPED: list[tuple[Any, str, Any]] = [
    (int, f" {BIG} ", BIG),
    (int, "-5", -5),
    (Decimal, "0.10", "0.10"),
    (float, "2.50", 2.5),
    (float, ".5", 0.5),
    (str, "a\r\nb", "a\nb"),
    (str, "  kept  ", "  kept  "),
    (str | None, "", None),
    (int | None, " ", None),
    (Decimal | None, "", None),
    (date | None, "", None),
    (date, "2026-02-28", "2026-02-28"),
    (time, "09:30", "09:30:00"),
    (datetime, "2026-07-01T10:00", "2026-07-01T10:00:00+00:00"),
    (Level, "2", 2),
    (Literal[1, "1", True], '"1"', "1"),
    (Literal[1, "1", True], "true", True),
    (Colour, "sea green", "sea green"),
    (Colour | None, "", None),
    (bool, "true", True),
    (bool, "false", False),
    (bool | None, "", None),
    (Any, '{"n": 9007199254740993}', {"n": BIG}),
    (dict[str, int] | None, "", None),
    (SecretStr, " hush ", " hush "),
]


@pytest.mark.parametrize(("kind", "text", "value"), TYPED, ids=ids)
def test_a_typed_text_becomes_a_value_of_its_type(kind: Any, text: str, value: Any) -> None:
    model = model_of(kind)
    data = QueryDict(mutable=True)
    data["f-field"] = text
    form = SchemaForm(model.model_json_schema(), data=data)
    assert form.is_valid(), form.errors_summary
    assert form.value == {"field": value}
    assert type(form.value["field"]) is type(value)
    model.model_validate_json(json.dumps(form.value))


REFUSED: list[tuple[Any, str, str]] = [
    (int, "", "whole number"),
    (int, "1.5", "whole number"),
    (int, "1_000", "whole number"),
    (int, "٣", "whole number"),
    (int, "9" * 2000, "1000 digits"),
    (float, "nan", "number"),
    (float, "Infinity", "number"),
    (float, "1e999", "too large"),
    (str, "", "Enter a value"),
    (str, "a\0b", "NUL"),
    (date, "28.2.2026", "date"),
    (date, "2026-02-30", "date"),
    (datetime, "noon", "date and time"),
    (time, "25:00", "time"),
    (bool, "", "yes or no"),
    (bool, "on", "yes or no"),
    (Colour, "blue", "one of the options"),
    (Literal[1, 2, 3, 4, 5], "", "one of the options"),
    (Any, "", "JSON"),
    (Any, "{", "line 1, column 2"),
    (Any, '{\n  "a": nope\n}', "line 2, column 8"),
    (Any, "[1,\n  NaN]", "line 2, column 3"),
    (Any, '{"a": 1,\n "\\u0061": 2}', "line 2, column 2"),
    (Any, "[" * 100 + "]" * 100, "60 levels"),
    (Any, "1e999", "too large"),
    (Any, "1" * 1001, "1000 digits"),
]


@pytest.mark.parametrize(("kind", "text", "words"), REFUSED, ids=ids)
def test_an_unreadable_text_is_refused_and_kept(kind: Any, text: str, words: str) -> None:
    data = QueryDict(mutable=True)
    data["f-field"] = text
    form = SchemaForm(model_of(kind).model_json_schema(), data=data)
    assert not form.is_valid()
    [problem] = form.errors_summary
    assert problem.id == "f-field"
    assert words in problem.message
    shown = page(form)
    kept = [control.attrs.get("value") or control.text.removeprefix("\n") for control in shown.controls]
    assert (
        text.replace("\0", "\ufffd") in kept or shown.controls[0].type == "radio" or shown.controls[0].tag == "select"
    )


def test_the_scenario_of_every_type_keeps_what_was_not_edited() -> None:
    class Order(BaseModel):
        note: str
        count: int
        price: Decimal
        paid: bool
        due: date
        tags: list[str]
        address: Address
        discount: Decimal | None = None
        colour: Colour
        name: str

    before = Order(
        note="old", count=BIG, price=Decimal("0.10"), paid=False, due=date(2026, 1, 31), tags=["a", "ß"],
        address=Address(street="Straße 1", number=BIG), discount=None, colour=Colour.SEA, name="Zoë 東京",
    )  # fmt: skip
    schema = Order.model_json_schema()
    posted = page(SchemaForm(schema, initial=stored(before))).posted(f__note="new")
    form = SchemaForm(schema, data=posted)  # as after a deploy: nothing is known but the schema and the post
    assert form.is_valid(), form.errors_summary
    after = Order.model_validate_json(json.dumps(form.value))
    assert after == before.model_copy(update={"note": "new"})
    assert str(after.price) == "0.10"
    assert after.discount is None


class TestMoments:
    """Dates and times, in the zone of the person who types them."""

    def form(self, text: str, initial: str | None = None) -> SchemaForm:
        data = QueryDict(mutable=True)
        data["f-field"] = text
        given = None if initial is None else {"field": initial}
        return SchemaForm(model_of(datetime).model_json_schema(), data=data, initial=given)

    def test_a_typed_time_gets_the_offset_of_the_users_zone(self) -> None:
        with timezone.override("Europe/Berlin"):
            form = self.form("2026-07-01T10:00")
            assert form.is_valid()
            assert form.value == {"field": "2026-07-01T10:00:00+02:00"}
            assert "Time zone: Europe/Berlin." in page(form).words

    def test_a_stored_time_is_shown_in_the_users_zone_and_kept_byte_for_byte(self) -> None:
        schema = model_of(datetime).model_json_schema()
        with timezone.override("America/New_York"):
            shown = page(SchemaForm(schema, initial={"field": BERLIN_SUMMER}))
            assert shown.control("f-field").attrs["value"] == "2026-07-01T04:00:00.123"
            form = SchemaForm(schema, data=shown.posted(), initial={"field": BERLIN_SUMMER})
            assert form.is_valid()
            assert form.value == {"field": BERLIN_SUMMER}

    def test_a_stored_time_in_the_doubled_hour_is_kept(self) -> None:
        with timezone.override("Europe/Berlin"):
            second = "2026-10-25T02:30:00+01:00"
            form = touch_nothing(model_of(datetime).model_json_schema(), {"field": second})
            assert form.is_valid()
            assert form.value == {"field": second}

    def test_a_time_the_clocks_skip_is_refused(self) -> None:
        with timezone.override("Europe/Berlin"):
            form = self.form("2026-03-29T02:30")
            assert not form.is_valid()
            assert "does not exist in Europe/Berlin" in form.errors_summary[0].message

    def test_a_stored_time_without_zone_gets_none(self) -> None:
        form = self.form("2026-07-01T11:00", initial="2026-07-01T10:00:00")
        assert form.is_valid()
        assert form.value == {"field": "2026-07-01T11:00:00"}

    def test_the_edges_of_the_calendar_are_no_server_error(self) -> None:
        with timezone.override("Asia/Tokyo"):
            assert not self.form("0001-01-01T00:00").is_valid()
            page(SchemaForm(model_of(datetime).model_json_schema(), initial={"field": "9999-12-31T23:59:59+00:00"}))
