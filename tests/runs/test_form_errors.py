"""What the model refuses is said at the field that was typed into."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from django.http import QueryDict
from pydantic import BaseModel, Field, ValidationError, model_validator

from runs.forms import SchemaForm
from tests.runs.form_browser import page


class Line(BaseModel):
    item: str = Field(min_length=2)
    amount: Decimal = Field(gt=0)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Order(BaseModel):
    amount: int = Field(gt=0, alias="the-amount")
    lines: list[Line]
    gift: Line | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    extra: dict[str, int]
    pair: tuple[int, int]
    either: int | list[int]

    @model_validator(mode="after")
    def amounts_agree(self) -> Order:
        if self.amount == 13:
            raise ValueError("Thirteen is unlucky.")
        return self


GOOD: dict[str, Any] = {
    "the-amount": 1, "lines": [{"item": "ab", "amount": "1"}, {"item": "ab", "amount": "1"}], "gift": None,
    "pet": {"kind": "cat", "lives": 1}, "extra": {"a": 1}, "pair": [1, 2], "either": 1,
}  # fmt: skip


def refused(change: dict[str, Any]) -> SchemaForm:
    """The form after the model refused these values."""
    schema, initial = Order.model_json_schema(), {**GOOD, **change}
    form = SchemaForm(schema, data=page(SchemaForm(schema, initial=initial)).posted(), initial=initial)
    assert form.is_valid(), form.errors_summary
    with pytest.raises(ValidationError) as caught:
        Order.model_validate_json(__import__("json").dumps(form.value))
    form.add_errors([dict(error) for error in caught.value.errors()])
    return form


PLACES = [
    ({"the-amount": -5}, "f-the~2d~amount", "The-amount", "greater than 0"),
    ({"lines": [GOOD["lines"][0], {"item": "ab", "amount": "0"}]}, "f-lines-1-amount", "Lines 2: Amount", "than 0"),
    ({"gift": {"item": "x", "amount": "1"}}, "f-gift-0-item", "Gift: Item", "at least 2"),
    ({"pet": {"kind": "cat", "lives": 10}}, "f-pet.0-lives", "Pet: Lives", "less than or equal to 9"),
    ({"extra": {"a": "x"}}, "f-extra", "Extra", "(at a)"),
    ({"pair": [1, 2.5]}, "f-pair-1", "Pair: Item 2", "integer"),
    ({"either": "x"}, "f-either", "Either", "valid integer"),
]


@pytest.mark.parametrize(("change", "identity", "label", "words"), PLACES, ids=[place[1] for place in PLACES])
def test_an_error_is_said_at_its_field(change: dict[str, Any], identity: str, label: str, words: str) -> None:
    if change.get("pair"):
        form = SchemaForm(Order.model_json_schema(), data=QueryDict(""), initial=GOOD)
        form.add_errors([{"loc": ("pair", 1), "msg": "Input should be a valid integer"}])
    else:
        form = refused(change)
    problem = form.errors_summary[0]
    assert (problem.id, problem.label) == (identity, label)
    assert words in problem.message
    shown = page(form)
    assert f"{identity}.error" in shown.ids
    described = [attrs for _tag, attrs in shown.tags if f"{identity}.error" in (attrs.get("aria-describedby") or "")]
    assert described
    assert f'href="#{identity}"' in shown.html


def test_a_removed_row_does_not_shift_the_errors_of_the_others() -> None:
    schema = Order.model_json_schema()
    initial = {**GOOD, "lines": [*GOOD["lines"], {"item": "ab", "amount": "0"}]}
    data = page(SchemaForm(schema, initial=initial)).posted(press="f-lines.remove=0")
    form = SchemaForm(schema, data=page(SchemaForm(schema, data=data)).posted())
    assert form.is_valid()
    form.add_errors([{"loc": ("lines", 1, "amount"), "msg": "too small"}])
    assert form.errors_summary[0][:2] == ("f-lines-2-amount", "Lines 2: Amount")


def test_an_error_of_the_whole_is_said_in_the_summary_without_pydantics_prefix() -> None:
    form = refused({"the-amount": 13})
    assert form.errors_summary == [("", "", "Thirteen is unlucky.")]
    assert "Thirteen is unlucky." in page(form).words


def test_an_error_at_a_place_the_form_does_not_have_goes_to_the_summary() -> None:
    form = SchemaForm(Order.model_json_schema(), data=QueryDict(""))
    form.add_errors([{"loc": ("gone", 0), "msg": "No longer known", "type": "x"}, {"msg": "nowhere"}])
    assert [problem.message for problem in form.errors_summary] == ["No longer known", "nowhere"]


def test_an_error_of_an_optional_model_is_said_where_the_model_is_seen() -> None:
    schema = Order.model_json_schema()
    initial = {**GOOD, "gift": {"item": "ab", "amount": "1"}}
    given = SchemaForm(schema, data=page(SchemaForm(schema, initial=initial)).posted())
    given.add_errors([{"loc": ("gift",), "msg": "Not on Sundays."}])
    assert given.errors_summary == [("f-gift-0", "Gift", "Not on Sundays.")]
    assert "f-gift-0.error" in page(given).ids


def test_an_error_of_a_single_value_is_said_at_the_value() -> None:
    data = QueryDict(mutable=True)
    data["f-value"] = "-5"
    form = SchemaForm({"type": "integer", "title": "Amount"}, data=data)
    assert form.is_valid()
    assert form.value == -5
    form.add_errors([{"loc": (), "msg": "Input should be greater than 0"}])
    assert form.errors_summary == [("f-value", "Amount", "Input should be greater than 0")]


def test_the_summary_takes_focus_and_is_no_alert() -> None:
    html = refused({"the-amount": -5}).render()
    assert 'tabindex="-1" autofocus data-focus-on-load' in html
    assert 'role="alert"' not in html


def test_a_refused_value_is_shown_as_it_was_typed() -> None:
    form = refused({"the-amount": -5})
    control = page(form).control("f-the~2d~amount")
    assert control.attrs["value"] == "-5"
    assert control.attrs["aria-invalid"] == "true"


def test_a_form_that_is_not_valid_has_no_value() -> None:
    form = SchemaForm({"type": "integer"}, data=QueryDict(""))
    assert not form.is_valid()
    with pytest.raises(ValueError, match="is_valid"):
        assert form.value


def test_reading_a_form_twice_says_each_error_once() -> None:
    form = SchemaForm({"type": "integer"}, data=QueryDict(""))
    assert not form.is_valid()
    assert not form.is_valid()
    assert len(form.errors_summary) == 1
