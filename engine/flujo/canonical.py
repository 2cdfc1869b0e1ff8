"""The one value domain of all backends: canonical JSON text, in from Python values and out again."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pydantic import PydanticUserError, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from flujo.errors import CorruptState, UnstorableValue
from flujo.stored_type import (
    OutsideDomain,
    StoredType,
    check_untyped,
    difference,
    external,
    place_of,
    said,
    stored_type,
)
from flujo.unstorable import MAX_DEPTH, secret_in, unstorable

MAX_BYTES = 16 * 1024 * 1024
MAX_INTEGER_DIGITS = 4_000

_LARGEST = 10**MAX_INTEGER_DIGITS
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode(value: Any, annotation: Any = Any, *, where: str = "value") -> str:
    """The canonical JSON of `value`, serialised as `annotation` says.

    Raises `UnstorableValue` naming the path to the first part that JSON cannot hold: NaN, infinities, NUL, lone
    surrogates, keys that are not strings, integers of more than 4,000 digits, more than 100 levels or 16 MiB; or that
    would come back as something else, where the annotation leaves that open.
    """
    stored: StoredType | None = None
    try:
        stored = None if annotation is Any else stored_type(annotation)
        if stored is None:
            plain = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
        else:
            plain = stored.dump(value)
    except (PydanticSerializationError, RecursionError, ValueError, TypeError) as error:
        raise unstorable(value, stored, error, where) from error
    except PydanticUserError as error:
        raise UnstorableValue(f"{where} cannot be stored: {error}", path=where) from error
    text = _text(plain, where)
    masked = "*****" in text  # as pydantic's secrets are where no annotation names their type
    if stored is None:
        if masked:
            _check_open(value, where)
        if "{" in text and type(value) is not str:
            _check_untyped(value, where)  # JSON has turned keys into strings
    elif stored.doubtful or masked or "\ufffd" in text:  # which stands for half a surrogate pair in a key
        _check_back(value, stored, text, where)
    return text


def take(value: Any, annotation: Any = Any, *, where: str = "value") -> str:
    """The canonical JSON of a value from outside: of the annotated type already, or JSON that fits it.

    Raises pydantic's `ValidationError` when it does not fit, and `UnstorableValue`.
    """
    if annotation is Any:
        return encode(value, where=where)
    try:
        text = encode(value, annotation, where=where)
    except UnstorableValue:
        plain = encode(value, where=where)
        return encode(external(annotation).validate_json(plain, by_alias=True, by_name=True), annotation, where=where)
    return encode(stored_type(annotation).load(text), annotation, where=where)


def _check_untyped(value: Any, where: str) -> None:
    try:
        check_untyped(value)
    except (OutsideDomain, PydanticSerializationError) as error:
        raise unstorable(value, None, error, where) from error


def _check_open(value: Any, where: str) -> None:
    path = secret_in(value, where)
    if path is not None:
        raise UnstorableValue(f"{path} is a secret, and is stored only where an annotation names its type.", path=path)


def _check_back(value: Any, stored: StoredType, text: str, where: str) -> None:
    try:
        back = stored.load(text)
    except ValidationError as error:
        place, reason = place_of(error, where)
        raise UnstorableValue(f"{place} would not come back: {reason}.", path=place) from error
    path = difference(value, back, where)
    if path is not None:
        raise UnstorableValue(
            f"{path} would come back as another value: JSON cannot tell which of its types it has, or its validator "
            "changes it again. Annotate it with one type, or a discriminated union.",
            path=path,
        )


def dump(plain: Any, *, where: str = "value") -> str:
    """The canonical JSON of a value that is JSON already."""
    text = _text(plain, where)
    if "{" in text and not _is_flat(plain, text):
        _check(plain, where, 0)
    return text


def _text(plain: Any, where: str) -> str:
    """The canonical JSON; the value is walked for what JSON cannot hold only if its text does not rule that out."""
    try:
        text = repr(plain) if type(plain) is int else _ENCODER.encode(plain)
    except (RecursionError, TypeError, ValueError):
        _check(plain, where, 0)
        raise
    if not _is_harmless(text):
        _check(plain, where, 0)
    if len(text) > MAX_BYTES or (len(text) * 4 > MAX_BYTES and len(text.encode()) > MAX_BYTES):
        raise UnstorableValue(f"{where} is larger than {MAX_BYTES} bytes: store it elsewhere and keep a reference.")
    return text


def _is_harmless(text: str) -> bool:
    """Whether the text alone shows that it holds no NUL, no half of a pair, no huge integer and no deep nesting."""
    return (
        len(text) <= MAX_INTEGER_DIGITS
        and text.isascii()
        and "\\u0000" not in text
        and text.count("[") + text.count("{") <= MAX_DEPTH
    )


def _is_flat(plain: Any, text: str) -> bool:
    """Whether it is one dictionary with keys that are strings, and none inside."""
    return type(plain) is dict and text.count("{") == 1 and set(map(type, plain)) == {str}


def decode(text: str, annotation: Any = Any) -> Any:
    """The value of canonical JSON, with the type that `annotation` names."""
    if annotation is Any:
        return json.loads(text)
    try:
        return stored_type(annotation).load(text)
    except ValidationError as error:
        raise CorruptState(f"A stored value does not fit {annotation!r}: {said(error, 'value')}") from error


def digest(text: str) -> str:
    """The SHA-256 of a canonical text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        _check_text(value, where)
    elif kind is dict or isinstance(value, dict):
        _check_depth(where, depth)
        for key, item in value.items():
            if not isinstance(key, str):
                raise UnstorableValue(f"{where} has the key {key!r}, which is not a string.", path=where)
            _check_text(key, where)
            _check(item, f"{where}.{key}", depth + 1)
    elif kind is list or kind is tuple:
        _check_depth(where, depth)
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", depth + 1)
    elif kind is float:
        if not math.isfinite(value):
            raise UnstorableValue(f"{where} is {value}, which JSON cannot hold.", path=where)
    elif kind is int and not -_LARGEST < value < _LARGEST:
        raise UnstorableValue(f"{where} is an integer of more than {MAX_INTEGER_DIGITS} digits.", path=where)


def _check_depth(where: str, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise UnstorableValue(f"{where[:80]}… is nested more than {MAX_DEPTH} levels deep.", path=where)


def _check_text(text: str, where: str) -> None:
    if "\0" in text:
        raise UnstorableValue(f"{where} holds a NUL character, which PostgreSQL cannot store.", path=where)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnstorableValue(f"{where} holds half of a surrogate pair.", path=where) from error


def storable(text: str) -> str:
    """An error text as every backend can hold it."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
