"""The sweeper: a thread that records what falls due by itself, and hints again at every run that is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from threading import Event, Thread

from django.db import connections
from flujo.clock import Clock, SystemClock
from flujo.errors import KeyMissing
from flujo.kin import settle

from runs.dispatch import hint
from runs.notices import deliver
from runs.services import due
from runs.services.alarms import due_runs, ring
from runs.services.schedules import keep_declared
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
        self._declared = False
        self._sealed: set[str] = set()  # runs whose key this process lacks; with the key comes a new process
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
        """Look once. One run that cannot be seen to keeps no other one waiting: the errors are raised at the end."""
        now, errors = self._clock.now(), []
        for work in self._works(now):
            try:
                work()
            except Exception as error:  # the seam of the sweeper: a damaged row is its own run's trouble
                errors.append(error)
        if errors:
            raise ExceptionGroup("Not all that is due could be seen to", errors)

    def _works(self, now: datetime) -> Iterator[Callable[[], object]]:
        yield from (partial(self._ring, run_id, now) for run_id in due_runs(now, leaving=self._sealed))
        if not self._declared:
            yield partial(self._keep_declared, now)
        yield from (partial(due.start, schedule_id, now) for schedule_id in due.due_schedules(now))
        untold = asyncio.run(self._backend.untold(LIMIT + len(self._sealed)))
        yield from (partial(self._settle, run_id, now) for run_id in untold)
        yield partial(self._hint, now)
        yield partial(deliver, now)

    def _ring(self, run_id: str, now: datetime) -> None:
        self._if_readable(run_id, lambda: ring(run_id, now))

    def _settle(self, run_id: str, now: datetime) -> None:
        """Tell the parent of a child's end, or the child of its parent's, where nobody has."""
        self._if_readable(run_id, lambda: asyncio.run(settle(self._backend, run_id, now)))

    def _if_readable(self, run_id: str, work: Callable[[], object]) -> None:
        """See to a run, unless this process lacks the key of its values: that is said once, and the run left aside."""
        if run_id in self._sealed:
            return
        try:
            work()
        except KeyMissing as missing:
            self._sealed.add(run_id)
            logger.warning("Run %s is left as it is until this process is started with its key. %s", run_id, missing)

    def _keep_declared(self, now: datetime) -> None:
        """Once: the code of a process does not change."""
        keep_declared(now)
        self._declared = True

    def _hint(self, now: datetime) -> None:
        for head in asyncio.run(self._backend.ready(now, LIMIT)):
            hint(head.run_id)
