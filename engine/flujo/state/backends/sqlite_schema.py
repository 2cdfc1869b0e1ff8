"""The SQLite backend's tables, made from the records, and the triggers that keep history as it was."""

from __future__ import annotations

import dataclasses
import sqlite3
from datetime import datetime

from flujo.codec import RECORDS, SHARED, columns, defaults, kinds
from flujo.errors import CorruptState
from flujo.records import ArtefactUse, AuditEvent, HumanTask, Record, RunHead
from flujo.status import ACTIVE, RunStatus

# The number of columns: records only ever gain fields, so each that one gains raises it, and nobody can forget to.
STORED = (*RECORDS, *SHARED)
SCHEMA_VERSION = 1000 + sum(len(columns(record)) for record in STORED)
TABLES: dict[type[Record], str] = {record: f"flujo_{record.table}" for record in STORED}
# One statement reads one snapshot, so that another process that is just creating the tables shows all of them or none.
_OWNER = """
    SELECT user_version, (SELECT count(*) FROM sqlite_schema), (SELECT count(*) FROM sqlite_schema WHERE name = ?)
    FROM pragma_user_version
"""
_SQL_TYPES = {int: "INTEGER", float: "REAL", bool: "INTEGER", str: "TEXT", datetime: "TEXT"}


def check_owner(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, with all their columns; False for a new file and for one of an older Flujo.

    Raises `CorruptState` for a file that another program or a newer Flujo wrote.
    """
    version, tables, ours = connection.execute(_OWNER, [TABLES[RunHead]]).fetchone()
    if version == SCHEMA_VERSION and ours:
        return True
    older = ours and 0 < version < SCHEMA_VERSION
    if (version or tables) and not older:
        raise CorruptState(
            f"The file has the schema version {version} and {tables} tables: it belongs to another program or a newer "
            "Flujo. It was left as it is."
        )
    return False


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables or the columns that are missing, unless another process was faster.

    All or nothing of it is done. Raises as `check_owner` does.
    """
    connection.execute("BEGIN IMMEDIATE")
    if not check_owner(connection):
        for record in STORED:
            connection.execute(_table(record))
            for statement in _missing(connection, record):
                connection.execute(statement)
        for statement in _statements():
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _missing(connection: sqlite3.Connection, record: type[Record]) -> list[str]:
    """What adds the columns that a table has not, because its record has gained them since, with their defaults."""
    table, of = TABLES[record], kinds(record)
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    added = []
    for name, default in defaults(record).items():
        if name in there:
            continue
        if default is dataclasses.MISSING:
            raise CorruptState(f"The table {table} has no column {name}: no Flujo made it. It was left as it is.")
        added.append(f"ALTER TABLE {table} ADD COLUMN {name} {_type(of[name])}{_default(default)}")
    return added


def _type(kind: type) -> str:
    return _SQL_TYPES.get(kind, "TEXT")


def _default(value: object) -> str:
    if value is None:
        return ""
    return f" DEFAULT {int(value)}" if isinstance(value, int) else f" DEFAULT '{value}'"


def _statements() -> list[str]:
    run, events, tasks = TABLES[RunHead], TABLES[AuditEvent], TABLES[HumanTask]
    uses = TABLES[ArtefactUse]
    order = "status, priority DESC, created_at, fingerprint, concurrency_key"
    running = f"status = '{RunStatus.RUNNING.value}'"
    queued = f"status = '{RunStatus.QUEUED.value}'"
    active = ", ".join(f"'{status.value}'" for status in sorted(ACTIVE))
    return [
        f"CREATE INDEX IF NOT EXISTS {run}_running ON {run} (status, concurrency_key) WHERE {running}",
        f"CREATE INDEX IF NOT EXISTS {run}_queued ON {run} ({order}) WHERE {queued}",
        f"CREATE INDEX IF NOT EXISTS {run}_untold ON {run} (untold) WHERE untold",
        f"CREATE INDEX IF NOT EXISTS {run}_by_wake_at ON {run} (wake_at) WHERE wake_at IS NOT NULL",
        f"CREATE INDEX IF NOT EXISTS {tasks}_open ON {tasks} (status, raised_at)",
        f"CREATE INDEX IF NOT EXISTS {uses}_of ON {uses} (digest)",
        _refuse("update", f"UPDATE ON {events}", "audit events are never changed"),
        _refuse("delete", f"DELETE ON {events}", "audit events are never deleted"),
        _refuse("active", f"DELETE ON {run} WHEN OLD.status IN ({active})", "an active run is never deleted"),
    ]


def _refuse(name: str, what: str, why: str) -> str:
    event, _, rest = what.partition(" ON ")
    table, _, condition = rest.partition(" ")
    return (
        f"CREATE TRIGGER IF NOT EXISTS {table}_{name} BEFORE {event} ON {table} {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
    )


def _table(record: type[Record]) -> str:
    of = kinds(record)
    typed = [f"{name} {_SQL_TYPES.get(of[name], 'TEXT')}" for name in columns(record)]
    key = ", ".join(record.key)
    return (
        f"CREATE TABLE IF NOT EXISTS {TABLES[record]} ({', '.join(typed)}, PRIMARY KEY ({key})) STRICT, WITHOUT ROWID"
    )
