"""Whatever a model holds: shown as a form and sent back untouched, it is the same value."""

from __future__ import annotations

import json
import string
import types
from datetime import timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from runs.forms import SchemaForm
from tests.runs.form_browser import page


class Shape(Enum):
    ROUND = "round"
    FLAT = ""
    ODD = 'odd "<shape>"'


Typed = tuple[Any, st.SearchStrategy[Any]]
zones = st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
    lambda off: timezone(timedelta(minutes=off // timedelta(minutes=1)))
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
LEAVES: list[Typed] = [
    (str, texts),
    (int, st.integers()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (Shape, st.sampled_from(Shape)),
    (Literal[1, "1", True, "x"] | None, st.sampled_from([1, "1", True, "x", None])),
    (Any, json_values),
    (dict[str, int], st.dictionaries(texts, st.integers(), max_size=3)),
]
MOMENTS: list[tuple[str, st.SearchStrategy[Any]]] = [
    ("date", st.dates()),
    ("date-time", st.datetimes(timezones=st.none() | zones)),
    ("time", st.times()),
]
words = st.text(string.ascii_letters + "_", min_size=1, max_size=8).map(lambda word: f"f{word}")


def models(fields: dict[str, Typed]) -> Typed:
    parts: dict[str, Any] = {name: (kind, ...) for name, (kind, _values) in fields.items()}
    model = create_model("Inner", **parts)
    values = st.fixed_dictionaries({name: values for name, (_kind, values) in fields.items()})
    return model, values.map(model.model_validate)


def bigger(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda typed: (types.GenericAlias(list, (typed[0],)), st.lists(typed[1], max_size=3))),
        inner.map(lambda typed: (typed[0] | None, st.none() | typed[1]) if typed[0] is not Any else typed),
        st.dictionaries(words, inner, min_size=1, max_size=3).map(models),
    )


typed_values = st.recursive(st.sampled_from(LEAVES), bigger, max_leaves=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_model_comes_back_equal_when_nothing_is_touched(data: st.DataObject) -> None:
    kind, values = data.draw(typed_values)
    model: type[BaseModel] = create_model("Answer", field=(kind, ...))
    before = model(field=data.draw(values))
    kept = json.loads(before.model_dump_json())
    schema = model.model_json_schema()
    shown = page(SchemaForm(schema, initial=kept))
    form = SchemaForm(schema, data=shown.posted(), initial=kept)
    assert form.is_valid(), form.errors_summary
    assert form.value == kept
    assert json.dumps(form.value, sort_keys=True) == json.dumps(kept, sort_keys=True)
    assert model.model_validate_json(json.dumps(form.value)) == before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_moment_comes_back_byte_for_byte_when_nothing_is_touched(data: st.DataObject) -> None:
    word, moments = data.draw(st.sampled_from(MOMENTS))
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": word}}, "required": ["at"]}
    kept = {"at": data.draw(moments).isoformat()}
    shown = page(SchemaForm(schema, initial=kept))
    form = SchemaForm(schema, data=shown.posted(), initial=kept)
    assert form.is_valid(), form.errors_summary
    assert form.value == kept


@settings(max_examples=60, deadline=None)
@given(st.recursive(json_values, lambda inner: st.dictionaries(st.sampled_from(
    ["type", "properties", "items", "anyOf", "oneOf", "$ref", "enum", "const", "format", "title", "default",
     "required", "examples", "prefixItems", "minItems", "additionalProperties", "allOf", "discriminator"]),
    inner | st.sampled_from(["object", "array", "string", "integer", "#", "#/properties", "date-time"])
    | st.lists(inner, max_size=3), max_size=4), max_leaves=12))  # fmt: skip
def test_a_schema_of_any_shape_is_shown(schema: Any) -> None:
    if isinstance(schema, dict):
        form = SchemaForm(schema)
        SchemaForm(schema, data=page(form).posted()).is_valid()
