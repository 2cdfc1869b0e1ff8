"""The form's HTML: readable by everybody, closed to hostile words, silent about secrets."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from django.http import QueryDict
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from runs.forms import SchemaForm
from runs.uploads import UploadedFile
from tests.runs.form_browser import Page, page, touch_nothing

HOSTILE = "\"><svg onload=alert(1)></textarea></script>'{{ 7|add:7 }}"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    """Something inside."""

    word: str = Field(description="One word.", examples=["tree"])


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Everything(BaseModel):
    text: str = Field(title="Your text", description="What you think.", examples=["It is good."], max_length=20)
    story: str = Field(max_length=2000)
    count: int = Field(ge=0, le=10)
    price: Decimal = Decimal("1.50")
    sure: bool
    maybe: bool | None = None
    flag: bool = True
    colour: Colour
    level: Literal[1, 2, 3, 4, 5, 6]
    fixed: Literal["v1"] = "v1"
    when: str = Field(json_schema_extra={"format": "date-time"})
    inner: Inner
    maybe_inner: Inner | None = None
    words: list[str] = ["a"]
    inners: list[Inner]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    anything: Any = None
    pair: tuple[int, str]
    file: UploadedFile
    password: SecretStr


EVERYTHING = Everything.model_json_schema()


def forms() -> dict[str, SchemaForm]:
    shown = SchemaForm(EVERYTHING, initial={"inners": [{"word": "a"}], "maybe_inner": {"word": "b"}})
    wrong = SchemaForm(EVERYTHING, data=page(shown).posted())
    wrong.is_valid()
    return {
        "first": SchemaForm(EVERYTHING),
        "filled": shown,
        "wrong": wrong,
        "disabled": SchemaForm(EVERYTHING, initial={"inners": [{"word": "a"}]}, disabled=True),
    }


@pytest.fixture(params=["first", "filled", "wrong", "disabled"])
def shown(request: pytest.FixtureRequest) -> Page:
    return page(forms()[request.param])


def test_every_control_has_a_label(shown: Page) -> None:
    labelled = {attrs.get("for") for tag, attrs in shown.tags if tag == "label"}
    for control in shown.controls:
        if control.tag != "button" and control.type != "hidden":
            assert control.attrs["id"] in labelled


def test_every_id_is_there_once_and_every_reference_leads_to_one(shown: Page) -> None:
    assert len(set(shown.ids)) == len(shown.ids)
    for _tag, attrs in shown.tags:
        for name in ("for", "aria-describedby", "aria-labelledby"):
            for identity in (attrs.get(name) or "").split():
                assert identity in shown.ids, (name, identity)
        if (attrs.get("href") or "").startswith("#"):
            assert (attrs["href"] or "")[1:] in shown.ids


def test_nothing_is_inline_that_a_strict_policy_refuses(shown: Page) -> None:
    for tag, attrs in shown.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"]
        assert tag != "style"
        assert tag != "script" or attrs.get("src")


def test_no_control_lets_the_browser_touch_the_value(shown: Page) -> None:
    for control in shown.controls:
        assert control.type not in ("number", "email", "url"), "they strip, round or refuse what the model may take"
        assert not {"pattern", "maxlength", "minlength", "required"} & set(control.attrs)


def test_words_say_what_is_asked() -> None:
    shown = page(SchemaForm(EVERYTHING))
    said = " ".join(shown.words.split())
    for words in ("Your text (required)", "What you think.", "At most 20 characters.", "At least 0, at most 10.",
                  "Maybe (optional)", "Time zone: UTC.", "Something inside.", "One word."):  # fmt: skip
        assert words in said
    assert shown.control("f-text").attrs["placeholder"] == "e.g. It is good."
    assert shown.control("f-story").tag == "textarea"
    assert shown.control("f-count").attrs["inputmode"] == "numeric"
    assert shown.control("f-price").attrs["inputmode"] == "decimal"
    assert shown.control("f-level").tag == "select"
    assert [control.type for control in shown.controls if control.name == "f-colour"] == ["radio"] * 2
    assert [control.type for control in shown.controls if control.name == "f-sure"] == ["radio"] * 2
    assert [control.type for control in shown.controls if control.name == "f-maybe"] == ["radio"] * 3
    assert shown.control("f-flag").type == "checkbox"
    assert "f-fixed" not in shown.names()


def test_a_required_truth_value_is_not_answered_beforehand() -> None:
    data = page(SchemaForm(EVERYTHING)).posted()
    assert "f-sure" not in data
    assert data["f-flag"] == "true"


def test_thousands_are_not_separated(settings: Any) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    shown = page(SchemaForm({"type": "integer"}, initial=1234567))
    assert shown.control("f-value").attrs["value"] == "1234567"


def hostile(schema: Any) -> Any:
    """The schema with every word of its author replaced."""
    if isinstance(schema, dict):
        return {
            key: HOSTILE
            if key in ("title", "description")
            else [HOSTILE]
            if key == "examples"
            else [f"{HOSTILE}{item}" for item in value]
            if key == "enum" and all(isinstance(item, str) for item in value)
            else hostile(value)
            for key, value in schema.items()
        }
    return [hostile(value) for value in schema] if isinstance(schema, list) else schema


def test_hostile_words_of_a_schema_stay_words() -> None:
    schema: Any = hostile(EVERYTHING)
    schema["properties"] = {f"{name}{HOSTILE}": part for name, part in schema["properties"].items()}
    initial = {f"text{HOSTILE}": HOSTILE, f"story{HOSTILE}": HOSTILE, f"anything{HOSTILE}": {HOSTILE: HOSTILE}}
    for form in (SchemaForm(schema, initial=initial), SchemaForm(schema, initial=initial, disabled=True)):
        shown = page(form)
        assert {tag for tag, _attrs in shown.tags} <= {
            "div", "p", "span", "label", "input", "textarea", "select", "option", "fieldset", "legend", "button",
            "template", "script", "section", "h2", "ul", "li", "a", "strong",
        }  # fmt: skip
        assert not any(name.startswith("on") for _tag, attrs in shown.tags for name in attrs)
        assert "14" not in shown.words
    wrong = SchemaForm(schema, data=page(SchemaForm(schema)).posted())
    wrong.is_valid()
    wrong.add_errors([{"loc": (HOSTILE,), "msg": HOSTILE}, {"loc": (f"text{HOSTILE}",), "msg": HOSTILE}])
    assert HOSTILE in page(wrong).words


def test_hostile_property_names_cannot_take_each_others_place() -> None:
    names = ["a-b", "a.b", "a~2d~b", "a", "a.add", "a.row", "", " ", "ä", "0", "__row1__"]
    schema: Any = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    schema["properties"]["a"] = {"type": "object", "properties": {"b": {"type": "string"}}}
    initial = {name: f"value of {name}" for name in names} | {"a": {"b": "inside"}}
    form = touch_nothing(schema, initial)
    assert not form.is_row_action
    assert form.is_valid()
    assert form.value == initial


class Account(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    password: SecretStr
    pin: SecretStr | None = None
    others: list[SecretStr] = []
    by_host: dict[str, SecretStr] = {}
    either: int | SecretStr = 1
    standard: SecretStr = SecretStr("standard-5ecret")


STORED = {
    "name": "ana", "password": "p-5ecret", "pin": "n-5ecret", "others": ["o-5ecret"], "by_host": {"h": "h-5ecret"},
    "either": "e-5ecret", "standard": "s-5ecret",
}  # fmt: skip


class TestSecrets:
    schema = Account.model_json_schema()

    @pytest.mark.parametrize("disabled", [False, True])
    def test_a_stored_secret_is_never_shown(self, disabled: bool) -> None:
        html = SchemaForm(self.schema, initial=STORED, disabled=disabled).render()
        assert "5ecret" not in html
        assert "****" not in html

    def test_a_typed_secret_is_never_shown_again(self) -> None:
        data = page(SchemaForm(self.schema, initial=STORED)).posted(
            f__password="typed-5ecret", f__by_host='{"h": "typed-5ecret"', f__name="", f__others__0="typed-5ecret"
        )
        form = SchemaForm(self.schema, data=data)
        assert not form.is_valid()
        assert "5ecret" not in form.render()
        assert "enter it once more" in form.render()

    def test_an_untouched_secret_stays_what_it_was(self) -> None:
        form = touch_nothing(self.schema, STORED)
        assert form.is_valid(), form.errors_summary
        assert form.value == STORED
        kept = Account.model_validate_json(json.dumps(form.value))
        assert kept.standard.get_secret_value() == "s-5ecret"

    def test_the_stars_of_a_default_never_become_the_secret(self) -> None:
        data = page(SchemaForm(self.schema)).posted(f__name="ana", f__password="new", f__by_host="{}", f__either="1")
        form = SchemaForm(self.schema, data=data)
        assert form.is_valid(), form.errors_summary
        assert Account.model_validate(form.value).standard.get_secret_value() == "standard-5ecret"

    def test_a_secret_is_kept_with_its_spaces(self) -> None:
        data = QueryDict(mutable=True)
        data["f-value"] = "  "
        form = SchemaForm({"type": "string", "format": "password", "writeOnly": True}, data=data)
        assert form.is_valid()
        assert form.value == "  "


class TestDisabled:
    def test_a_disabled_form_shows_the_values_and_takes_none(self) -> None:
        initial = {
            "text": "said", "count": 3, "sure": True, "colour": "blue", "inners": [{"word": "deep"}],
            "pet": {"kind": "dog", "name": "Rex"}, "words": ["x", "y"],
        }  # fmt: skip
        form = SchemaForm(EVERYTHING, initial=initial, disabled=True)
        shown = page(form)
        values = [control.attrs.get("value") for control in shown.controls]
        for value in ("said", "3", "deep", "Rex", "x", "y"):
            assert value in values
        for control in shown.controls:
            if control.type != "hidden":
                assert "readonly" in control.attrs or "disabled" in control.attrs
        assert not [control for control in shown.controls if control.tag == "button"]
        assert "f-pet.0-lives" not in shown.names(), "only the chosen model was answered"
        assert not SchemaForm(EVERYTHING, data=shown.posted(), initial=initial, disabled=True).is_valid()

    def test_a_disabled_form_keeps_what_was_typed_when_it_came_too_late(self) -> None:
        data = page(SchemaForm(EVERYTHING)).posted(f__text="too late")
        shown = page(SchemaForm(EVERYTHING, data=data, disabled=True))
        assert shown.control("f-text").attrs["value"] == "too late"

    def test_a_disabled_form_refuses_even_a_good_answer(self) -> None:
        data = QueryDict("f-value=5")
        assert SchemaForm({"type": "integer"}, data=data).is_valid()
        assert not SchemaForm({"type": "integer"}, data=data, disabled=True).is_valid()
