"""A worker's hold on a run: its lease, its copy of the rows, and the one way to write while it lasts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any

from flujo import transitions
from flujo.batch import Batch, Transition
from flujo.branches import Stopped
from flujo.clock import Clock
from flujo.codec import APART
from flujo.document import RunDocument
from flujo.paths import is_note
from flujo.records import RunHead
from flujo.redaction import Secrets, cleaned, scrubbed, secret_texts
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.result import StepResult, step_result
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.step_context import StepContext
from flujo.transitions import Position, StepDone

Progress = Callable[[StepResult], None]
TURN_SECONDS = 0.002


class Stop(StrEnum):
    """Why the work on a run is to stop at once."""

    CANCELLED = "cancelled"
    FENCED = "fenced"


class Stoppable:
    """A block in which a task may be interrupted. It stands around every attempt, so it is made to cost little."""

    __slots__ = ("_control", "_hold", "_inside", "_task")

    def __init__(
        self, hold: Hold, inside: dict[asyncio.Task[Any], StepContext | None], control: StepContext | None
    ) -> None:
        self._hold = hold
        self._inside = inside
        self._control = control

    def __enter__(self) -> None:
        if self._hold.stop_for is not None:
            raise Stopped
        task = asyncio.current_task()
        assert task is not None  # a coroutine runs in a task
        self._task = task
        self._inside[task] = self._control

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        del self._inside[self._task]
        if self._hold.stop_for is None:
            return
        others = self._task.uncancel()  # someone else may cancel the task as well
        if isinstance(error, asyncio.CancelledError) and not others:
            raise Stopped from error


class Hold:
    """What the parts of an execution share. `held` is false once the run has paused or ended.

    `patient` says that whoever asked for this execution waits for its end: delays before retries are sat out here.
    """

    def __init__(
        self,
        *,
        entry: RegisteredPipeline,
        registry: PipelineRegistry,
        backend: StateBackend,
        document: RunDocument,
        clock: Clock,
        lease: timedelta,
        progress: Progress,
        drain: asyncio.Event | None,
        patient: bool,
    ) -> None:
        assert document.head is not None  # the caller has just claimed the run
        self.entry = entry
        self.registry = registry
        self.backend = backend
        self.document = document
        self.head = document.head
        self.fence = document.head.fence
        self.clock = clock
        self.lease = lease
        self.progress = progress
        self.drain = drain
        self.patient = patient
        self.branches = 0
        self.stop_for: Stop | None = None
        self.told = 0
        self._news = asyncio.Event()
        self._listening = 0
        self._unread = False
        self._stoppable: dict[asyncio.Task[Any], StepContext | None] = {}
        self._numbers: dict[str, int] = {}
        self._turn_ends = time.monotonic() + TURN_SECONDS
        self._count_attempts()

    def _count_attempts(self) -> None:
        for attempt in self.document.attempts():
            self._numbers[attempt.path] = max(attempt.number, self._numbers.get(attempt.path, 0))

    @property
    def held(self) -> bool:
        return self.head.status is RunStatus.RUNNING and self.head.fence == self.fence

    @property
    def draining(self) -> bool:
        return self.drain is not None and self.drain.is_set()

    def now(self) -> datetime:
        return self.clock.now()

    async def sleep_until(self, moment: datetime) -> None:
        """Wait for an instant; the clock may go back meanwhile."""
        while (seconds := (moment - self.now()).total_seconds()) > 0:
            await self.clock.sleep(seconds)

    async def news(self, told: int) -> None:
        """Wait until `document` has something of others that it had not when `told` was counted."""
        self._listening += 1
        try:
            if self._unread:
                await self._read()
            while self.told <= told:
                await self._news.wait()
        finally:
            self._listening -= 1

    async def look(self, head: RunHead) -> None:
        """Take in what others wrote, once somebody waits for it; `head` is the run as the store has it now."""
        self._unread = self._unread or head.seq > self.head.seq
        if self._unread and self._listening:
            await self._read()

    async def _read(self) -> None:
        self._unread = False
        if not await self.reload():
            self._unread = True
            return
        self.told += 1
        self._news.set()
        self._news = asyncio.Event()

    def stop(self, why: Stop) -> None:
        """Interrupt what may be interrupted now, and refuse to begin more of it. Writes are seen through."""
        if self.stop_for is not None:
            return
        self.stop_for = why
        for task, control in self._stoppable.items():
            if control is not None:
                control.cancel()
            task.cancel()

    def stoppable(self, control: StepContext | None = None) -> Stoppable:
        """A block in which `stop` interrupts this task. Raises `Stopped`, unless what was interrupted has finished."""
        return Stoppable(self, self._stoppable, control)

    async def commit(self, transition: Transition) -> Batch:
        """Write under this hold's fencing token. Raises `Fenced` when it no longer holds the run.

        A branch that is stopped while it writes sees the write through: what it kept must be known to those that go on.
        """
        writes = self._apply(self.backend.transact(self.head.run_id, transition, known=self.head))
        if not self.branches:
            return await writes
        writing = asyncio.ensure_future(writes)
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()  # the branch ends for another reason
            raise

    async def commit_with(self, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        """Write in one transaction with what `work` itself writes. Raises `WorkFailed` for errors of `work`.

        Stopped while it works, it is undone; stopped while it is being committed, it is known to those that go on.
        """
        writing = asyncio.ensure_future(self._apply(self.backend.transact_with(self.head.run_id, work, limit=limit)))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.cancel()
            await asyncio.wait([writing])
            if not writing.cancelled():
                writing.exception()  # the step ends for another reason
            raise

    async def _apply(self, transacting: Awaitable[Batch]) -> Batch:
        batch = await transacting
        self._unread = self._unread or (batch.before is not None and batch.before.seq > self.head.seq)
        if batch.kept.seq >= self.head.seq:
            self.head = batch.kept
        self.document.follow(batch)
        self.document.forget(APART)  # a worker reads none of it, and would keep all of it to the end
        self.document.head = self.head  # two writes may be told of in another order than they were made
        await self._let_others()
        return batch

    async def _let_others(self) -> None:
        """Let the loop go round now and then, also where neither the steps nor the store ever wait."""
        if time.monotonic() > self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = time.monotonic() + TURN_SECONDS

    async def reload(self) -> bool:
        """Take in what others wrote: answers given while this worker ran a sibling branch. Whether that was done."""
        document = await self.backend.load(self.head.run_id)
        if document is None or document.head is None or document.head.seq < self.head.seq:
            return False  # a sibling branch has written since: another look comes
        for attempt in self.document.attempts():  # one that has just begun did not move the head
            document.keep(attempt)
        self.document, self.head = document, document.head
        self._count_attempts()
        return True

    def attempt_number(self, path: str) -> int:
        """The number of the newest attempt of a step; 0 before the first."""
        return self._numbers.get(path, 0)

    def set_attempt_number(self, path: str, number: int) -> None:
        self._numbers[path] = number

    @property
    def secrets(self) -> Secrets:
        return Secrets.of_text(self.head.secrets) | self.entry.secrets

    def without_secrets(self, text: str) -> str:
        """A message as it may be kept: what it quotes of the run's secret values is hidden."""
        secrets = self.secrets
        return scrubbed(text, secret_texts(self.document, secrets)) if secrets != Secrets() else text

    def lines_without_secrets(self, lines: list[str]) -> list[str]:
        """Log lines, which are JSON, as they may be kept."""
        secrets = self.secrets
        if secrets == Secrets():
            return lines
        texts = secret_texts(self.document, secrets)
        return [json.dumps(cleaned(json.loads(line), secrets, texts), ensure_ascii=False) for line in lines]

    def saving(self, done: StepDone, then: Position) -> Transition:
        """The transition that saves a checkpoint."""
        return transitions.complete_step(done, then, fence=self.fence, lease=self.lease, now=self.now())

    async def save(self, done: StepDone, then: Position) -> None:
        """Commit a checkpoint and tell who watches."""
        await self.commit(self.saving(done, then))
        self.saved(done, then)

    def saved(self, done: StepDone, then: Position) -> None:
        """Note what a committed checkpoint began, and tell who watches."""
        if then.attempt_path is not None:
            self._numbers[then.attempt_path] = then.attempt
        row = self.document.checkpoint(done.path)
        if row is not None and self.progress is not silent and not is_note(row.path):
            self.progress(step_result(self.entry.pipeline, row))


def silent(step: StepResult) -> None:
    """Progress that nobody asked for."""
