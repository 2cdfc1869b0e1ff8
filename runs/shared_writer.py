"""The writes of workers to an SQLite database of Django's: those of one moment share a commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from django.db import Error, connections
from flujo.state.backends.sqlite_writer import Writer

from runs import models

T = TypeVar("T")
_BUSY_SECONDS = 5.0  # sqlite3's own, where the settings name none
_writers: dict[str, Writer] = {}
_unfit: set[str] = set()


class NoLog(Exception):
    """Not SQLite's own driver, or no write-ahead log, so that its readers may hold up a commit."""


async def write_with_others(using: str, work: Callable[[sqlite3.Cursor], T]) -> T | None:
    """The result of `work`, committed; None, with nothing done, for a database that is no SQLite with a log."""
    if using in _unfit or connections[using].vendor != "sqlite":
        return None
    try:
        return await _writer_of(using).write(work)
    except NoLog:
        _unfit.add(using)
        return None


def _writer_of(using: str) -> Writer:
    writer = _writers.get(using)
    if writer is None:
        seconds = float(connections[using].settings_dict["OPTIONS"].get("timeout", _BUSY_SECONDS))
        writer = Writer(lambda: _connect(using), seconds, audit_table=models.AuditEvent._meta.db_table)
        writer = _writers.setdefault(using, writer)  # another thread may have been faster
    return writer


def _connect(using: str) -> sqlite3.Connection:
    """A connection as Django makes them, receivers of `connection_created` told, which belongs to no thread.

    Raises `NoLog`.
    """
    made = connections.create_connection(using)
    try:
        made.connect()
    except Error as error:  # Django's, of a receiver: the writer knows the driver's
        raise error.__cause__ or error from error
    connection = made.connection
    if not isinstance(connection, sqlite3.Connection) or _journal(connection) != "wal":
        connection.close()
        raise NoLog
    connection.isolation_level = None
    return connection


def _journal(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def close_shared_writers() -> None:
    """Close the connections, after what was asked for before."""
    while _writers:
        thread = _writers.popitem()[1].stop()
        if thread is not None:
            thread.join()
    _unfit.clear()
