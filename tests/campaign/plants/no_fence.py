"""Bug: nobody asks whether the worker still holds the run."""

from __future__ import annotations

from typing import Any

import pytest
from flujo.batch import required
from flujo.transitions import rules, steps, worker


def plant(patch: pytest.MonkeyPatch) -> None:
    def anybody(view: Any, fence: int) -> Any:
        return required(view)

    for module in (rules, steps, worker):
        patch.setattr(module, "mine", anybody)
