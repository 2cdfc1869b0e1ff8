"""The contract of a state backend: three methods make one, the rest it may do better than the default."""

from __future__ import annotations

import asyncio
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from flujo.batch import Batch, Transition
from flujo.document import RunDocument
from flujo.errors import BackendCannot, FlujoError, InvalidRunId
from flujo.records import AuditEvent, LogChunk, RunHead, StepReport, Tombstone
from flujo.state.workflow_state import document_of, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from flujo.state.rotation import Rotation

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LOCK_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at in a store; `advice` says what to do when it is not `ok`."""

    name: str
    ok: bool
    found: str
    advice: str = ""


class WorkFailed(Exception):
    """What a step's own code raised inside `transact_with`, in `error`; everything in the transaction is undone."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class StateBackend(ABC):
    """Where runs are stored.

    Implement `save_state`, `load_state` and `delete_state`, and every pipeline runs, pauses, resumes and recovers,
    within one process at a time. The built-in backends replace `transact` and `load`, so that a step appends its rows
    instead of rewriting the state, several processes may share the store, and runs can be listed.
    """

    lists_runs: ClassVar[bool] = False
    shared_by_processes: ClassVar[bool] = False
    transactional_steps: ClassVar[bool] = False

    @property
    def four_eyes(self) -> bool:
        """Whether human tasks that do not say so themselves are under four eyes in this store."""
        return False

    @abstractmethod
    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        """Store a run's state, replacing the earlier one. Return only when it is as durable as you promise."""

    @abstractmethod
    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        """The state last stored, or None for an unknown id."""

    @abstractmethod
    async def delete_state(self, run_id: str) -> None:
        """Forget a run."""

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        """Load the run, let `transition` decide, and write what it decided; no other write comes in between.

        `known` is the head as a worker last saw it: a backend whose write proves that it still stands may decide on it
        instead of reading, and reads when it does not. `transition` is pure: it may be called more than once. An error
        that it raises leaves the store as it was. Raises `BackendError` when the write failed.
        """
        check_run_id(run_id)
        async with _one_at_a_time(self, run_id):
            state = await self.load_state(run_id)
            document = RunDocument(run_id) if state is None else document_of(run_id, state)
            batch = transition(document)
            if batch.writes:
                document.apply(batch)
                await self.save_state(run_id, state_of(document))
            return batch

    async def transact_with(self, run_id: str, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        """Call `work` on a thread of its own inside a transaction, and write there what its transition decides.

        What `work` wrote to the same database is committed with that or not at all. An error of `work`, and
        `StepTimeout` once it has taken longer than `limit`, come as `WorkFailed`; all others are the store's. When the
        wait is cancelled the transaction is undone, unless its commit has begun: then the batch is returned.
        """
        raise BackendCannot(f"{type(self).__name__} has no transactional steps. Use the ORM backend.")

    async def load(self, run_id: str) -> RunDocument | None:
        """The whole run, or None for an unknown id."""
        check_run_id(run_id)
        state = await self.load_state(run_id)
        return None if state is None else document_of(run_id, state)

    async def whole(self, run_id: str) -> RunDocument | None:
        """A run with its audit events and its log, a deleted one's remains too, all as of one moment."""
        return await self.load(run_id)

    async def head(self, run_id: str) -> RunHead | None:
        """The one row of a run that changes; None for an unknown or deleted id."""
        document = await self.load(run_id)
        return None if document is None else document.head

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        """Up to `limit` runs in the order of their ids, beginning after the id `after`."""
        raise BackendCannot(f"{type(self).__name__} cannot list its runs. Use one of the built-in backends.")

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        """Runs that a worker could take now: queued, due, or running under a lease that ended or whose holder is gone.

        Those of higher priority come first, then the oldest. `fingerprints` narrows them to the pipelines that the
        worker has; `full_keys` are concurrency keys whose runs are left out.
        """
        raise BackendCannot(f"{type(self).__name__} cannot list its runs. Use one of the built-in backends.")

    async def untold(self, limit: int = 100) -> list[str]:
        """Runs whose parent or child does not know yet what became of them: `flujo.kin.settle` tells it."""
        raise BackendCannot(f"{type(self).__name__} cannot list its runs. Use one of the built-in backends.")

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        """The audit events of a run, deleted ones included, in the order of their chain."""
        document = await self.load(run_id)
        return [] if document is None else document.events()

    async def reports(self, run_id: str) -> list[StepReport | LogChunk]:
        """What the attempts of a run said of themselves: their newest report each, and the lines they logged."""
        document = await self.load(run_id)
        return [] if document is None else document.reports()

    async def remains(self, run_id: str) -> RunHead | Tombstone | None:
        """Where the history of a run ends: its head, or the tombstone of a deleted one. It needs no key."""
        document = await self.load(run_id)
        return None if document is None else document.head or document.tombstone

    async def rotate_keys(self) -> Rotation:
        """Seal every stored value with the first key, and tell how many there were.

        It is safe beside running workers, and may be repeated after it was interrupted.
        """
        raise BackendCannot(f"{type(self).__name__} was given no encryption keys.")

    async def missing_keys(self) -> dict[str, int]:
        """How many stored values are sealed with keys that this backend was not given, by the ids of the keys."""
        return {}

    async def health(self) -> list[Check]:
        """What a look at the store from outside tells."""
        return []

    async def refused(self, verb: str, run_id: str, actor: str, error: FlujoError) -> None:
        """Note that a person was refused on the command line, where the store keeps such notes."""
        return

    def files(self) -> list[Path]:
        """The files and folders that nobody but the store's own user should be able to read."""
        return []

    async def run_ids(self) -> list[str]:
        """The ids of all runs that the store knows of, deleted ones included."""
        raise BackendCannot(f"{type(self).__name__} cannot list its runs. Use one of the built-in backends.")

    async def close(self) -> None:  # noqa: B027  # a backend that holds nothing has nothing to do
        """Give back what the backend holds. Using it again opens it again."""


def check_run_id(run_id: object) -> None:
    """Raise `InvalidRunId` unless the id is safe as a file name, an address and a key."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise InvalidRunId(
            f"{run_id!r} is no run id: use 1 to 128 letters, digits, dots, dashes and underscores, and begin with a "
            "letter or digit."
        )


_LOCKS: weakref.WeakKeyDictionary[StateBackend, dict[str, threading.Lock]] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


@asynccontextmanager
async def _one_at_a_time(backend: StateBackend, run_id: str) -> AsyncIterator[None]:
    """An in-process lock per run that holds across threads and loops, and never blocks a loop."""
    with _LOCKS_GUARD:
        lock = _LOCKS.setdefault(backend, {}).setdefault(run_id, threading.Lock())
    while not lock.acquire(blocking=False):  # noqa: ASYNC110  # its holder may be in another loop
        await asyncio.sleep(_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
