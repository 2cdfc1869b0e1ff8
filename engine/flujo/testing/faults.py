"""A store that fails on demand, before or after a write is applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flujo.batch import Batch, RunView, Transition
from flujo.document import RunDocument
from flujo.records import AuditEvent, LogChunk, RunHead, StepReport
from flujo.state.base import StateBackend

When = Literal["before", "after"]


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
    three that move whole states. `acknowledged` is the newest `seq` of each run that a caller was told of. After its
    fault it works again, unless that was a crash: the dead write nothing more.
    """

    def __init__(self, inner: StateBackend, *faults: Fault) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.writes: list[tuple[str, ...]] = []
        self.run_ids_written: set[str] = set()
        self.acknowledged: dict[str, int] = {}
        self._dead = False
        flags = ("lists_runs", "shared_by_processes", "transactional_steps")
        vars(self).update({flag: getattr(inner, flag) for flag in flags})  # a class's constants, here the wrapped one's

    @property
    def four_eyes(self) -> bool:
        return self.inner.four_eyes

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        mine: list[int] = []
        return self._told(await self.inner.transact(run_id, self._watched(run_id, transition, mine), known=known), mine)

    async def transact_with(self, run_id: str, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        mine: list[int] = []
        done = await self.inner.transact_with(run_id, lambda: self._watched(run_id, work(), mine), limit=limit)
        return self._told(done, mine)

    def _watched(self, run_id: str, transition: Transition, numbers: list[int]) -> Transition:
        """The transition, which fails before its write where it is told to; `numbers` gets the number of the write."""

        def watched(view: RunView) -> Batch:
            batch = transition(view)
            if batch.writes:
                if not numbers:  # a backend that decided on an old head, or was refused on it, decides once more
                    numbers.append(self._begin(run_id, _described(batch)))
                self._raise(numbers[0], "before")
            return batch

        return watched

    def _told(self, batch: Batch, numbers: list[int]) -> Batch:
        self._end(numbers)
        if batch.writes and batch.head is not None:
            self.acknowledged[batch.run_id] = batch.head.seq
        return batch

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        number = self._begin(run_id, ("save_state",))
        self._raise(number, "before")
        await self.inner.save_state(run_id, state)
        self._end([number])

    async def delete_state(self, run_id: str) -> None:
        number = self._begin(run_id, ("delete_state",))
        self._raise(number, "before")
        await self.inner.delete_state(run_id)
        self._end([number])

    def _begin(self, run_id: str, what: tuple[str, ...]) -> int:
        if self._dead:
            raise Crashed
        self.writes.append(what)
        self.run_ids_written.add(run_id)
        return len(self.writes)

    def _end(self, numbers: list[int]) -> None:
        for number in numbers:
            self._raise(number, "after")

    def _raise(self, number: int, when: When) -> None:
        for fault in self.faults:
            if (fault.write, fault.when) == (number, when):
                self._dead = isinstance(fault.error, Crashed)
                raise fault.error

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        return await self.inner.load_state(run_id)

    async def load(self, run_id: str) -> RunDocument | None:
        return await self.inner.load(run_id)

    async def whole(self, run_id: str) -> RunDocument | None:
        return await self.inner.whole(run_id)

    async def head(self, run_id: str) -> RunHead | None:
        return await self.inner.head(run_id)

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        return await self.inner.heads(limit=limit, after=after)

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        return await self.inner.ready(now, limit, fingerprints=fingerprints, full_keys=full_keys)

    async def untold(self, limit: int = 100) -> list[str]:
        return await self.inner.untold(limit)

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        return await self.inner.events(run_id)

    async def reports(self, run_id: str) -> list[StepReport | LogChunk]:
        return await self.inner.reports(run_id)

    async def run_ids(self) -> list[str]:
        return await self.inner.run_ids()

    async def close(self) -> None:
        await self.inner.close()


def _described(batch: Batch) -> tuple[str, ...]:
    kinds = tuple(row.kind.value for row in batch.inserts if isinstance(row, AuditEvent))
    return kinds or tuple(sorted({row.table for row in (*batch.inserts, *batch.updates)})) or ("lease.renewed",)
