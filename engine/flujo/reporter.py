"""The reporter of one attempt: it gathers progress and log lines, and writes them at most once a second."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Lock
from typing import Protocol

from flujo import transitions
from flujo.canonical import storable
from flujo.clock import Clock
from flujo.errors import BackendError, Fenced, FlujoError
from flujo.records import LogChunk, RunHead, StepReport
from flujo.state.base import StateBackend
from flujo.transitions import Reports

logger = logging.getLogger(__name__)

PACE_SECONDS = 1.0
MAX_NOTE = 500
MAX_LINES = 1_000
MAX_LOG_BYTES = 256 * 1024
RESERVE = 100
"""How many warnings and errors are kept beyond the bound."""


class Writer(Protocol):
    """What a reporter needs of the worker's hold on the run."""

    @property
    def backend(self) -> StateBackend: ...
    @property
    def head(self) -> RunHead: ...
    @property
    def fence(self) -> int: ...
    @property
    def lease(self) -> timedelta: ...
    @property
    def clock(self) -> Clock: ...
    def now(self) -> datetime: ...
    def without_secrets(self, text: str) -> str: ...
    def lines_without_secrets(self, lines: list[str]) -> list[str]: ...


class Reporter:
    """Made when a step first says something of itself. Any thread may call `progress` and `add_line`.

    What was said before the attempt ends is written with its checkpoint or its failure; what comes later is dropped.
    Without a `loop` nothing is written before that: in a transactional step the store waits for the step itself.
    """

    def __init__(self, hold: Writer, path: str, attempt: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self._hold = hold
        self._path = path
        self._attempt = attempt
        self._loop = loop
        self._guard = Lock()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._began = self._closed = self._changed = False
        self._number = 0
        self._done: float | None = None
        self._total: float | None = None
        self._note = ""
        self._lines: list[str] = []
        self._chunks: list[LogChunk] = []
        self._chunk_count = self._line_count = self._byte_count = self._reserve_count = self._dropped = 0

    # From the step, in any thread

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Note how far the step has come; the newest report wins. Raises `ValueError` for what is no number from 0."""
        far, of = _amount(done, "done"), None if total is None else _amount(total, "total")
        with self._guard:
            self._done, self._total, self._note = far, of, storable(str(note))[:MAX_NOTE]
            self._stir()

    def add_line(self, line: str, *, grave: bool) -> None:
        """Note a log line, as JSON. Beyond the bound it is counted as dropped; some `grave` ones are kept still."""
        size = len(line.encode())
        with self._guard:
            if self._line_count >= MAX_LINES or self._byte_count + size > MAX_LOG_BYTES:
                if not grave or self._reserve_count >= RESERVE:
                    self._dropped += 1
                    self._stir()
                    return
                self._reserve_count += 1
            self._line_count += 1
            self._byte_count += size
            self._lines.append(line)
            self._stir()

    def _stir(self) -> None:
        if self._closed:
            return
        self._changed = True
        if not self._began and self._loop is not None:
            self._began = True
            with suppress(RuntimeError):  # the loop has ended, and the attempt with it
                self._loop.call_soon_threadsafe(self._begin, self._loop)

    # In the loop

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._closed:
            self._task = loop.create_task(self._write_on(), name=f"flujo-report {self._path}")

    async def _write_on(self) -> None:
        while not self._closed:
            await self._hold.clock.sleep(PACE_SECONDS)
            async with self._writing:
                try:
                    await self._write()
                except Fenced:
                    return  # who holds the run no longer learns it from the heartbeat
                except BackendError:
                    logger.debug("The report of step %s waits for its store.", self._path)
                    self._changed = True

    async def _write(self) -> None:
        reports = self._take()
        if reports is None:
            return
        hold = self._hold
        report = transitions.report(reports, fence=hold.fence, lease=hold.lease, now=hold.now())
        await hold.backend.transact(hold.head.run_id, report)
        with self._guard:
            self._chunks = [chunk for chunk in self._chunks if chunk.number > reports.report.log_chunks]

    def _take(self) -> Reports | None:
        """What is new since the last time, and what may not have been stored then."""
        with self._guard:
            if not self._changed:
                return None
            self._changed = False
            run_id, now = self._hold.head.run_id, self._hold.now()
            if self._lines:
                self._chunk_count += 1
                lines = f"[{','.join(self._hold.lines_without_secrets(self._lines))}]"
                self._chunks.append(LogChunk(run_id, self._path, self._attempt, self._chunk_count, lines, now))
                self._lines = []
            self._number += 1
            report = StepReport(
                run_id,
                self._path,
                self._attempt,
                self._number,
                now,
                self._done,
                self._total,
                self._hold.without_secrets(self._note),
                self._chunk_count,
                self._line_count,
                self._dropped,
            )
            return Reports(report, tuple(self._chunks))

    def close(self) -> Reports | None:
        """Take no more, and give what is still to be written."""
        self._closed = True
        return self._take()

    async def end(self) -> Reports | None:
        """As `close`, once a write that is under way has ended."""
        self._closed = True
        async with self._writing:  # a write under way is not interrupted
            if self._task is not None:
                self._task.cancel()
        return self._take()

    async def leave(self) -> None:
        """Write what is left of an attempt that ends without a write of its own, as far as that is possible."""
        self._closed = True
        async with self._writing:
            if self._task is not None:
                self._task.cancel()
            with suppress(FlujoError):
                await self._write()


def _amount(value: float, name: str) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"progress: {name} is a number from 0, not {value!r}.")
    return number
