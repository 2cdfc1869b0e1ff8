"""What tests of pipelines need: a clock that the test moves, a store that fails on demand, a crash at every write."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from flujo.batch import Batch, RunView, Transition
from flujo.document import RunDocument
from flujo.records import AuditEvent, RunHead
from flujo.state.base import StateBackend
from flujo.status import RunStatus

When = Literal["before", "after"]
Scenario = Callable[[StateBackend], Awaitable[Any]]
_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
_BACKGROUND = ("flujo-heartbeat", "flujo-alarm")


class FakeClock:
    """A clock that stands still until the test moves it, or until a step or a retry waits.

    With `auto` a wait takes no time: the clock jumps to its end, the nearest one first. Without it a wait lasts until
    `advance()` has moved the clock past its end. The heartbeat of a running step never moves the clock,
    nor does a branch that waits beside one that works; they wake when something else moves it. `random` repeats itself
    for the same `seed`, and ids count up.
    """

    def __init__(self, start: datetime = _EPOCH, *, auto: bool = True, seed: int = 0) -> None:
        self._now = start
        self._auto = auto
        self._random = random.Random(seed)  # repeatable on purpose
        self._ids = 0
        self._lock = threading.Lock()
        self._sleepers: list[_Sleeper] = []

    def now(self) -> datetime:
        """The time as the test has set it."""
        return self._now

    def random(self) -> float:
        """A number in [0, 1), the same ones in every run of the test."""
        return self._random.random()

    def new_id(self) -> str:
        """`run-1`, `run-2`, …"""
        self._ids += 1
        return f"run-{self._ids}"

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock shows `seconds` more."""
        task = asyncio.current_task()
        background = task is not None and task.get_name().startswith(_BACKGROUND)
        sleeper = _Sleeper(
            self._now + timedelta(seconds=seconds), asyncio.get_running_loop().create_future(), background
        )
        with self._lock:
            self._sleepers.append(sleeper)
        try:
            if sleeper.due(self._now):
                return  # a wait of no time
            if self._auto and not background:
                await self._jump(sleeper)
            await sleeper.woken
        finally:
            with self._lock:
                self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wake everyone whose wait is over."""
        with self._lock:
            self._move_to(self._now + timedelta(seconds=seconds))

    async def _jump(self, sleeper: _Sleeper) -> None:
        """Let all others that can still run do so, then move to the nearest end of a wait until ours has come."""
        while not sleeper.due(self._now):
            await asyncio.sleep(0)
            with self._lock:
                nearest = min(s.until for s in self._sleepers if not s.background)
                if nearest == sleeper.until:
                    self._move_to(nearest)

    def _move_to(self, moment: datetime) -> None:
        self._now = max(self._now, moment)
        for sleeper in self._sleepers:
            if sleeper.due(self._now):
                sleeper.wake()


@dataclass(eq=False, slots=True)
class _Sleeper:
    until: datetime
    woken: asyncio.Future[None]
    background: bool

    def due(self, now: datetime) -> bool:
        return self.until <= now

    def wake(self) -> None:
        loop = self.woken.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class Crashed(BaseException):
    """The process dies here. It is no `Exception`, so that nothing on the way out catches it and writes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong: `error` is raised before or after the `write`-th write (1, 2, …) is applied.

    Before: nothing of the write is kept. After: all of it is, though its caller never hears so.
    """

    write: int
    when: When
    error: BaseException = dataclasses.field(default_factory=Crashed)


class FaultyBackend(StateBackend):
    """Any backend, which fails where it is told to.

    `writes` lists what each write so far recorded: the kinds of its audit events, or the name of the method for the
    three that move whole states. After its fault it works again.
    """

    def __init__(self, inner: StateBackend, *faults: Fault) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.writes: list[tuple[str, ...]] = []
        self.run_ids_written: set[str] = set()

    @property
    def lists_runs(self) -> bool:  # type: ignore[override]  # a class's constant there, the wrapped backend's here
        return self.inner.lists_runs

    @property
    def shared_by_processes(self) -> bool:  # type: ignore[override]  # the same
        return self.inner.shared_by_processes

    async def transact(self, run_id: str, transition: Transition) -> Batch:
        mine: list[int] = []

        def watched(view: RunView) -> Batch:
            batch = transition(view)
            if batch.writes:
                mine[:] = [self._begin(run_id, _described(batch))]
            return batch

        batch = await self.inner.transact(run_id, watched)
        self._end(mine)
        return batch

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        number = self._begin(run_id, ("save_state",))
        await self.inner.save_state(run_id, state)
        self._end([number])

    async def delete_state(self, run_id: str) -> None:
        number = self._begin(run_id, ("delete_state",))
        await self.inner.delete_state(run_id)
        self._end([number])

    def _begin(self, run_id: str, what: tuple[str, ...]) -> int:
        self.writes.append(what)
        self.run_ids_written.add(run_id)
        self._raise(len(self.writes), "before")
        return len(self.writes)

    def _end(self, numbers: list[int]) -> None:
        for number in numbers:
            self._raise(number, "after")

    def _raise(self, number: int, when: When) -> None:
        for fault in self.faults:
            if (fault.write, fault.when) == (number, when):
                raise fault.error

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        return await self.inner.load_state(run_id)

    async def load(self, run_id: str) -> RunDocument | None:
        return await self.inner.load(run_id)

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        return await self.inner.heads(limit=limit, after=after)

    async def ready(
        self, now: datetime, limit: int = 100, *, fingerprints: Iterable[str] | None = None
    ) -> list[RunHead]:
        return await self.inner.ready(now, limit, fingerprints=fingerprints)

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        return await self.inner.events(run_id)

    async def run_ids(self) -> list[str]:
        return await self.inner.run_ids()

    async def close(self) -> None:
        await self.inner.close()


def _described(batch: Batch) -> tuple[str, ...]:
    kinds = tuple(row.kind.value for row in batch.inserts if isinstance(row, AuditEvent))
    return kinds or tuple(sorted({row.table for row in (*batch.inserts, *batch.updates)})) or ("lease.renewed",)


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One crash and what came of it.

    `kinds` says what the interrupted write recorded; `expected` is what the scenario returned without a crash,
    `result` what it returned when it was called again after this one; `backend` holds the recovered store.
    """

    write: int
    when: When
    kinds: tuple[str, ...]
    expected: Any
    result: Any
    backend: StateBackend

    def __str__(self) -> str:
        return f"{self.when} write {self.write} ({', '.join(self.kinds)})"


async def crash_points(
    make_backend: Callable[[], StateBackend],
    scenario: Scenario,
    *,
    reopen: Callable[[StateBackend], StateBackend] = lambda backend: backend,
) -> AsyncIterator[CrashPoint]:
    """Crash a scenario before and after each of its writes, let it recover, and yield each crash with its outcome.

    `scenario(backend)` drives a run from wherever it stands to its end and returns what is to be compared: it names its
    `run_id`, and asks `run_async` how far the run has come. `make_backend` gives a new, empty store; `reopen` opens a
    crashed store again, as a new process would. The lease of a crashed worker is taken for expired.

    ```python
    async for point in crash_points(InMemoryBackend, scenario):
        assert point.result == point.expected, str(point)
    ```
    """
    whole = FaultyBackend(make_backend())
    expected = await scenario(whole)
    for number, kinds in enumerate(whole.writes, start=1):
        for when in ("before", "after"):
            store = make_backend()
            crashing = FaultyBackend(store, Fault(number, when))
            try:
                await scenario(crashing)
            except Crashed:
                pass
            else:
                raise AssertionError(f"The scenario made fewer writes the second time: write {number} never came.")
            again = reopen(store)
            for run_id in crashing.run_ids_written:
                await let_lease_expire(again, run_id)
            result = await scenario(again)
            yield CrashPoint(number, when, kinds, expected, result, again)


async def let_lease_expire(backend: StateBackend, run_id: str) -> None:
    """Let the lease of a running run have ended when the run began, so that the next worker takes it over."""

    def transition(view: RunView) -> Batch:
        head = view.head
        if head is not None and head.status is RunStatus.RUNNING:
            return Batch(run_id, head, dataclasses.replace(head, lease_expires_at=head.created_at))
        return Batch(run_id, head, head)

    await backend.transact(run_id, transition)
