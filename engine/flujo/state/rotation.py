"""The rotation of keys: every stored value is sealed anew with the first key, a few rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flujo.encryption import Keys
from flujo.errors import CorruptState, KeyMissing
from flujo.records import Artefact
from flujo.state.dialect import Cursor, Dialect
from flujo.state.payloads import BEGINNING, JSON, MARK, PAYLOADS, Keyed, key_of, place
from flujo.state.sealing import SealingDialect

AT_ONCE = 100
_SHOWN = 5


@dataclass(slots=True)
class Rotation:
    """What came of it: how many values were sealed anew, how many could not be opened, and why the first of them."""

    resealed: int = 0
    failed: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the first key opens every value, so that the others may go."""
        return not self.failed and not self.left

    def note(self, error: Exception) -> None:
        """Count a value that was left as it is."""
        self.failed += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(str(error))

    def reseal(self, keys: Keys, text: str | None, where: str) -> str | None:
        """The value sealed with the first key; as it is when it is so already, or cannot be opened."""
        if not text or text.startswith(keys.mark):
            return text
        try:
            sealed = keys.seal(keys.open(text, where), where)
        except (KeyMissing, CorruptState) as error:
            self.note(error)
            return text
        self.resealed += 1
        return sealed


@dataclass(frozen=True, slots=True)
class Table:
    """A table with values: its name in the database, what identifies a row, and the fields that hold values."""

    name: str
    of: Keyed
    fields: tuple[str, ...]

    @property
    def at_once(self) -> int:
        """How many rows a rotation looks at in one transaction: artefacts are large."""
        return 1 if self.of is Artefact else AT_ONCE


InTransaction = Callable[[Callable[[Cursor], Any]], Awaitable[Any]]


def tables_of(dialect: Dialect) -> list[Table]:
    """The tables of a run's rows, and the artefacts. Without keys texts are left out: a plain one may look sealed."""
    held = PAYLOADS if dialect.seals else JSON
    return [Table(dialect.tables[record], record, fields) for record, fields in held.items()]


def missing_keys(cursor: Cursor, dialect: Dialect, tables: Iterable[Table]) -> dict[str, int]:
    """How many values are sealed with keys that the dialect does not have, by the ids of the keys."""
    found = Counter[str]()
    for table in tables:
        for name in table.fields:
            beginning = f"substr({name}, 1, {BEGINNING})"
            where = f"substr({name}, 1, {len(MARK)}) = {dialect.mark}"
            cursor.execute(f"SELECT {beginning}, count(*) FROM {table.name} WHERE {where} GROUP BY {beginning}", [MARK])
            found.update(
                {key_of(text): count for text, count in cursor.fetchall() if key_of(text) not in dialect.opens}
            )
    return dict(found)


async def rotate(in_transaction: InTransaction, dialect: SealingDialect, tables: Iterable[Table]) -> Rotation:
    """Seal all values of the tables with the first key, plain ones too.

    It is safe beside running workers, and may be repeated after it was interrupted: each transaction looks at a few
    rows and changes a value only where it is still the one that was read; neither `seq` nor any other column of a run
    changes. At its end it counts what others have written meanwhile with another first key.
    """
    done = Rotation()
    for table in tables:
        after: Sequence[Any] | None = None
        while (after := await in_transaction(_Step(dialect, table, after, done))) is not None:
            pass
    for table in tables:
        done.left += await in_transaction(_Count(dialect, table))
    done.left -= done.failed
    return done


@dataclass(frozen=True, slots=True)
class _Step:
    """The next rows of a table; it gives the key of the last one, None at the end."""

    dialect: SealingDialect
    table: Table
    after: Sequence[Any] | None
    done: Rotation

    def __call__(self, cursor: Cursor) -> Sequence[Any] | None:
        names, key, mark = self.table.fields, self.table.of.key, self.dialect.mark
        where, values = _stale(self.dialect, names)
        if self.after is not None:
            where = f"({where}) AND ({', '.join(key)}) > ({', '.join([mark] * len(key))})"
            values += self.after
        sql = f"SELECT {', '.join(key + names)} FROM {self.table.name} WHERE {where}"
        cursor.execute(f"{sql} ORDER BY {', '.join(key)} LIMIT {self.table.at_once}", values)
        rows = cursor.fetchall()
        for row in rows:
            self._reseal(cursor, row[: len(key)], row[len(key) :])
        return rows[-1][: len(key)] if rows else None

    def _reseal(self, cursor: Cursor, key: Sequence[Any], stored: Sequence[str | None]) -> None:
        of, mark = self.table.of, self.dialect.mark
        for name, text in zip(self.table.fields, stored, strict=True):
            same = " AND ".join(f"{column} = {mark}" for column in (*of.key, name))
            sealed = self.done.reseal(self.dialect.keys, text, place(of, name, key))
            if sealed != text:
                cursor.execute(f"UPDATE {self.table.name} SET {name} = {mark} WHERE {same}", [sealed, *key, text])
                self.done.resealed -= cursor.rowcount != 1  # somebody wrote it meanwhile


@dataclass(frozen=True, slots=True)
class _Count:
    """How many values of a table the first key does not open."""

    dialect: SealingDialect
    table: Table

    def __call__(self, cursor: Cursor) -> int:
        found = 0
        for name in self.table.fields:
            where, values = _stale(self.dialect, (name,))
            cursor.execute(f"SELECT count(*) FROM {self.table.name} WHERE {where}", values)
            found += cursor.fetchone()[0]
        return found


def _stale(dialect: SealingDialect, names: Sequence[str]) -> tuple[str, list[Any]]:
    """The condition that one of the fields holds a value which the first key did not seal."""
    mark = dialect.keys.mark
    other = f"<> '' AND substr({{0}}, 1, {len(mark)}) <> {dialect.mark}"
    return " OR ".join(f"({name} {other.format(name)})" for name in names), [mark] * len(names)
