"""The sweeper: a thread that hints again at every run that is ready and may have lost its hint."""

from __future__ import annotations

import asyncio
import logging
from threading import Event, Thread

from django.utils import timezone

from runs.dispatch import hint
from runs.state_backend import DjangoBackend

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
PAUSE_AFTER_ERROR = 5.0
LIMIT = 100


class Sweeper:
    """Looks every second for queued runs, expired leases and dead holders; `stop` ends it."""

    def __init__(self) -> None:
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="flujo-sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Returns when the thread has ended, at the latest after `timeout` seconds."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.run(self._sweep_on())

    async def _sweep_on(self) -> None:
        backend = DjangoBackend()
        while not self._stopping.is_set():
            pause = SWEEP_SECONDS
            try:
                for head in await backend.ready(timezone.now(), LIMIT):
                    hint(head.run_id)
            except Exception:  # the seam of the sweeper: a store that is away for a while must not end it
                logger.exception("The sweeper could not read the store; it tries again.")
                pause = PAUSE_AFTER_ERROR
            await asyncio.to_thread(self._stopping.wait, pause)
