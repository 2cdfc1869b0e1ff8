"""Bug: that a run's kin know of its end is recorded before they are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flujo import kin


def plant(patch: pytest.MonkeyPatch) -> None:
    messages = kin._messages

    def told_first(*given: Any) -> Iterator[Any]:
        *others, told = messages(*given)
        return iter([told, *others])

    patch.setattr(kin, "_messages", told_first)
