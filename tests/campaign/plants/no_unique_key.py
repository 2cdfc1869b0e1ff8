"""Bug: the tables have no keys, so that a second checkpoint or decision of one place is no error."""

from __future__ import annotations

import pytest
from flujo.state.backends import sqlite_schema


def plant(patch: pytest.MonkeyPatch) -> None:
    table = sqlite_schema._table

    def without_key(record: type) -> str:
        head, _, _ = table(record).partition(", PRIMARY KEY")
        return f"{head}) STRICT"

    patch.setattr(sqlite_schema, "_table", without_key)
