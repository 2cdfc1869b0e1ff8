"""The backend that forgets: for tests, and for runs that need not survive their process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from flujo.batch import Batch, Transition
from flujo.clock import Clock, SystemClock
from flujo.document import RunDocument
from flujo.records import RunHead
from flujo.state.base import StateBackend, check_run_id
from flujo.state.ready import first_ready
from flujo.state.whole_state import compare_and_import
from flujo.state.workflow_state import document_of, state_of
from flujo.status import RunStatus
from flujo.transitions import purge


class InMemoryBackend(StateBackend):
    """Keeps runs in this object. Several threads and event loops may share it."""

    lists_runs = True

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._runs: dict[str, RunDocument] = {}
        self._lock = threading.Lock()

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        check_run_id(run_id)
        with self._lock:
            document = self._runs.get(run_id) or RunDocument(run_id)
            document.running = self._running
            batch = transition(document)
            if batch.writes:
                document.apply(batch)
                self._runs[run_id] = document
            return batch

    def _running(self, concurrency_key: str) -> list[RunHead]:
        heads = (document.head for document in self._runs.values() if document.head is not None)
        return [h for h in heads if h.concurrency_key == concurrency_key and h.status is RunStatus.RUNNING]

    async def load(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        with self._lock:
            document = self._runs.get(run_id)
            return None if document is None else document.copy()

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        check_run_id(run_id)
        incoming = document_of(run_id, state)
        with self._lock:
            accepted = compare_and_import(incoming, self._runs.get(run_id), self._clock.now())
            if accepted is not None:
                self._runs[run_id] = accepted

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        document = await self.load(run_id)
        return None if document is None or document.head is None else state_of(document)

    async def delete_state(self, run_id: str) -> None:
        if await self.load(run_id) is not None:
            await self.transact(run_id, purge(actor="", reason="delete_state", now=self._clock.now(), facts={}))

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        with self._lock:
            heads = [d.head for d in self._runs.values() if d.head is not None and d.run_id > after]
        return sorted(heads, key=lambda head: head.run_id)[:limit]

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        heads = await self.heads(limit=2**31)
        return first_ready(heads, now, limit, fingerprints=fingerprints, full_keys=full_keys)

    async def untold(self, limit: int = 100) -> list[str]:
        return [head.run_id for head in await self.heads(limit=2**31) if head.untold][:limit]

    async def run_ids(self) -> list[str]:
        with self._lock:
            return sorted(self._runs)
