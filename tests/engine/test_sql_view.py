"""The rows of one run as a transition reads them inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

from flujo.state.backends.sqlite_schema import TABLES
from flujo.state.dialect import Dialect
from flujo.state.sql import SqlView


class Locked:
    """A cursor whose rows come when others have let go of them."""

    rowcount = 0

    def __init__(self, free: Event) -> None:
        self.free, self.asked = free, Event()
        self.statements: list[str] = []

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> None:
        self.statements.append(sql)
        self.asked.set()
        assert self.free.wait(20)

    def fetchone(self) -> None:
        return None

    def fetchall(self) -> list[Any]:
        return []


def test_a_thread_that_waits_for_a_locked_row_holds_up_no_other_thread() -> None:
    """A cached property of Python 3.11 has one lock for all views, and its holder may wait in the database for us."""
    free, no_lock = Event(), Event()
    no_lock.set()
    waiting, quick = Locked(free), Locked(no_lock)
    views = [SqlView(cursor, Dialect(TABLES), "r") for cursor in (waiting, quick)]
    threads = [Thread(target=lambda view=view: view.head, daemon=True) for view in views]
    threads[0].start()
    assert waiting.asked.wait(20)
    threads[1].start()
    threads[1].join(5)
    assert not threads[1].is_alive()
    free.set()
    threads[0].join(5)


def test_head_and_tombstone_are_read_once_in_a_transaction() -> None:
    free = Event()
    free.set()
    cursor = Locked(free)
    view = SqlView(cursor, Dialect(TABLES), "r")
    assert [view.head, view.head, view.tombstone, view.tombstone] == [None] * 4
    assert len(cursor.statements) == 2
