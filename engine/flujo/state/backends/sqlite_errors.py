"""What SQLite's errors mean to whoever uses a store, and how long a locked file is waited for."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flujo.errors import BackendBusy, BackendError, CorruptState, Fenced, FlujoError, OutcomeUnknown

_RETRY_SECONDS = 0.005


@contextmanager
def translated(where: Path | str) -> Iterator[None]:
    """Driver errors as ours, once."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, where) from error
    except OSError as error:
        raise BackendError(f"{where} cannot be opened: {error}") from error


def translate(error: sqlite3.Error, where: Path | str) -> FlujoError:
    """A driver's error as ours."""
    if isinstance(error, sqlite3.IntegrityError):
        return Fenced(f"The run changed meanwhile ({error}). Nothing was written.")
    if is_busy(error):
        return BackendBusy(f"{where} stayed locked by another process. Nothing was saved: try again.")
    if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptState(f"{where} cannot be read ({error}). It was left as it is: restore it from a backup.")
    return BackendError(f"{where} failed: {error}. Nothing was saved.")


def not_confirmed(error: sqlite3.Error, where: Path | str, *, may_be_kept: bool) -> FlujoError:
    """An error of COMMIT as ours, where the write is not found.

    One that the disk failed to confirm may still be in the log, and come to light when that is read after a crash.
    """
    if may_be_kept or _code(error) == sqlite3.SQLITE_IOERR:
        return OutcomeUnknown(f"{where} did not confirm the write: {error}. Read the run before acting.")
    return translate(error, where)


def when_free(connection: sqlite3.Connection, sql: str, seconds: float) -> None:
    """Execute what needs the file to itself, again and again for as long as it is locked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds a lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of the driver's own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
