"""Bug: a child is started before its parent has recorded which one it waits for, and each try takes a new id."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import pytest
from flujo.records import RunWait
from flujo.status import Wait
from flujo.ways import children

_ID: ContextVar[str] = ContextVar("id")


def plant(patch: pytest.MonkeyPatch) -> None:
    begin, start = children._begin, children._start

    async def start_first(walk: Any, spot: Any) -> Any:
        _ID.set(uuid4().hex)
        wait = RunWait(walk.hold.head.run_id, spot.path, 0, Wait.CHILD, _ID.get(), None, walk.hold.now())
        await start(walk, spot, spot.node, wait)
        return await begin(walk, spot)

    async def new_id(walk: Any, spot: Any) -> tuple[str, bool]:
        return _ID.get(), False

    patch.setattr(children, "_begin", start_first)
    patch.setattr(children, "_next_id", new_id)
