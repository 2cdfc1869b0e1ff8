"""Time, sleep and chance: the one module that reads them, so that tests can bring their own."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4


class Clock(Protocol):
    """What the engine asks of the world. `flujo.testing.FakeClock` is one whose time the test moves."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait this long."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def new_id(self) -> str:
        """A run id that no other call gives."""


class SystemClock:
    """The real world."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def random(self) -> float:
        return random.random()  # spreads retries, guards nothing

    def new_id(self) -> str:
        return uuid4().hex
