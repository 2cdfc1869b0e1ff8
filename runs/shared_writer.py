"""The writes of workers to an SQLite database of Django's: those of one moment share a commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from django.db import connections
from flujo.state.backends.sqlite_writer import Writer

from runs import models

T = TypeVar("T")
_BUSY_SECONDS = 5.0  # sqlite3's own, where the settings name none
_writers: dict[str, Writer] = {}
_unfit: set[str] = set()


class NoLog(Exception):
    """The database has no write-ahead log, so that its readers may hold up a commit."""


async def write_with_others(using: str, work: Callable[[sqlite3.Cursor], T]) -> T | None:
    """The result of `work`, committed; None, with nothing done, for a database that is no SQLite with a log."""
    if using in _unfit or connections[using].vendor != "sqlite":
        return None
    if using not in _writers:
        seconds = float(connections[using].settings_dict["OPTIONS"].get("timeout", _BUSY_SECONDS))
        audit_table = models.AuditEvent._meta.db_table
        _writers.setdefault(using, Writer(lambda: _connect(using), seconds, audit_table=audit_table))
    try:
        return await _writers[using].write(work)
    except NoLog:
        _unfit.add(using)
        return None


def _connect(using: str) -> sqlite3.Connection:
    """A connection as Django makes them, which belongs to no thread. Raises `NoLog`."""
    made = connections.create_connection(using)
    connection: sqlite3.Connection = made.get_new_connection(made.get_connection_params())
    connection.isolation_level = None
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        connection.close()
        raise NoLog
    return connection


def close_shared_writers() -> None:
    """Close the connections, after what was asked for before."""
    while _writers:
        thread = _writers.popitem()[1].stop()
        if thread is not None:
            thread.join()
    _unfit.clear()
