"""Bug: a store that promises FULL writes with `synchronous = NORMAL`."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from flujo.state.backends.sqlite import SQLiteBackend


def plant(patch: pytest.MonkeyPatch) -> None:
    connect = SQLiteBackend._connect

    def careless(self: Any) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    patch.setattr(SQLiteBackend, "_connect", careless)
