"""What a stored JSON Schema says about one field: its kind, words, and whether it may be left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from runs.uploads import SCHEMA_FORMAT

Schema = Mapping[str, Any]


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
_TEXT_FORMATS = {"date": "date", "date-time": "datetime", "time": "time", "password": "secret"}
_KEYWORDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "$ref": str,
    "format": str,
    "description": str,
    "title": str,
    "properties": Mapping,
    "discriminator": Mapping,
    "allOf": list,
    "anyOf": list,
    "oneOf": list,
    "enum": list,
    "examples": list,
    "prefixItems": list,
    "required": list,
    "minItems": int,
    "maxItems": int,
    "minLength": int,
    "maxLength": int,
    "minimum": (int, float),
    "maximum": (int, float),
    "exclusiveMinimum": (int, float),
    "exclusiveMaximum": (int, float),
    "multipleOf": (int, float),
}
"""What a keyword must be. Authors can write anything into a schema: what has another type is left out."""
_TYPES = {"integer": "integer", "number": "number", "boolean": "boolean"}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One field as the schema describes it, references resolved and null taken out into `nullable`."""

    schema: Schema
    kind: str
    label: str
    help: str = ""
    example: str = ""
    required: bool = True
    nullable: bool = False
    default: Any = field(default=MISSING)

    @property
    def may_be_absent(self) -> bool:
        """Whether leaving the property out is right: the model fills it in by a rule the schema does not show."""
        return not self.required and self.default is MISSING


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model of a discriminated union, and the values of the property that choose it."""

    name: str
    values: tuple[Any, ...]
    schema: Schema

    def has(self, value: Any) -> bool:
        return any(same(value, own) for own in self.values)

    @property
    def spec(self) -> Spec:
        words = " or ".join(str(value) for value in self.values)
        return Spec(schema=self.schema, kind="object", label=words, help=self.schema.get("description", ""))


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values that keeps `1`, `1.0` and `true` apart."""
    return type(one) is type(other) and bool(one == other)


class Definitions:
    """A whole stored schema, against which references are resolved."""

    def __init__(self, root: Schema) -> None:
        self.root = root

    def resolve(self, schema: Any) -> dict[str, Any]:
        """The schema with its references followed; what stands beside a reference wins over its target."""
        resolved = _sound(schema)
        for _ in range(20):
            parts = resolved.get("allOf")
            if isinstance(parts, list) and len(parts) == 1:
                beside = {key: value for key, value in resolved.items() if key != "allOf"}
                resolved = {**_sound(parts[0]), **beside}
            elif "$ref" in resolved:
                beside = {key: value for key, value in resolved.items() if key != "$ref"}
                resolved = {**_sound(self._target(resolved["$ref"])), **beside}
            else:
                return resolved
        return {}

    def _target(self, reference: str) -> Schema:
        target: Any = self.root
        if not reference.startswith("#"):
            return {}
        for part in unquote(reference[1:]).split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}

    def spec(self, schema: Any, *, name: str, required: bool = True) -> Spec:
        """Describe the field that the schema stands for under this property name."""
        resolved, nullable = self._without_null(self.resolve(schema))
        if nullable and "const" in resolved:
            resolved["enum"] = [resolved.pop("const")]  # one value, or none: there is a choice
        kind = self.kind(resolved)
        secret = kind == "secret" or (kind == "json" and self.holds_secret(resolved))
        own = _sound(schema)
        title = own.get("title") or (resolved.get("title") if not name else None)
        return Spec(
            schema=resolved,
            kind=kind,
            label=_label(title, name),
            help=(own if kind == "upload" else resolved).get("description", ""),
            example="" if secret else _example(resolved.get("examples")),
            required=required,
            nullable=nullable,
            default=MISSING if secret else resolved.get("default", MISSING),
        )

    def _without_null(self, schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "enum", "type", "oneOf")}
        if isinstance(schema.get("type"), list):
            types = schema["type"]
            schema = {**beside, "anyOf": [{**schema, "type": word} for word in types if word != "null"]}
            if "null" in types:
                schema["anyOf"].append({"type": "null"})
        if isinstance(schema.get("enum"), list) and None in schema["enum"]:
            return {**schema, "enum": [value for value in schema["enum"] if value is not None]}, True
        options = schema.get("anyOf")
        if not isinstance(options, list):
            return schema, False
        rest = [option for option in options if self.resolve(option).get("type") != "null"]
        nullable = len(rest) < len(options)
        if len(rest) == 1:
            inner, inner_nullable = self._without_null(self.resolve(rest[0]))
            return {**inner, **beside}, nullable or inner_nullable
        return {**schema, "anyOf": rest}, nullable

    def kind(self, schema: Schema) -> str:
        """The word for how such a value is asked for; `json` when no better way is known."""
        if "const" in schema:
            return "constant"
        if schema.get("enum"):
            return "choice"
        if "anyOf" in schema:
            return self._kind_of_any(schema["anyOf"])
        if "oneOf" in schema:
            return "union" if self.variants(schema) else "json"
        return _kind_of_type(schema)

    def _kind_of_any(self, options: list[Any]) -> str:
        resolved = [self.resolve(option) for option in options]
        if resolved and all("const" in option for option in resolved):
            return "choice"
        # pydantic writes a Decimal as "a number, or a string"
        plain = all("enum" not in option and "format" not in option for option in resolved)
        return (
            "decimal" if plain and {str(option.get("type")) for option in resolved} == {"number", "string"} else "json"
        )

    def variants(self, schema: Schema) -> list[Variant]:
        """The models of a discriminated union; none when the schema does not tell them apart."""
        discriminator = schema.get("discriminator")
        if not isinstance(discriminator, Mapping) or "propertyName" not in discriminator:
            return []
        name = discriminator["propertyName"]
        found = []
        for option in schema["oneOf"]:
            model = self.resolve(option)
            part = self.resolve(model.get("properties", {}).get(name))
            values = part.get("enum", [part["const"]] if "const" in part else [])
            if not values:
                return []
            found.append(Variant(name=name, values=tuple(values), schema=model))
        return found

    def holds_secret(self, schema: Any) -> bool:
        """Whether a value of this schema may contain something that must not be shown."""
        return any(part.get("writeOnly") is True or part.get("format") == "password" for part in self._parts(schema))

    def holds_upload(self) -> bool:
        """Whether the form may ask for a file."""
        return any(part.get("format") == SCHEMA_FORMAT for part in self._parts(self.root))

    def _parts(self, schema: Any) -> Iterator[Schema]:
        """All schemas that a schema leads to, itself included."""
        waiting, seen = [schema], set()
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting.extend(part)
            if not isinstance(part, Mapping):
                continue
            yield part
            if isinstance(reference := part.get("$ref"), str) and reference not in seen:
                seen.add(reference)
                waiting.append(self._target(reference))
            waiting.extend(value for key, value in part.items() if key not in ("default", "examples", "const", "enum"))


def _sound(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        return {}
    return {key: value for key, value in schema.items() if isinstance(value, _KEYWORDS.get(key, object))}


def _kind_of_type(schema: Schema) -> str:
    word = schema.get("type")
    if word == "string":
        return "secret" if schema.get("writeOnly") else _TEXT_FORMATS.get(schema.get("format", ""), "text")
    if word == "array":
        return _kind_of_array(schema)
    if word == "object":
        known = "object" if "properties" in schema else "json"
        return "upload" if schema.get("format") == SCHEMA_FORMAT else known
    return _TYPES.get(str(word), "json")


def _kind_of_array(schema: Schema) -> str:
    if "prefixItems" in schema:
        fixed = schema.get("maxItems") == len(schema["prefixItems"]) and "items" not in schema
        return "tuple" if fixed else "json"
    return "rows" if schema.get("items") else "json"


def _label(title: Any, name: str) -> str:
    words = name.replace("_", " ").strip()
    text = str(title) if title else words
    if text.lower() == words.lower():
        text = words[:1].upper() + words[1:]
    return text or "Value"


def _example(examples: Any) -> str:
    first = examples[0] if isinstance(examples, list) and examples else None
    if first is None or isinstance(first, dict | list):
        return ""
    return first if isinstance(first, str) else json.dumps(first)
