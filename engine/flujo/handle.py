"""A run in progress: await it for the result, or iterate it for its steps as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

from flujo.hold import Progress, silent
from flujo.result import PipelineResult, StepResult


class RunHandle:
    """What `run_async` returns. Nothing happens before it is awaited or iterated.

    `async for step in handle` gives each `StepResult` as it is saved; awaiting the handle, also afterwards, gives the
    `PipelineResult`. An error of the run is raised by both. Leaving the loop early leaves the run working: await the
    handle to wait for it.
    """

    def __init__(self, work: Callable[[Progress], Coroutine[Any, Any, PipelineResult]]) -> None:
        self._work = work
        self._steps: asyncio.Queue[StepResult | None] = asyncio.Queue()
        self._task: asyncio.Task[PipelineResult] | None = None

    def _start(self) -> asyncio.Task[PipelineResult]:
        if self._task is None:
            self._task = asyncio.ensure_future(self._work(self._steps.put_nowait))
            self._task.add_done_callback(lambda task: self._steps.put_nowait(None))
        return self._task

    def __await__(self) -> Generator[Any, None, PipelineResult]:
        if self._task is None:  # nobody iterates: no task is needed, and cancelling the caller cancels the run
            return self._work(silent).__await__()
        return self._task.__await__()

    async def __aiter__(self) -> AsyncIterator[StepResult]:
        task = self._start()
        while (finished := await self._steps.get()) is not None:
            yield finished
        await task
