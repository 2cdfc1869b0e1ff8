"""Records as plain rows: what a field looks like in JSON, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from flujo.records import (
    Artefact,
    ArtefactUse,
    Attempt,
    AuditEvent,
    Checkpoint,
    Decision,
    HumanTask,
    LogChunk,
    Record,
    RunHead,
    RunInput,
    RunWait,
    Signal,
    StepReport,
    Tombstone,
    Vote,
)

RECORDS: tuple[type[Record], ...] = (
    RunHead,
    RunInput,
    Checkpoint,
    Attempt,
    StepReport,
    LogChunk,
    HumanTask,
    RunWait,
    Signal,
    Vote,
    Decision,
    AuditEvent,
    Tombstone,
)
APART: frozenset[type[Record]] = frozenset({AuditEvent, StepReport, LogChunk})
"""What no transition and no worker needs to have read: it is stored with the run, and loaded only when asked for."""
SHARED: tuple[type[Record], ...] = (Artefact, ArtefactUse)
"""What belongs to no run alone, and so to no document: the tables that SQL backends have besides."""
BY_TABLE: dict[str, type[Any]] = {record.table: record for record in RECORDS}

R = TypeVar("R", bound=Record)


def columns(record: type[Any]) -> tuple[str, ...]:
    """The names of a record's fields, in order."""
    return tuple(_KINDS[record])


def kinds(record: type[Any]) -> dict[str, type]:
    """The type of each field, None aside."""
    return _KINDS[record]


def defaults(record: type[Any]) -> dict[str, Any]:
    """The default of each field, `dataclasses.MISSING` where it has none."""
    return {field.name: field.default for field in dataclasses.fields(record)}


def to_plain(record: Record) -> dict[str, Any]:
    """A record as JSON values; times in ISO 8601, UTC, with microseconds."""
    plain = {}
    for name in columns(type(record)):
        value = getattr(record, name)
        plain[name] = isoformat(value) if isinstance(value, datetime) else value
    return plain


def from_plain(record: type[R], plain: dict[str, Any]) -> R:
    """The record of such a dictionary. Raises KeyError, TypeError or ValueError when it is none."""
    readers = _READERS[record]
    values = {
        name: readers[name](value) if name in readers and value is not None else value for name, value in plain.items()
    }
    return record(**values)


@lru_cache(maxsize=256)  # a step writes each of its times into several columns
def isoformat(moment: datetime) -> str:
    """A time as text that sorts as the time does."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")


def _without_none(hint: Any) -> type:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.cast(type, hint)


def _kinds(record: type[Any]) -> dict[str, type]:
    hints = typing.get_type_hints(record)
    return {field.name: _without_none(hints[field.name]) for field in dataclasses.fields(record)}


def _reader(kind: type) -> Callable[[Any], Any] | None:
    if kind is datetime:
        return datetime.fromisoformat
    return kind if issubclass(kind, StrEnum) else None


_KINDS: dict[type[Any], dict[str, type]] = {record: _kinds(record) for record in (*RECORDS, *SHARED)}
_READERS = {
    record: {name: read for name, kind in of.items() if (read := _reader(kind)) is not None}
    for record, of in _KINDS.items()
}
