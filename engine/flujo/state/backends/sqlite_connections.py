"""Connections to an SQLite file that are kept open, since opening one takes longer than most of what is done with it.

Before a fork they are closed. SQLite keeps in the process which locks it holds on a file: a child that inherits an open
connection believes to hold those of its parent, and asks for none. When the parent then closes its last connection it
finds nobody else and deletes the log, and with it whatever the child commits from then on.

A file that is deleted or replaced stays what its connections write to, though nobody else will ever read that. So it is
looked at from time to time, and such a connection is lent no longer.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

from flujo.errors import BackendError

MAX_IDLE = 4
FILE_SECONDS = 0.1
"""So often the file is looked at, which takes 10 µs."""
_LOOK_SECONDS = 0.001
_ENDS = ("", "-wal", "-shm")
_Files = tuple[tuple[int, int] | None, ...]


class Connections:
    """Lends connections, which `connect` opens. A fork waits up to `patience` seconds for those that are lent.

    An interrupt may come at any moment: a connection that is lost by it is closed, and nobody waits for it.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], patience: float) -> None:
        self._connect = connect
        self._patience = patience
        self._guard = threading.RLock()  # a backend may be collected, and close them, while this thread is in here
        self._idle: list[sqlite3.Connection] = []
        self._lent = 0
        self._files: dict[int, _Files] = {}  # those of each connection when it was opened
        self._path = ""
        self._seen: _Files = ()
        self._look_again = 0.0
        with _forking:
            _known.add(self)

    @contextmanager
    def lent(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; after an error it is closed."""
        with self._guard:
            if self._idle and not self._in_place(self._idle[-1]):
                raise moved(self._path)
            self._lent += 1
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._opened()
            yield connection
        except BaseException:
            with self._guard:
                self._lent -= 1
            if connection is not None:
                self._close(connection)
            raise
        self.give_back(connection)

    def take_idle(self) -> sqlite3.Connection | None:
        """One that is open, if there is one; `give_back` is to follow."""
        with self._guard:
            if not self._idle or not self._in_place(self._idle[-1]):
                return None
            self._lent += 1
            return self._idle.pop()

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Undo what is not committed, and keep the connection, unless enough are kept."""
        try:
            connection.rollback()
            kept = True
        except sqlite3.Error:
            kept = False
        with self._guard:
            self._lent -= 1
            kept = kept and len(self._idle) < MAX_IDLE
            if kept:
                self._idle.append(connection)
        if not kept:
            self._close(connection)

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._guard:
            while self._idle:
                self._close(self._idle.pop())

    def _opened(self) -> sqlite3.Connection:
        connection = self._connect()
        self._path = connection.execute("PRAGMA database_list").fetchone()[2]
        connection.execute("PRAGMA schema_version").fetchone()  # the log is opened by whoever reads
        with self._guard:
            self._look_again = 0.0
            self._files[id(connection)] = self._files_now()
        return connection

    def _close(self, connection: sqlite3.Connection) -> None:
        self._files.pop(id(connection), None)
        connection.close()

    def _in_place(self, connection: sqlite3.Connection) -> bool:
        """Whether what it opened still is there, or was a moment ago."""
        return self._files[id(connection)] == self._files_now()

    def _files_now(self) -> _Files:
        """What tells the file, its log and its index from others of their names; None for one that is not there."""
        now = time.monotonic()
        if now >= self._look_again:
            self._seen, self._look_again = tuple(file_at(self._path + end) for end in _ENDS), now + FILE_SECONDS
        return self._seen

    def stop(self) -> None:
        """Close them all, and lend none until `go_on`."""
        late = time.monotonic() + self._patience
        self._guard.acquire()
        while self._lent and time.monotonic() < late:
            self._guard.release()
            time.sleep(_LOOK_SECONDS)
            self._guard.acquire()
        self.close()

    def go_on(self) -> None:
        """Lend again."""
        self._guard.release()

    def forget(self) -> None:
        """In a child: those that are lent still are its parent's, in threads that it has not."""
        self._lent = 0


def moved(path: Path | str) -> BackendError:
    """The error of whoever would write where nobody reads."""
    return BackendError(
        f"{path}, its -wal or its -shm was deleted or replaced while it was open. Nothing was saved. End all programs "
        "that use it, and see that no -wal or -shm of another file is left beside it."
    )


def file_at(path: Path | str) -> tuple[int, int] | None:
    """What tells a file from others of its name."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_known: WeakSet[Connections] = WeakSet()
_stopped: list[Connections] = []
_forking = threading.RLock()


def _before_fork() -> None:
    _forking.acquire()
    for connections in _known:
        _stopped.append(connections)
        connections.stop()


def _after_fork() -> None:
    while _stopped:
        _stopped.pop().go_on()
    _forking.release()


def _after_fork_in_child() -> None:
    for connections in _stopped:
        connections.forget()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
