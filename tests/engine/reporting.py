"""What the tests of reports and logs share: what a step said, and a clock that goes on until it was written."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from flujo.records import LogChunk, StepReport
from flujo.state.base import StateBackend
from flujo.testing import FakeClock

NO_BACKOFF = timedelta(0)


async def reports_of(backend: StateBackend, path: str) -> list[StepReport]:
    found = [row for row in await backend.reports("r") if isinstance(row, StepReport) and row.path == path]
    return sorted(found, key=lambda row: row.attempt)


async def lines_of(backend: StateBackend, path: str, attempt: int = 1) -> list[dict[str, Any]]:
    chunks = [row for row in await backend.reports("r") if isinstance(row, LogChunk)]
    mine = sorted((c for c in chunks if (c.path, c.attempt) == (path, attempt)), key=lambda chunk: chunk.number)
    return [line for chunk in mine for line in json.loads(chunk.lines)]


async def written(backend: StateBackend, number: int) -> bool:
    rows = await reports_of(backend, "import")
    return bool(rows) and rows[0].number >= number


async def until(clock: FakeClock, condition: Any) -> None:
    """Let time pass until something was written."""
    for _ in range(500):
        if await condition():
            return
        clock.advance(0.25)
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")
