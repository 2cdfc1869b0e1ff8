"""A type as its values are stored: pydantic's schema for it, changed where JSON would lose what the type says."""

from __future__ import annotations

import dataclasses
import json
import math
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator, core_schema, to_jsonable_python

SECRETS = (Secret, SecretStr, SecretBytes)
BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_KEPT = core_schema.CoreConfig(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="constants",  # what is not finite is seen and refused, not stored as null
)
_WITH_CONFIG = ("model", "dataclass", "typed-dict")
_PLAIN = {str, int, bool, type(None)}
_BOUNDS = {
    *("gt", "ge", "lt", "le", "multiple_of", "max_digits", "decimal_places", "now_op", "tz_constraint"),
    *("min_length", "max_length", "pattern", "strip_whitespace", "to_lower", "to_upper"),
    *("str_min_length", "str_max_length", "str_strip_whitespace", "str_to_lower", "str_to_upper"),
    *("post_init", "custom_init"),
}
"""What a schema or its configuration asks of a value each time it is made."""


class OutsideDomain(ValueError):
    """A part that no annotation describes and JSON cannot hold; `place` is where it is in `holder`."""

    def __init__(self, holder: Any, place: str, reason: str) -> None:
        super().__init__(reason)
        self.holder = holder
        self.place = place


class StoredType:
    """How values of one annotation become JSON and come back.

    Names are stored, not aliases; bytes as base64 at every depth; secrets as they are; sets in one order. `doubtful`
    says that a value of this type may come back as another one (`str | date`), or be refused then since bounds and
    validators apply again, so that each is tried before it is kept.
    """

    def __init__(self, annotation: Any) -> None:
        adapter = external(annotation)
        walk = _Walk()
        changed = walk.changed(adapter.core_schema)
        self.doubtful = walk.doubtful
        self._validator: Any = adapter.validator
        self._serializer: Any = adapter.serializer
        if walk.changes:
            self._validator = SchemaValidator(changed, _KEPT, _use_prebuilt=False)
            self._serializer = SchemaSerializer(changed, _KEPT, _use_prebuilt=False)

    def dump(self, value: Any) -> Any:
        """The JSON value. Raises `PydanticSerializationError` for a value of another type."""
        return self._serializer.to_python(value, mode="json", warnings="error", by_alias=False)

    def load(self, text: str | bytes) -> Any:
        """The value of such JSON. Raises pydantic's `ValidationError`."""
        return self._validator.validate_json(text, by_alias=False, by_name=True)

    def misfit(self, value: Any) -> ValidationError | None:
        """Why a value that cannot be dumped is none of this type, as far as pydantic can tell."""
        try:
            self._validator.validate_python(value, strict=True, by_alias=False, by_name=True)
            self.load(json.dumps(to_jsonable_python(value, by_alias=False, fallback=repr)))
        except ValidationError as error:
            return error
        except (PydanticSerializationError, ValueError, TypeError):
            return None  # it is what JSON cannot hold, whatever its type
        return None


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
            copy["config"] = {**copy.get("config", {}), **_KEPT}
        change = _CHANGES.get(kind)
        if change is not None and change(copy):
            self.changes = True
        self.doubtful = self.doubtful or _is_doubtful(kind, schema)
        return copy


def check_untyped(value: Any, holder: Any = None, place: str = "") -> None:
    """Raise `OutsideDomain` for keys that are no texts and for numbers that are not finite.

    Pydantic makes texts and nulls of them where no annotation says what they are.
    """
    holder = value if holder is None else holder
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        value = stored_type(type(value)).dump(value)
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise OutsideDomain(holder, place, f"has the key {key!r}, which is not a string")
            if type(part) not in _PLAIN:
                check_untyped(part, holder, f"{place}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            if type(part) not in _PLAIN:
                check_untyped(part, holder, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise OutsideDomain(holder, place, f"is {value}, which JSON cannot hold")


def _untyped(value: Any) -> Any:
    if type(value) not in _PLAIN:
        check_untyped(value)
    return value


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


def _check_open(copy: dict[str, Any]) -> bool:
    if "serialization" in copy:
        return False
    copy["serialization"] = core_schema.plain_serializer_function_ser_schema(_untyped)
    return True


def _name_keys(copy: dict[str, Any]) -> bool:
    """Keys of any type are texts: JSON has no others."""
    if copy.get("keys_schema", {}).get("type", "any") == "any":
        copy["keys_schema"] = core_schema.str_schema()
    return False


_CHANGES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "any": _check_open,
    "bytes": lambda copy: True,
    "dict": _name_keys,
    "set": _order,
    "frozenset": _order,
    "decimal": _allow_nan,
    "model": _forgive_computed,
}


def _is_doubtful(kind: str, schema: dict[str, Any]) -> bool:
    config = schema.get("config") or {}
    if "allow" in (schema.get("extra_behavior"), config.get("extra_fields_behavior")):
        return True
    if _is_bounded(schema) or _is_bounded(config):
        return True
    if kind == "literal":
        return not all(isinstance(value, str | int | bool | None) for value in schema["expected"])
    if kind == "enum":
        return not all(isinstance(member.value, str | int) for member in schema["members"])
    if kind == "dict":
        return schema.get("keys_schema", {}).get("type", "str") in _DOUBTFUL_KEYS
    return kind in ("union", "json", "generator") or kind.startswith("function-") or "serialization" in schema


def _is_bounded(settings: Mapping[str, Any]) -> bool:
    return any(settings[bound] is not None and settings[bound] is not False for bound in _BOUNDS & settings.keys())


_DOUBTFUL_KEYS = ("tuple", "none", "nullable", "list", "set", "frozenset")


def difference(kept: Any, back: Any, where: str) -> str | None:
    """Where two values differ in type or content; None when one is the other's equal."""
    parts = parts_of(kept)
    if type(kept) is not type(back) and not _is_as_good(kept, back):
        return where
    if parts is None:
        has_equality = "__eq__" in {name for kind in type(kept).__mro__[:-1] for name in vars(kind)}
        return where if has_equality and repr(kept) != repr(back) and kept != back else None
    others = dict(parts_of(back) or [])
    if len(parts) != len(others) or (isinstance(kept, dict) and set(map(_exact, kept)) != set(map(_exact, back))):
        return where
    missing = object()
    found = (difference(part, others.get(key, missing), f"{where}{key}") for key, part in parts)
    return next((place for place in found if place is not None), None)


def _is_as_good(kept: Any, back: Any) -> bool:
    """A subclass of a plain type comes back as that, and an integer in the place of a float as a float."""
    if isinstance(kept, bool | BaseModel) or dataclasses.is_dataclass(kept):
        return False
    return isinstance(kept, type(back)) or (type(kept) is int and type(back) is float)


def _exact(key: Any) -> tuple[type, str]:
    """Tells 1 from "1"; a subclass of a plain type is as good as that."""
    return next((kind for kind in (str, int) if isinstance(key, kind)), type(key)), str(key)


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
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


def place_of(error: ValidationError, where: str) -> tuple[str, str]:
    """The path to the first part that does not fit, and what is wrong with it; the value may be secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    at, reason = list(first["loc"]), first["msg"]
    if at[-1:] == ["[key]"]:
        at, reason = at[:-2], f"the key {at[-2]!r}: {reason}"
    return where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at), reason


def said(error: ValidationError, name: str) -> str:
    """What does not fit and where, without the values, which may be secret."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or name}: {item['msg']}" for item in error.errors())
