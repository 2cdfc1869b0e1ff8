"""Bug: the head is committed before the rows that belong to it."""

from __future__ import annotations

from typing import Any

import pytest
from flujo.state import sql


def plant(patch: pytest.MonkeyPatch) -> None:
    write_rows = sql._write_rows

    def apart(cursor: Any, dialect: Any, batch: Any) -> None:
        cursor.execute("COMMIT")
        cursor.execute("BEGIN IMMEDIATE")
        write_rows(cursor, dialect, batch)

    patch.setattr(sql, "_write_rows", apart)
