"""Bug: the console checks the permission to decide before the transaction that records the decision."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest


def plant(patch: pytest.MonkeyPatch) -> None:
    from runs.services import decide

    patch.setattr(decide, "transaction", SimpleNamespace(atomic=nullcontext))
