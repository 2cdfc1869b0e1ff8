"""The feed: one thread per web process that tells the local channel layer which runs have new events or reports.

Every web process reads the table itself, so a lost layer message or a lost hint is never a lost update. The feed runs
while a socket is open: it needs no start-up hook of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from channels.layers import BaseChannelLayer
from django.db import DatabaseError, connection
from django.db.models import Max

from runs import dispatch
from runs.live.report_tail import ReportTail
from runs.live.topics import INBOX, INBOX_KINDS, RUNS, group_of, run_topic
from runs.models import AuditEvent, Run, Tombstone

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.4
PAUSE_AFTER_READ = 0.05
PAUSE_AFTER_ERROR = 2.0
OVERLAP_SECONDS = 5.0
START_OVERLAP = 200  # ids


@dataclass(frozen=True, slots=True)
class Change:
    """What one read found of one run."""

    run_id: str
    rev: int
    inbox: bool


@dataclass(slots=True)
class Tail:
    """The read position in the event table.

    `overlap` is how long an event may stay invisible behind a younger one: on PostgreSQL ids become visible out of
    commit order, so that stretch is read again and what was seen is dropped by (run, seq). SQLite has one writer at a
    time, whose ids are in order.
    """

    overlap: float
    low: int = 0
    high: int = 0
    marks: deque[tuple[float, int]] = field(default_factory=deque)
    seen: dict[tuple[str, int], int] = field(default_factory=dict)

    def start(self, now: float) -> None:
        """Begin behind the newest event; the overlap before it counts as seen, but for what is not yet visible."""
        newest = AuditEvent.objects.aggregate(newest=Max("id"))["newest"] or 0
        self.low = self.high = max(0, newest - START_OVERLAP) if self.overlap else newest
        self.read(now)

    def read(self, now: float) -> list[Change]:
        """The runs that changed since the last read, each with its newest seq."""
        columns = ("id", "run_id", "seq", "kind")
        changes: dict[str, Change] = {}
        events = AuditEvent.objects.filter(id__gt=self.low).order_by("id")
        for event_id, run_id, seq, kind in events.values_list(*columns):
            self.high = max(self.high, event_id)
            if (run_id, seq) in self.seen:
                continue
            self.seen[run_id, seq] = event_id
            before = changes.get(run_id)
            inbox = kind in INBOX_KINDS or (before is not None and before.inbox)
            changes[run_id] = Change(run_id, max(seq, before.rev if before else 0), inbox)
        self._settle(now)
        return list(changes.values())

    def _settle(self, now: float) -> None:
        """Move `low` past what can no longer be overtaken."""
        self.marks.append((now, self.high))
        while self.marks and self.marks[0][0] <= now - self.overlap:
            self.low = max(self.low, self.marks.popleft()[1])
        self.seen = {key: event_id for key, event_id in self.seen.items() if event_id > self.low}


class Feed:
    """The feed of one process: `join` while a socket is open, `leave` when it closed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sockets = 0
        self._thread: _Tailing | None = None

    async def join(self, layer: BaseChannelLayer) -> None:
        """Returns once every later event is sure to be told to `layer` on the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._sockets += 1
            if self._thread is None or self._thread.loop is not loop or not self._thread.is_alive():
                self._thread = _Tailing(loop, layer)
                self._thread.start()
            started = self._thread.started
        await asyncio.wrap_future(started)

    def leave(self) -> None:
        """The last to leave stops the thread."""
        with self._lock:
            self._sockets -= 1
            if self._sockets > 0 or self._thread is None:
                return
            thread, self._thread = self._thread, None
        thread.stop()


class _Tailing(Thread):
    def __init__(self, loop: asyncio.AbstractEventLoop, layer: BaseChannelLayer) -> None:
        super().__init__(name="flujo-feed", daemon=True)
        self.loop = loop
        self.layer = layer
        self.started: Future[None] = Future()
        self._wake = Event()
        self._stopping = Event()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        tail = Tail(overlap=OVERLAP_SECONDS if connection.vendor == "postgresql" else 0.0)
        reports = ReportTail()
        dispatch.listen(self._woken)
        try:
            tail.start(monotonic())
            reports.start()
            self.started.set_result(None)
            while not self._stopping.is_set():
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()
                self._stopping.wait(PAUSE_AFTER_READ if self._tell(tail, reports) else PAUSE_AFTER_ERROR)
        except DatabaseError as error:
            self.started.set_exception(error)
        finally:
            dispatch.unlisten(self._woken)
            connection.close()

    def _woken(self, run_id: str) -> None:
        self._wake.set()

    def _tell(self, tail: Tail, reports: ReportTail) -> bool:
        """Pass on what changed. A database that is away for a while costs a pause, never the feed."""
        try:
            changes = tail.read(monotonic())
            messages = list(messages_about(changes)) if changes else []
            messages += messages_of_steps(set(reports.read()) - {change.run_id for change in changes})
        except DatabaseError:
            logger.exception("The live feed could not read what changed; it tries again.")
            connection.close()
            return False
        if messages:
            self._send(messages)
        return True

    def _send(self, messages: list[dict[str, Any]]) -> None:
        sending = _send_all(self.layer, messages)
        try:
            asyncio.run_coroutine_threadsafe(sending, self.loop)
        except RuntimeError:  # the server's loop is closed: nobody is left to tell
            sending.close()
            self.stop()


async def _send_all(layer: BaseChannelLayer, messages: Iterable[dict[str, Any]]) -> None:
    for message in messages:
        await layer.group_send(group_of(message["topic"]), message)


def messages_about(changes: list[Change]) -> Iterator[dict[str, Any]]:
    """One layer message for each changed run, one for the lists: ids and pipelines, for the consumer to judge by."""
    pipelines = _pipelines_of([change.run_id for change in changes])
    for change in changes:
        yield _message(run_topic(change.run_id), change.rev, {pipelines.get(change.run_id, "")})
    yield _message(RUNS, 0, set(pipelines.values()))
    if inbox := {pipelines.get(change.run_id, "") for change in changes if change.inbox}:
        yield _message(INBOX, 0, inbox)


def messages_of_steps(run_ids: Collection[str]) -> list[dict[str, Any]]:
    """One message for each run of which only a step said something: no list shows that."""
    pipelines = _pipelines_of(list(run_ids)) if run_ids else {}
    return [_message(run_topic(run_id), 0, {pipelines.get(run_id, "")}) for run_id in sorted(run_ids)]


def _message(topic: str, rev: int, pipelines: set[str]) -> dict[str, Any]:
    return {"type": "live.changed", "topic": topic, "rev": rev, "pipelines": sorted(pipelines)}


def _pipelines_of(run_ids: list[str]) -> dict[str, str]:
    known = dict(Run.objects.filter(pk__in=run_ids).values_list("pk", "pipeline"))
    if gone := [run_id for run_id in run_ids if run_id not in known]:
        known |= dict(Tombstone.objects.filter(pk__in=gone).values_list("pk", "pipeline"))
    return known


feed = Feed()
