"""A crash before and after every write of a scenario."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from flujo.batch import Batch, RunView
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing.faults import Crashed, Fault, FaultyBackend, When

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
Scenario = Callable[[StateBackend], Awaitable[Any]]


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
    chosen: Callable[[int, When], bool] = lambda write, when: True,
) -> AsyncIterator[CrashPoint]:
    """Crash a scenario before and after each of its writes, let it recover, and yield each crash with its outcome.

    `scenario(backend)` drives a run from wherever it stands to its end and returns what is to be compared: it names its
    `run_id`, and asks `run_async` how far the run has come. `make_backend` gives a new, empty store; `reopen` opens a
    crashed store again, as a new process would. The lease of a crashed worker is taken for expired. Raises an
    `AssertionError` when a store has lost what it acknowledged. `chosen(write, when)` picks among the crashes of a long
    scenario: they take the square of its length.

    ```python
    async for point in crash_points(InMemoryBackend, scenario):
        assert point.result == point.expected, str(point)
    ```
    """
    whole = FaultyBackend(make_backend())
    expected = await scenario(whole)
    for number, when in itertools.product(range(1, len(whole.writes) + 1), get_args(When)):
        if not chosen(number, when):
            continue
        store = make_backend()
        crashing = FaultyBackend(store, Fault(number, when))
        try:
            ended = await scenario(crashing)
        except Crashed:
            pass
        else:  # branches side by side may need a write fewer; their end is the same
            if ended != expected:
                raise AssertionError(f"The scenario ends differently each time: {ended!r} instead of {expected!r}.")
            continue
        again = reopen(store)
        for run_id in crashing.run_ids_written:
            await _check_kept(again, run_id, crashing.acknowledged.get(run_id, 0), f"{when} write {number}")
            await let_lease_expire(again, run_id)
        yield CrashPoint(number, when, whole.writes[number - 1], expected, await scenario(again), again)


async def _check_kept(backend: StateBackend, run_id: str, seq: int, crash: str) -> None:
    document = await backend.load(run_id)
    last = None if document is None else document.head or document.tombstone
    kept = 0 if last is None else last.seq
    if kept < seq:
        raise AssertionError(
            f"The store acknowledged event {seq} of run {run_id}; after a crash {crash} it has {kept}."
        )


async def let_lease_expire(backend: StateBackend, run_id: str) -> None:
    """Let the lease of a running run have ended long ago, so that the next worker takes it over, whatever its clock."""

    def transition(view: RunView) -> Batch:
        head = view.head
        if head is not None and head.status is RunStatus.RUNNING:
            return Batch(run_id, head, dataclasses.replace(head, lease_expires_at=_LONG_AGO))
        return Batch(run_id, head, head)

    await backend.transact(run_id, transition)
