"""How a database spells the statements and the values of records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Protocol

from flujo.codec import APART, RECORDS, SHARED, columns, isoformat, kinds
from flujo.records import Record, RunHead
from flujo.state.artefacts import ARTEFACT_BYTES
from flujo.state.payloads import refuse_sealed

LOADED = tuple(record for record in RECORDS if record is not RunHead and record not in APART)
"""The records that are loaded with a run; its log and its history are asked for by themselves."""


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


@dataclass(frozen=True)
class Dialect:
    """How one database spells things: table names, the parameter mark, times, and how a row is locked for a write.

    `take_turns` is the statement that lets writers who name the same text go one after the other, where the database
    has several writers at once. Values above `artefact_bytes` are stored as artefacts.
    """

    tables: dict[type[Record], str]
    mark: str = "?"
    time_to_db: Callable[[datetime], Any] = isoformat
    lock: str = ""
    take_turns: str = ""
    artefact_bytes: int = ARTEFACT_BYTES
    _cache: dict[Any, str] = field(default_factory=dict)

    @property
    def seals(self) -> bool:
        """Whether values are encrypted in the database."""
        return False

    @property
    def opens(self) -> Collection[str]:
        """The ids of the keys whose values are read here; "" stands for plain ones."""
        return ("",)

    def to_db(self, value: Any) -> Any:
        kind = type(value)
        if kind is str or kind is int:
            return value
        if kind is datetime or isinstance(value, datetime):
            return self.time_to_db(value)
        return value.value if isinstance(value, StrEnum) else value

    def row(self, record: Record) -> list[Any]:
        """The values of a record's columns as the database takes them."""
        of = SHAPES[type(record)]
        values = list(of.values(record))
        for position in of.times:
            if values[position] is not None:
                values[position] = self.time_to_db(values[position])
        for position in of.words:
            if values[position] is not None:
                values[position] = values[position].value
        return values

    def head_changes(self, head: RunHead, moved: dict[str, Any]) -> list[Any]:
        """The values of the head's changed columns as the database takes them."""
        return [*map(self.to_db, moved.values())]

    def open_columns(self, record: type[Record], fields: list[Any]) -> None:
        """Make of the stored columns of some rows what they hold. Raises `KeyMissing`."""
        refuse_sealed(record, fields)

    def select(self, record: type[Record], where: str = "run_id = {0}", suffix: str = "") -> str:
        """SELECT all columns of a record; `{0}` in `where` stands for a parameter."""
        key = (record, where, suffix)
        if key not in self._cache:
            names = ", ".join(columns(record))
            condition = where.format(*[self.mark] * 9)
            self._cache[key] = f"SELECT {names} FROM {self.tables[record]} WHERE {condition}{suffix}"
        return self._cache[key]

    def probe(self) -> str:
        """SELECT for each record that is loaded with a run whether the run has rows of it."""
        if "probe" not in self._cache:
            there = (f"EXISTS (SELECT 1 FROM {self.tables[kind]} WHERE run_id = {self.mark})" for kind in LOADED)
            self._cache["probe"] = f"SELECT {', '.join(there)}"
        return self._cache["probe"]

    def insert(self, record: type[Record], rows: int) -> str:
        key = (record, rows)
        if key not in self._cache:
            names = columns(record)
            values = "(" + ", ".join([self.mark] * len(names)) + ")"
            self._cache[key] = (
                f"INSERT INTO {self.tables[record]} ({', '.join(names)}) VALUES {', '.join([values] * rows)}"
            )
        return self._cache[key]

    def update(self, record: type[Record], changed: tuple[str, ...], where: tuple[str, ...]) -> str:
        key = (record, changed, where)
        if key not in self._cache:
            assignments = ", ".join(f"{name} = {self.mark}" for name in changed)
            condition = " AND ".join(f"{name} = {self.mark}" for name in where)
            self._cache[key] = f"UPDATE {self.tables[record]} SET {assignments} WHERE {condition}"
        return self._cache[key]


def _reader(kind: type) -> Callable[[Any], Any] | None:
    if kind is datetime:
        return _time_from_db
    if issubclass(kind, StrEnum):
        return {member.value: member for member in kind}.__getitem__
    return bool if kind is bool else None


def _time_from_db(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if type(value) is str else value
    if moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Shape:
    """Where in a record's row the values stand that a database spells in its own way."""

    def __init__(self, record: type[Any]) -> None:
        of = list(kinds(record).values())
        self.names = columns(record)
        self.values: Callable[[Any], tuple[Any, ...]] = attrgetter(*self.names)
        self.times = tuple(position for position, kind in enumerate(of) if kind is datetime)
        self.words = tuple(position for position, kind in enumerate(of) if issubclass(kind, StrEnum))
        readers = [(position, _reader(kind)) for position, kind in enumerate(of)]
        self.readers = tuple((position, read) for position, read in readers if read is not None)


SHAPES: dict[type[Any], Shape] = {record: Shape(record) for record in (*RECORDS, *SHARED)}
