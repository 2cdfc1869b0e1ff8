"""Bug: the audit events are written once the change they tell of is committed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from flujo.records import AuditEvent
from flujo.state import sql


def plant(patch: pytest.MonkeyPatch) -> None:
    write_rows = sql._write_rows

    def apart(cursor: Any, dialect: Any, batch: Any) -> None:
        events = [row for row in batch.inserts if isinstance(row, AuditEvent)]
        others = [row for row in batch.inserts if not isinstance(row, AuditEvent)]
        write_rows(cursor, dialect, dataclasses.replace(batch, inserts=others))
        cursor.execute("COMMIT")
        cursor.execute("BEGIN IMMEDIATE")
        write_rows(cursor, dialect, dataclasses.replace(batch, inserts=events, updates=[]))

    patch.setattr(sql, "_write_rows", apart)
