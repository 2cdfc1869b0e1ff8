"""Rows with sealed values: how the backends write and read them when they were given keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from flujo import codec
from flujo.encryption import Keys
from flujo.errors import CorruptState, KeyMissing
from flujo.records import Record, RunHead
from flujo.state.dialect import Dialect
from flujo.state.payloads import JSON, PAYLOADS, key_of, place, plain, positions

_POSITIONS = {record: tuple(zip(at, PAYLOADS[record], strict=True)) for record, at in positions(PAYLOADS).items()}
_KEYS = positions({record: record.key for record in PAYLOADS})


@dataclass(frozen=True, kw_only=True)
class SealingDialect(Dialect):
    """A dialect whose rows hold sealed values; plain ones of earlier times are read."""

    keys: Keys

    @property
    def seals(self) -> bool:
        return True

    @property
    def opens(self) -> Collection[str]:
        return ("", *self.keys.ids)

    def row(self, record: Record) -> list[Any]:
        values = super().row(record)
        key = record.key_values()
        for position, field in _POSITIONS.get(type(record), ()):
            if values[position]:
                values[position] = self.keys.seal(values[position], place(type(record), field, key))
        return values

    def head_changes(self, head: RunHead, moved: dict[str, Any]) -> list[Any]:
        return super().head_changes(head, {**moved, **_sealed(self.keys, head, moved)})

    def open_columns(self, record: type[Record], fields: list[Any]) -> None:
        keys = list(zip(*(fields[position] for position in _KEYS.get(record, ())), strict=True))
        for position, field in _POSITIONS.get(record, ()):
            fields[position] = [
                self._open(record, field, key, text) if text else text
                for key, text in zip(keys, fields[position], strict=True)
            ]

    def _open(self, record: type[Record], field: str, key: tuple[Any, ...], text: str) -> str:
        if record is RunHead:
            return open_if_possible(self.keys, text, place(record, field, key))
        return self.keys.open(text, place(record, field, key))


def open_if_possible(keys: Keys, text: str, where: str) -> str:
    """The opened text; sealed as it is when it cannot be opened, so that a list of runs still lists the run."""
    with suppress(KeyMissing, CorruptState):
        return keys.open(text, where)
    return text


def _sealed(keys: Keys, record: Record, values: dict[str, Any]) -> dict[str, str]:
    """Those of a record's values that hold something to seal, sealed."""
    kind, key = type(record), record.key_values()
    held = [field for field in PAYLOADS.get(kind, ()) if values.get(field)]
    return {field: keys.seal(values[field], place(kind, field, key)) for field in held}


def row_writer(keys: Keys | None) -> Callable[[Record], dict[str, Any]]:
    """What makes JSON of a record, sealed when there are keys."""
    if keys is None:
        return codec.to_plain

    def write(record: Record) -> dict[str, Any]:
        values = codec.to_plain(record)
        return {**values, **_sealed(keys, record, values)}

    return write


def row_reader(keys: Keys | None) -> Callable[[Record], Record]:
    """What opens a record that was read. Raises `KeyMissing` and `CorruptState`."""
    if keys is None:
        return plain

    def read(record: Record) -> Record:
        kind, key = type(record), record.key_values()
        values = {field: getattr(record, field) for field in PAYLOADS.get(kind, ())}
        opened = open_if_possible if kind is RunHead else Keys.open
        changed = {
            field: inside
            for field, text in values.items()
            if text and (inside := opened(keys, text, place(kind, field, key))) != text
        }
        return cast(Record, dataclasses.replace(cast(Any, record), **changed)) if changed else record

    return read


def ids_of_keys(record: Record, *, seals: bool) -> list[str]:
    """With which keys the values of a stored record are sealed. In a store without keys free texts count as plain."""
    fields = (PAYLOADS if seals else JSON).get(type(record), ())
    return [key_id for field in fields if (key_id := key_of(getattr(record, field) or ""))]


def stale_values(record: Record, keys: Keys) -> int:
    """How many values of a stored record the first key did not seal."""
    values = (getattr(record, field) for field in PAYLOADS.get(type(record), ()))
    return sum(1 for text in values if text and not text.startswith(keys.mark))
