"""Bug: a store that was put back to a backup counts its tokens and generations on from there."""

from __future__ import annotations

from datetime import datetime

import pytest
from flujo.transitions import moving, restoring, rules, steps


def plant(patch: pytest.MonkeyPatch) -> None:
    def counted(last: int, now: datetime) -> int:
        return last + 1

    for module in (moving, rules, steps):
        patch.setattr(module, "following", counted)
    patch.setattr(restoring, "milliseconds", lambda now: 1)
