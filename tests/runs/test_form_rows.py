"""Lists, optional models and unions: rows come and go with ordinary submit buttons."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from runs.forms import SchemaForm
from runs.forms.build import MAX_DEPTH
from runs.forms.rows import MAX_ROWS
from tests.runs.form_browser import Page, page, touch_nothing


class Line(BaseModel):
    item: str
    amount: int = 1


class Order(BaseModel):
    note: str = "n"
    lines: list[Line]
    tags: list[str] = Field(default_factory=list)
    gift: Line | None = None


class Card(BaseModel):
    kind: Literal["card"]
    digits: str


class Bill(BaseModel):
    kind: Literal["bill", "invoice"] = "bill"
    days: int = 30


class Split(BaseModel):
    kind: Literal["split"]
    first: Payment
    second: Payment


Payment = Annotated[Card | Bill | Split, Field(discriminator="kind")]
Split.model_rebuild()


class Paid(BaseModel):
    payment: Payment


ORDER = Order.model_json_schema()


def pressed(schema: dict[str, Any], shown: Page, press: str | None = None, **typed: Any) -> SchemaForm:
    return SchemaForm(schema, data=shown.posted(press=press, **typed))


def test_add_row_gives_a_row_and_decides_nothing() -> None:
    form = pressed(ORDER, page(SchemaForm(ORDER)), press="f-lines.add=1", f__note="typed")
    assert form.is_row_action
    assert not form.is_valid()
    assert form.errors_summary == []
    shown = page(form)
    assert shown.control("f-note").attrs["value"] == "typed"
    assert shown.control("f-lines-0-amount").attrs["value"] == "1", "a new row starts with the model's defaults"
    assert "autofocus" in shown.control("f-lines-0-item").attrs
    done = pressed(ORDER, shown, f__lines__0__item="nails")
    assert not done.is_row_action
    assert done.is_valid(), done.errors_summary
    assert done.value == {"note": "typed", "lines": [{"item": "nails", "amount": 1}], "gift": None}


def test_remove_takes_the_row_that_was_named_and_keeps_the_others() -> None:
    initial = {"lines": [{"item": word, "amount": 1} for word in "abc"]}
    form = pressed(ORDER, page(SchemaForm(ORDER, initial=initial)), press="f-lines.remove=1", f__lines__2__item="C!")
    assert form.is_row_action
    done = pressed(ORDER, page(form))
    assert done.is_valid()
    assert [line["item"] for line in done.value["lines"]] == ["a", "C!"]


def test_a_row_added_after_one_was_removed_is_new() -> None:
    initial = {"lines": [], "tags": ["a", "b"]}
    form = pressed(ORDER, page(SchemaForm(ORDER, initial=initial)), press="f-tags.remove=0")
    form = pressed(ORDER, page(form), press="f-tags.add=1")
    done = SchemaForm(ORDER, data=page(form).posted(f__tags__2="c"), initial=initial)
    assert done.is_valid(), done.errors_summary
    assert done.value["tags"] == ["b", "c"]


def test_an_optional_model_is_null_until_it_is_added() -> None:
    shown = page(SchemaForm(ORDER))
    assert "f-gift-0-item" not in shown.names()
    form = pressed(ORDER, shown, press="f-gift.add=1")
    shown = page(form)
    assert pressed(ORDER, shown).errors_summary == []
    done = pressed(ORDER, shown, f__gift__0__item="bow")
    assert done.is_valid(), done.errors_summary
    assert done.value["gift"] == {"item": "bow", "amount": 1}
    gone = pressed(ORDER, page(done), press="f-gift.remove=0")
    assert "f-gift-0-item" not in page(gone).names()
    assert pressed(ORDER, page(gone)).is_valid()


def test_rows_left_out_are_left_to_the_models_own_default() -> None:
    form = touch_nothing(ORDER, {"lines": []})
    assert form.is_valid()
    assert form.value == {"note": "n", "lines": [], "gift": None}


def test_enter_in_a_field_presses_a_button_that_decides_nothing() -> None:
    shown = page(SchemaForm(ORDER))
    first = next(control for control in shown.controls if control.tag == "button")
    form = pressed(ORDER, shown, press=f"{first.name}={first.attrs['value']}")
    assert form.is_row_action
    assert "f-lines-0-item" not in page(form).names()


def test_a_form_without_rows_has_no_buttons_of_its_own() -> None:
    schema = Line.model_json_schema()
    assert all(control.tag != "button" for control in page(SchemaForm(schema)).controls)


def test_another_forms_buttons_are_no_row_action() -> None:
    data = page(SchemaForm(ORDER, prefix="fx")).posted()
    data["fx-lines.add"] = "1"
    data["outcome"] = "approved"
    assert not SchemaForm(ORDER, data=data).is_row_action


def test_rows_are_bounded_with_a_sentence() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    full = page(SchemaForm(schema, initial=list(range(MAX_ROWS))))
    data = full.posted()
    data["f-value.add"] = "1"
    form = SchemaForm(schema, data=data)
    assert "No more rows fit" in form.errors_summary[0].message
    data = full.posted()
    data.appendlist("f-value.row", "999")
    data["f-value-999"] = "1"
    form = SchemaForm(schema, data=data)
    assert not form.is_valid()
    assert f"At most {MAX_ROWS} rows" in form.errors_summary[0].message


@pytest.mark.parametrize("count", [MAX_ROWS + 1, 5000])
def test_more_rows_than_fit_are_written_as_json_and_kept(count: int) -> None:
    schema = {"type": "object", "properties": {"many": {"type": "array", "items": {"type": "integer"}}}}
    initial = {"many": list(range(count))}
    shown = page(SchemaForm(schema, initial=initial))
    assert "too many for single fields" in shown.words
    form = SchemaForm(schema, data=shown.posted())
    assert form.is_valid(), form.errors_summary
    assert form.value == initial


def test_a_form_never_has_more_values_than_a_post_may_carry() -> None:
    class Wide(BaseModel):
        rows: list[list[Line]]

    initial = {"rows": [[{"item": "x", "amount": 1}] * 50 for _ in range(50)]}
    shown = page(SchemaForm(Wide.model_json_schema(), initial=initial))
    data = shown.posted()
    assert sum(len(values) for _name, values in data.lists()) < 1000
    form = SchemaForm(Wide.model_json_schema(), data=data)
    assert form.is_valid(), form.errors_summary
    assert form.value == initial


def test_a_model_within_itself_stops_at_a_depth_and_keeps_what_lies_deeper() -> None:
    value: dict[str, Any] = {"inside": []}
    for _ in range(MAX_DEPTH + 5):
        value = {"inside": [value]}
    schema = {
        "$defs": {"N": {"type": "object", "properties": {"inside": {"type": "array", "items": {"$ref": "#/$defs/N"}}}}},
        "$ref": "#/$defs/N",
    }
    shown = page(SchemaForm(schema, initial=value))
    assert f"nested more than {MAX_DEPTH} levels" in shown.words
    form = SchemaForm(schema, data=shown.posted())
    assert form.is_valid()
    assert form.value == value


def test_least_rows_are_there_to_be_filled_in() -> None:
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3}
    shown = page(SchemaForm(schema))
    assert {"f-value-0", "f-value-1"} <= set(shown.names())
    assert "At least 2. At most 3." in shown.words


PAID = Paid.model_json_schema()


def test_a_union_shows_every_model_so_that_no_script_is_needed() -> None:
    shown = page(SchemaForm(PAID))
    assert {"f-payment-kind", "f-payment.0-digits", "f-payment.1-days"} <= set(shown.names())


def test_a_union_reads_the_fields_of_the_chosen_model_only() -> None:
    shown = page(SchemaForm(PAID))
    form = pressed(PAID, shown, f__payment__kind="invoice")
    assert form.is_valid(), form.errors_summary
    assert form.value == {"payment": {"kind": "invoice", "days": 30}}
    form = pressed(PAID, shown, f__payment__kind="card")
    assert [problem.id for problem in form.errors_summary] == []
    assert not form.is_valid()
    assert [problem.id for problem in form.errors_summary] == ["f-payment.0-digits"]


def test_a_union_keeps_what_was_typed_for_the_models_not_chosen() -> None:
    shown = page(SchemaForm(PAID))
    data = shown.posted(f__payment__kind="invoice")
    data["f-payment.0-digits"] = "4111"
    again = page(SchemaForm(PAID, data=data))
    assert again.control("f-payment.0-digits").attrs["value"] == "4111"


def test_a_union_must_be_chosen() -> None:
    form = pressed(PAID, page(SchemaForm(PAID)))
    assert not form.is_valid()
    assert form.errors_summary[0].id == "f-payment-kind"


def test_a_union_within_a_union_shows_its_model_when_asked() -> None:
    shown = page(SchemaForm(PAID))
    data = shown.posted(f__payment__kind="split")
    names = [name for name in shown.names() if name.startswith("f-payment.2-")]
    data["f-payment.2-first-kind"] = "card"
    data["f-payment.2-second-kind"] = "bill"
    assert not any(name.endswith("digits") for name in names)
    data["f-payment.2-first.refresh"] = "1"
    form = SchemaForm(PAID, data=data)
    assert form.is_row_action
    data = page(form).posted()
    data["f-payment.2-first.0-digits"] = "42"
    done = SchemaForm(PAID, data=data)
    assert done.is_valid(), done.errors_summary
    assert done.value["payment"]["first"] == {"kind": "card", "digits": "42"}
    Paid.model_validate(done.value)


def test_a_prepared_row_is_the_row_the_server_would_add() -> None:
    form = SchemaForm(ORDER)
    prepared = form.render().split("<template", 1)[1].split("</template>")[0].partition(">")[2]
    added = page(pressed(ORDER, page(form), press="f-lines.add=1")).html
    row = prepared.replace("__row1__", "0")
    assert row.count('name="f-lines-0-item"') == added.split("<template")[0].count('name="f-lines-0-item"') == 1
