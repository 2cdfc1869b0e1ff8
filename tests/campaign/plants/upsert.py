"""Bug: what is inserted takes the place of what is there."""

from __future__ import annotations

from typing import Any

import pytest
from flujo.state.dialect import Dialect


def plant(patch: pytest.MonkeyPatch) -> None:
    insert = Dialect.insert

    def replacing(self: Dialect, record: Any, rows: int) -> str:
        return insert(self, record, rows).replace("INSERT INTO", "INSERT OR REPLACE INTO")

    patch.setattr(Dialect, "insert", replacing)
