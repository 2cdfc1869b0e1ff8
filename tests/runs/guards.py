"""The test-only switch that lifts the database's guards: while a test database is flushed, and to tamper with rows.

`TransactionTestCase` and `transaction=True` empty every table after the test, which the guards refuse, as they
should. `lift_for_flush` makes the flush of this test process take the guards down and put them back in the same
transaction, so every test starts with them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection as default_connection
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.operations import BaseDatabaseOperations

from runs import guards

_flush = BaseDatabaseOperations.execute_sql_flush


def installed(connection: BaseDatabaseWrapper = default_connection) -> bool:
    """Whether the guards stand in this database."""
    catalogue = {
        "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'flujo_runs_%_no_%'",
        "postgresql": "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'flujo_runs_%_no_%'",
    }
    with connection.cursor() as cursor:
        cursor.execute(catalogue[connection.vendor])
        return bool(cursor.fetchone()[0] == 5)


@contextmanager
def lifted(connection: BaseDatabaseWrapper = default_connection) -> Iterator[None]:
    """The guards are down inside the block; one transaction covers it, so no other connection sees that."""
    if not installed(connection):
        yield
        return
    with transaction.atomic(using=connection.alias):
        _execute(guards.REMOVE, connection)
        yield
        _execute(guards.INSTALL, connection)


def lift_for_flush() -> None:
    """From now on, emptying a test database takes the guards down and puts them back."""

    def flush(self: Any, sql_list: Iterable[str]) -> None:
        with lifted(self.connection):
            _flush(self, sql_list)

    setattr(BaseDatabaseOperations, "execute_sql_flush", flush)  # the one seam that all flushes share


def _execute(statements: dict[str, list[str]], connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in statements[connection.vendor]:
            cursor.execute(statement)
