"""A type as its values are stored: pydantic's schema for it, changed where JSON would lose what the type says."""

from __future__ import annotations

import dataclasses
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import SchemaSerializer, SchemaValidator, core_schema

SECRETS = (Secret, SecretStr, SecretBytes)
BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_WITH_CONFIG = ("model", "dataclass", "typed-dict")


class StoredType:
    """How values of one annotation become JSON and come back.

    Names are stored, not aliases; bytes as base64 at every depth; secrets as they are; sets in one order. `doubtful`
    says that a value of this type may come back as another one (`str | date`), so that each is tried before it is kept.
    """

    def __init__(self, annotation: Any) -> None:
        adapter = external(annotation)
        walk = _Walk()
        changed = walk.changed(adapter.core_schema)
        self.doubtful = walk.doubtful
        self._validator: Any = adapter.validator
        self._serializer: Any = adapter.serializer
        if walk.changes:
            config = core_schema.CoreConfig(ser_json_bytes="base64", val_json_bytes="base64")
            self._validator = SchemaValidator(changed, config, _use_prebuilt=False)
            self._serializer = SchemaSerializer(changed, config, _use_prebuilt=False)

    def dump(self, value: Any) -> Any:
        """The JSON value. Raises `PydanticSerializationError` for a value of another type."""
        return self._serializer.to_python(value, mode="json", warnings="error", by_alias=False)

    def load(self, text: str) -> Any:
        """The value of such JSON. Raises pydantic's `ValidationError`."""
        return self._validator.validate_json(text, by_alias=False, by_name=True)


@lru_cache(maxsize=1024)
def stored_type(annotation: Any) -> StoredType:
    """The stored type of an annotation."""
    return StoredType(annotation)


@lru_cache(maxsize=1024)
def external(annotation: Any) -> TypeAdapter[Any]:
    """The pydantic adapter for what comes from outside: forms, signals, programs; bytes alone travel as base64."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)
    try:
        return TypeAdapter(annotation, config=BYTES)
    except (
        Exception
    ) as error:  # pydantic refuses a config for types that carry their own, and has several errors for it
        if getattr(error, "code", "") != "type-adapter-config-unused":
            raise
        return TypeAdapter(annotation)


class _Walk:
    """Goes through a schema once; `changes` says that the copy differs in what it does."""

    def __init__(self) -> None:
        self.changes = False
        self.doubtful = False

    def changed(self, schema: Any) -> Any:
        """The copy of a schema, or of what it holds."""
        if isinstance(schema, dict):
            return self._node(schema) if isinstance(schema.get("type"), str) else self._items(schema)
        if isinstance(schema, list | tuple):
            return type(schema)(self.changed(part) for part in schema)
        return schema

    def _items(self, schema: dict[Any, Any]) -> dict[Any, Any]:
        return {key: part if key == "metadata" else self.changed(part) for key, part in schema.items()}

    def _node(self, schema: dict[str, Any]) -> dict[str, Any]:
        kind = schema["type"]
        if kind == "json-or-python" and is_secret(schema):
            self.changes = True
            return {**schema, "serialization": core_schema.plain_serializer_function_ser_schema(_reveal)}
        copy = self._items(schema)
        if kind in _WITH_CONFIG:
            copy["config"] = {**copy.get("config", {}), **BYTES}
        change = _CHANGES.get(kind)
        if change is not None and change(copy):
            self.changes = True
        self.doubtful = self.doubtful or _is_doubtful(kind, schema)
        return copy


def is_secret(schema: Mapping[str, Any]) -> bool:
    """Whether it is the schema of one of pydantic's secrets."""
    return schema.get("serialization", {}).get("function") in _maskers()


@lru_cache(maxsize=1)
def _maskers() -> set[Any]:
    """The functions with which pydantic's secrets serialise themselves as asterisks."""
    schemas: list[Any] = [external(kind).core_schema for kind in (SecretStr, SecretBytes, Secret[str])]
    found = (part.get("serialization") for schema in schemas for part in (schema, schema.get("lax_schema", {})))
    return {serialization["function"] for serialization in found if serialization}


def _reveal(secret: Any) -> Any:
    value = secret.get_secret_value()
    return urlsafe_b64encode(value).decode() if isinstance(value, bytes) else value


def _order(copy: dict[str, Any]) -> bool:
    """A set has no order, and its text needs one: the same set is the same text in every process."""
    if "serialization" in copy:
        return False
    copy["serialization"] = core_schema.wrap_serializer_function_ser_schema(_in_order)
    return True


def _in_order(value: Any, handler: Callable[[Any], Any]) -> Any:
    return sorted(handler(value), key=lambda item: json.dumps(item, sort_keys=True))


def _allow_nan(copy: dict[str, Any]) -> bool:
    """A Decimal is stored as text, so that "NaN" comes back; one of so many digits is none."""
    if "max_digits" in copy or "decimal_places" in copy:
        return False
    return copy.setdefault("allow_inf_nan", True) is True


def _forgive_computed(copy: dict[str, Any]) -> bool:
    """Computed fields are stored to be shown, and passed over by a model that refuses what it does not know."""
    fields = copy["schema"]
    if not fields.get("computed_fields") or "forbid" not in (
        fields.get("extra_behavior"),
        copy["config"].get("extra_fields_behavior"),
    ):
        return False
    fields["extra_behavior"] = "ignore"
    copy["config"]["extra_fields_behavior"] = "ignore"
    return True


_CHANGES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "bytes": lambda copy: True,
    "set": _order,
    "frozenset": _order,
    "decimal": _allow_nan,
    "model": _forgive_computed,
}


def _is_doubtful(kind: str, schema: dict[str, Any]) -> bool:
    if kind == "literal":
        return not all(isinstance(value, str | int | bool | None) for value in schema["expected"])
    if kind == "enum":
        return not all(isinstance(member.value, str | int) for member in schema["members"])
    if kind == "dict":
        return schema.get("keys_schema", {}).get("type", "str") in ("tuple", "none", "list", "set", "frozenset")
    if kind == "model-fields":
        return schema.get("extra_behavior") == "allow"
    return kind == "union" or "serialization" in schema


def difference(kept: Any, back: Any, where: str) -> str | None:
    """Where two values differ in type or content; None when one is the other's equal."""
    parts = _parts(kept)
    if type(kept) is not type(back) and not _is_as_good(kept, back):
        return where
    if parts is None:
        has_equality = "__eq__" in {name for kind in type(kept).__mro__[:-1] for name in vars(kind)}
        return where if has_equality and repr(kept) != repr(back) and kept != back else None
    others = dict(_parts(back) or [])
    if len(parts) != len(others):
        return where
    missing = object()
    found = (difference(part, others.get(key, missing), f"{where}{key}") for key, part in parts)
    return next((place for place in found if place is not None), None)


def _is_as_good(kept: Any, back: Any) -> bool:
    """A subclass of a plain type comes back as that, and an integer in the place of a float as a float."""
    if isinstance(kept, bool | BaseModel) or dataclasses.is_dataclass(kept):
        return False
    return isinstance(kept, type(back)) or (type(kept) is int and type(back) is float)


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a value is made of, by where it is; None for what has no parts."""
    if isinstance(value, SECRETS):
        return [("", value.get_secret_value())]
    if isinstance(value, dict):
        return [(f".{key}", item) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return [(f".{name}", item) for name, item in (fields | (value.model_extra or {})).items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def said(error: ValidationError, name: str) -> str:
    """What does not fit and where, without the values, which may be secret."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or name}: {item['msg']}" for item in error.errors())
