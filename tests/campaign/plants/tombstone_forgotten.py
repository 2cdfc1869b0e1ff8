"""Bug: a run with the id of a deleted one counts its tokens and generations from nothing again."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from flujo.transitions import worker


def plant(patch: pytest.MonkeyPatch) -> None:
    first_head = worker._first_head

    def forgetful(view: Any, *given: Any) -> Any:
        last = view.tombstone and dataclasses.replace(view.tombstone, fence=0, generation=0)
        return first_head(SimpleNamespace(run_id=view.run_id, tombstone=last), *given)

    patch.setattr(worker, "_first_head", forgetful)
