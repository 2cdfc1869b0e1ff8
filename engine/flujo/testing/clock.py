"""A clock that the test moves."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
_BACKGROUND = ("flujo-heartbeat", "flujo-alarm", "flujo-report")


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
