"""Why a value cannot be stored, and the path to the part that is to blame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from flujo.errors import UnstorableValue
from flujo.stored_type import SECRETS, OutsideDomain, StoredType, parts_of, place_of

MAX_DEPTH = 100
_QUOTES = "Pydantic serializer warnings"
"""How a message begins that quotes values."""


def unstorable(value: Any, stored: StoredType | None, error: Exception, where: str) -> UnstorableValue:
    """The refusal of a value that pydantic could not make JSON of. It does not quote the value, which may be secret."""
    cause = error if isinstance(error, OutsideDomain) else error.__cause__
    if isinstance(cause, OutsideDomain):
        path = next(_places_of(cause.holder, value, where, 0), where) + cause.place
        return UnstorableValue(f"{path} {cause}.", path=path)
    unserialisable = _unserialisable(value, where)
    misfit = stored.misfit(value) if stored is not None and unserialisable is None else None
    if misfit is not None:
        path, reason = place_of(misfit, where)
        return UnstorableValue(f"{path} does not fit its annotation: {reason}.", path=path)
    reason = "it is not what its annotation says." if str(error).startswith(_QUOTES) else str(error)
    return UnstorableValue(
        f"{unserialisable or where} cannot be stored as JSON: {reason}", path=unserialisable or where
    )


def secret_in(value: Any, where: str, depth: int = 0) -> str | None:
    """The path to a secret of pydantic's in an untyped value: it would be stored as asterisks."""
    if isinstance(value, SECRETS):
        return where
    parts = _parts(value, where) if depth < MAX_DEPTH else []
    return next((path for place, part in parts if (path := secret_in(part, place, depth + 1)) is not None), None)


def _unserialisable(value: Any, where: str) -> str | None:
    """The path to the deepest part of `value` that pydantic cannot serialise, as far as the domain is deep."""
    path: str | None = None
    for _ in range(MAX_DEPTH):
        culprit = next((part for part in _parts(value, path or where) if not _is_serialisable(part[1])), None)
        if culprit is None:
            break
        path, value = culprit
    return path


def _is_serialisable(value: Any) -> bool:
    try:
        to_jsonable_python(value, bytes_mode="base64")
    except (PydanticSerializationError, RecursionError, ValueError):
        return False
    return True


def _places_of(holder: Any, value: Any, where: str, depth: int) -> Iterator[str]:
    """The paths to an object in a value."""
    if value is holder:
        yield where
    elif depth < MAX_DEPTH:
        for place, part in _parts(value, where):
            yield from _places_of(holder, part, place, depth + 1)


def _parts(value: Any, where: str) -> list[tuple[str, Any]]:
    items = list(value) if isinstance(value, set | frozenset) else value
    return [(where + at, part) for at, part in parts_of(items) or []]
