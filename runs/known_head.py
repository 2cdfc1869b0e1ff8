"""The write of a worker that knows the head of its run: a transaction of its own, without a look first."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from django.db.backends.base.base import BaseDatabaseWrapper
from flujo.batch import Batch, RunView, Transition
from flujo.codec import columns, kinds
from flujo.errors import FlujoError
from flujo.records import Record, RunHead
from flujo.state.artefacts import has_large
from flujo.state.dialect import Dialect
from flujo.state.sql import head_statement

# What PostgreSQL cannot tell from a parameter in a SELECT; a text is what it takes it for.
_CASTS: dict[type, str] = {datetime: "::timestamptz", int: "::bigint", bool: "::boolean"}


_INSERTS: dict[type[Record], str] = {}


class MustLook(Exception):
    """The transition asks for more than the head."""


class _HeadAlone:
    """A view that knows the head and nothing else: what else is read would have to be locked first."""

    def __init__(self, head: RunHead, dialect: Dialect) -> None:
        self.run_id = head.run_id
        self.head = head
        self.seals = dialect.seals

    def holders_of(self, concurrency_key: str) -> list[RunHead]:
        raise MustLook

    def __getattr__(self, name: str) -> Any:
        raise MustLook


def write_on_known(
    connection: BaseDatabaseWrapper, dialect: Dialect, transition: Transition, known: RunHead
) -> Batch | None:
    """Decide on the head as the worker knows it, and write if it still stands: on PostgreSQL, in one round trip.

    None, with nothing written, when it does not, when the transition looks at other rows, when a value is an artefact,
    and inside a transaction of the caller's.
    """
    if connection.vendor != "postgresql" or connection.in_atomic_block or not connection.get_autocommit():
        return None
    try:
        batch = transition(cast(RunView, _HeadAlone(known, dialect)))
    except (FlujoError, MustLook):
        return None
    if batch.head is None or not batch.writes or batch.updates or has_large(batch.inserts, dialect.artefact_bytes):
        return None
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return batch if _written(connection.connection, dialect, known, batch.head, batch) else None


def _written(raw: Any, dialect: Dialect, known: RunHead, after: RunHead, batch: Batch) -> bool:
    """One statement: the rows are inserted only if the head was changed."""
    from psycopg import Cursor  # by then Django has imported it

    head, values = head_statement(dialect, known, after)
    for row in batch.inserts:
        values += dialect.row(row)
    sql = _joined(head, *[_insert_if_moved(dialect, type(row)) for row in batch.inserts])
    return cast(bool, Cursor(raw).execute(sql, values).fetchone() == (1,))


@lru_cache(maxsize=512)
def _joined(head: str, *inserts: str) -> str:
    parts = [f"moved AS ({head} RETURNING 1)", *(f"row_{number} AS ({sql})" for number, sql in enumerate(inserts))]
    return f"WITH {', '.join(parts)} SELECT count(*) FROM moved"


def _insert_if_moved(dialect: Dialect, kind: type[Record]) -> str:
    if kind not in _INSERTS:
        marks = ", ".join(f"%s{_CASTS.get(of, '')}" for of in kinds(kind).values())
        names = ", ".join(columns(kind))
        _INSERTS[kind] = f"INSERT INTO {dialect.tables[kind]} ({names}) SELECT {marks} FROM moved"
    return _INSERTS[kind]
