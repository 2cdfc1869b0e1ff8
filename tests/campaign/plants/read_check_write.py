"""Bug: the SQLite backend decides on what it read before its transaction, and does not ask whether it still stands."""

from __future__ import annotations

from typing import Any

import pytest
from flujo.state import sql
from flujo.state.backends.sqlite import SQLiteBackend


def plant(patch: pytest.MonkeyPatch) -> None:
    async def transact(self: SQLiteBackend, run_id: str, transition: Any, *, known: Any = None) -> Any:
        with self._reading() as cursor:
            batch = transition(sql.SqlView(cursor, self._dialect, run_id))
        if batch.writes:
            await self._writer.write(lambda cursor: sql.write(cursor, self._dialect, batch))
        return batch

    def blindly(cursor: Any, dialect: Any, before: Any, after: Any) -> bool:
        moved = {name: getattr(after, name) for name in sql.columns(type(after))}
        cursor.execute(dialect.update(type(after), tuple(moved), ("run_id",)), [*dialect.row(after), before.run_id])
        return True

    patch.setattr(SQLiteBackend, "transact", transact)
    patch.setattr(sql, "_move_head", blindly)
    patch.setattr(sql.Dialect, "insert", _replacing(sql.Dialect.insert))


def _replacing(insert: Any) -> Any:
    """With the head unguarded the keys alone would still stop the second one."""
    return lambda self, record, rows: insert(self, record, rows).replace("INSERT INTO", "INSERT OR IGNORE INTO")
