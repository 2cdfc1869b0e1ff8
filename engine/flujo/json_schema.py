"""A value checked against a JSON Schema of the kind that pydantic writes: for forms that outlived their model.

Checked are types, required and unknown properties, items, bounds, lengths, patterns, enumerations and alternatives.
`format` is not, nor are keywords that pydantic does not write.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from flujo import canonical

Schema = dict[str, Any]
Location = tuple[str | int, ...]
Problem = tuple[Location, str]
MAX_DEPTH: Final = 200

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int,),
}
Limits = dict[str, tuple[Callable[[Decimal, Decimal], bool], str]]
_BOUNDS: Final[Limits] = {
    "minimum": (operator.ge, "must be at least"),
    "maximum": (operator.le, "must be at most"),
    "exclusiveMinimum": (operator.gt, "must be greater than"),
    "exclusiveMaximum": (operator.lt, "must be less than"),
    "multipleOf": (lambda value, bound: value % bound == 0, "must be a multiple of"),
}
_LENGTHS: Final[dict[type, Limits]] = {
    str: {
        "minLength": (operator.ge, "must have at least this many characters:"),
        "maxLength": (operator.le, "must have at most this many characters:"),
    },
    list: {
        "minItems": (operator.ge, "must have at least this many items:"),
        "maxItems": (operator.le, "must have at most this many items:"),
    },
    dict: {
        "minProperties": (operator.ge, "must have at least this many entries:"),
        "maxProperties": (operator.le, "must have at most this many entries:"),
    },
}


def problems(schema: Schema, value: Any) -> list[dict[str, Any]]:
    """What of a JSON value does not fit, in the shape of pydantic's errors; nothing when all does."""
    found = _Checker(schema).check(schema, value, (), 0)
    return [{"loc": list(location), "msg": message, "type": "stored_schema"} for location, message in found]


class _Checker:
    """Knows the schema that references point into."""

    def __init__(self, root: Schema) -> None:
        self._root = root

    def check(self, schema: Any, value: Any, at: Location, depth: int) -> Iterator[Problem]:
        """What of the value does not fit the schema."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            if schema is False:
                yield at, "is not allowed"
            return
        if "$ref" in schema:
            yield from self.check(self._target(schema["$ref"]), value, at, depth + 1)
        wrong_type = _wrong_type(schema.get("type"), value)
        if wrong_type:
            yield at, wrong_type
            return
        yield from _plain(schema, value, at)
        yield from self._alternatives(schema, value, at, depth + 1)
        if isinstance(value, dict):
            yield from self._object(schema, value, at, depth + 1)
        if isinstance(value, list):
            yield from self._array(schema, value, at, depth + 1)

    def _target(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found

    def _alternatives(self, schema: Schema, value: Any, at: Location, depth: int) -> Iterator[Problem]:
        for part in schema.get("allOf", ()):
            yield from self.check(part, value, at, depth)
        for word in ("anyOf", "oneOf"):
            options = schema.get(word)
            if options and all(any(self.check(option, value, at, depth)) for option in options):
                yield at, "fits none of the forms that were allowed"

    def _object(self, schema: Schema, value: dict[str, Any], at: Location, depth: int) -> Iterator[Problem]:
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield (*at, name), "is required"
        for name, part in value.items():
            known = properties.get(name, schema.get("additionalProperties", True))
            if known is False:
                yield (*at, name), "was not asked for"
            else:
                yield from self.check(known, part, (*at, name), depth)

    def _array(self, schema: Schema, value: list[Any], at: Location, depth: int) -> Iterator[Problem]:
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            part = first[index] if index < len(first) else schema.get("items", True)
            yield from self.check(part, item, (*at, index), depth)
        if schema.get("uniqueItems") and len({canonical.dump(item) for item in value}) != len(value):
            yield at, "must not hold the same item twice"


def _wrong_type(wanted: Any, value: Any) -> str:
    words = [wanted] if isinstance(wanted, str) else wanted or []
    if not words or any(_is(word, value) for word in words):
        return ""
    return f"must be {' or '.join(words)}"


def _is(word: str, value: Any) -> bool:
    if isinstance(value, bool):
        return word == "boolean"
    if word == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(word, (object,)))


def _plain(schema: Schema, value: Any, at: Location) -> Iterator[Problem]:
    text = canonical.dump(value)
    if "const" in schema and text != canonical.dump(schema["const"]):
        yield at, f"must be {canonical.dump(schema['const'])}"
    if "enum" in schema and text not in map(canonical.dump, schema["enum"]):
        yield at, "is none of the values that were offered"
    yield from _within(_BOUNDS, schema, _number(value), at)
    yield from _within(_LENGTHS.get(type(value), {}), schema, _size(value), at)
    if isinstance(value, str) and "pattern" in schema and not _matches(schema["pattern"], value):
        yield at, f"must match {schema['pattern']}"


def _within(limits: Limits, schema: Schema, size: Decimal | None, at: Location) -> Iterator[Problem]:
    for word, (fits, message) in limits.items():
        if size is not None and word in schema and not fits(size, Decimal(str(schema[word]))):
            yield at, f"{message} {schema[word]}"


def _number(value: Any) -> Decimal | None:
    return Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _size(value: Any) -> Decimal | None:
    return Decimal(len(value)) if isinstance(value, str | list | dict) else None


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return True  # a pattern of another dialect is the model's business alone
