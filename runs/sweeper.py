"""The sweeper: a thread that records what falls due by itself, and hints again at every run that is ready."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from threading import Event, Thread

from django.db import connections
from flujo.clock import Clock, SystemClock
from flujo.kin import settle

from runs.dispatch import hint
from runs.notices import deliver
from runs.services.alarms import ring
from runs.services.due import start_due
from runs.state_backend import DjangoBackend

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
PAUSE_AFTER_ERROR = 5.0
LIMIT = 100


class Sweeper:
    """Looks every second for queued runs, expired leases, dead holders and what is due; `stop` ends it.

    The deadlines, escalations and reminders of human tasks are recorded here, with or without a worker that could
    execute the run, and apps are told what they listen for in `runs.notices`.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._backend = DjangoBackend()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="flujo-sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Returns when the thread has ended, at the latest after `timeout` seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = SWEEP_SECONDS
            try:
                self.sweep()
            except Exception:  # the seam of the sweeper: a store that is away for a while must not end it
                logger.exception("The sweeper could not read the store; it tries again.")
                connections.close_all()
                pause = PAUSE_AFTER_ERROR
            self._stopping.wait(pause)
        connections.close_all()

    def sweep(self) -> None:
        """Look once."""
        now = self._clock.now()
        ring(now)
        start_due(now)
        asyncio.run(self._settle(now))
        for head in asyncio.run(self._backend.ready(now, LIMIT)):
            hint(head.run_id)
        deliver(now)

    async def _settle(self, now: datetime) -> None:
        """Tell parents of the ends of their children, and children of their parents', where nobody has."""
        for run_id in await self._backend.untold(LIMIT):
            await settle(self._backend, run_id, now)
