"""Working on a run in this process, from whatever it was told, until it pauses or ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flujo import kin, transitions
from flujo.document import RunDocument
from flujo.errors import (
    AtMaxConcurrency,
    Fenced,
    IllegalTransition,
    PipelineChanged,
    PipelineNotFound,
    RunFinished,
    RunIsLeased,
    RunWaits,
)
from flujo.execution import Execution
from flujo.hold import Hold, Progress, silent
from flujo.records import RunHead
from flujo.registry import RegisteredPipeline
from flujo.result import PipelineResult, result_of
from flujo.scope import Scope
from flujo.status import RunStatus, Wait
from flujo.transitions import NewRun

_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0
"""Seconds between two looks for a place among the runs of a concurrency key."""


async def begin(
    scope: Scope, entry: RegisteredPipeline, new: NewRun, progress: Progress = silent, *, actor: str = ""
) -> PipelineResult:
    """Start a run and work on it; one that has its id already is gone on with."""
    beginning = transitions.start(new, now=scope.now, claim=scope.terms(entry), actor=actor, facts={})
    started = await scope.backend.transact(new.run_id, beginning)
    if started.result:
        document = RunDocument.of(new.run_id, [started.kept, *started.inserts])
        return await take_up(scope, entry, started.kept, document, progress)
    if started.kept.active and not scope.registry.has(started.kept):
        document = await scope.load(new.run_id)
        entry = await scope.own_code(document)
        return await go_on(scope, entry, document.head or started.kept, progress)
    return await go_on(scope, entry, started.kept, progress)


async def go_on(scope: Scope, entry: RegisteredPipeline, head: RunHead, progress: Progress = silent) -> PipelineResult:
    """Work on a stored run, if it can go on; else the result it has come to."""
    document = await scope.load(head.run_id)
    if await stays(scope, document):
        return result_of(entry, await scope.load(head.run_id))
    waits = head.status is RunStatus.PAUSED and not transitions.is_due(head, scope.now)
    if (waits and head.wait is not Wait.RETRY) or head.status is RunStatus.COMPLETED:
        return await _attend(scope, entry, document)
    try:
        taken = await _claim_in_turn(scope, entry, head.run_id)
    except (RunWaits, RunFinished):  # its worker brought it to rest since we looked
        return result_of(entry, await scope.load(head.run_id))
    return await execute(scope, entry, taken, progress)


async def take_up(
    scope: Scope,
    entry: RegisteredPipeline,
    head: RunHead,
    document: RunDocument | None,
    progress: Progress = silent,
) -> PipelineResult:
    """Work on a run that was just taken, or that is queued because too many of its key were running."""
    if head.status is RunStatus.QUEUED:
        taken = await _claim_in_turn(scope, entry, head.run_id)
        return await execute(scope, entry, taken, progress)
    return await execute(scope, entry, head, progress, document=document)


async def execute(
    scope: Scope,
    entry: RegisteredPipeline,
    taken: RunHead,
    progress: Progress = silent,
    *,
    drain: asyncio.Event | None = None,
    patient: bool = True,
    document: RunDocument | None = None,
) -> PipelineResult:
    """Work on a run as it was taken; `document` is that run, where it is known without a look.

    Raises `Fenced` when the look finds it under a newer token: that one is another worker's.
    """
    run_id = taken.run_id
    document = document or await scope.load(run_id)
    if document.head is None or document.head.fence != taken.fence:
        raise Fenced(f"Run {run_id} was taken over by another worker before this one began. Nothing was written.")
    hold = Hold(
        entry=entry,
        registry=scope.registry,
        backend=scope.backend,
        document=document,
        clock=scope.clock,
        lease=scope.lease,
        progress=progress,
        drain=drain,
        patient=patient,
    )
    await Execution(hold).run()
    if hold.head.untold:
        await kin.settle(scope.backend, run_id, scope.now)
    return await _attend(scope, entry, hold.document) if patient else result_of(entry, hold.document)


async def stays(scope: Scope, document: RunDocument) -> bool:
    """Record what is overdue; whether the run waits on, or has ended, because of that.

    A child that nobody waits for any more ends, and what is due at human tasks is recorded.
    """
    backend, now = scope.backend, scope.now
    if await kin.disowned(backend, document, now):
        return True
    if not transitions.due_alarms(document.open_human_tasks(), now):
        return False
    head = (await backend.transact(document.run_id, transitions.ring(now=now))).kept
    return not head.active or (head.status is RunStatus.PAUSED and not transitions.is_due(head, now))


async def _claim_in_turn(scope: Scope, entry: RegisteredPipeline, run_id: str) -> RunHead:
    """Take the lease; while too many runs of its key are running, wait for a place. The run as it was taken."""
    pause = _FIRST_LOOK
    while True:
        try:
            claimed = await scope.backend.transact(run_id, transitions.claim(scope.terms(entry), now=scope.now))
        except AtMaxConcurrency:
            await scope.clock.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
        else:
            return claimed.kept


async def settled(scope: Scope, entry: RegisteredPipeline, head: RunHead) -> PipelineResult:
    """The result of a run whose recorded answer stands, going on with it if nobody does."""
    if head.status in (RunStatus.QUEUED, RunStatus.RUNNING):
        with suppress(RunIsLeased):  # a worker is faster: it goes on with the answer
            return await go_on(scope, entry, head)
    if head.untold:
        await kin.settle(scope.backend, head.run_id, scope.now)
    return result_of(entry, await scope.load(head.run_id))


async def _attend(scope: Scope, entry: RegisteredPipeline, document: RunDocument) -> PipelineResult:
    """The result of a run that has come to rest; in place, its children are executed here, and then it goes on."""
    waits = kin.awaited(document)
    if not waits:
        return result_of(entry, document)
    await asyncio.gather(*[_execute_child(scope, wait.name) for wait in waits])
    await kin.miss(scope.backend, document, scope.now)
    fresh = await scope.load(document.run_id)
    if fresh.head is not None and fresh.head.status is RunStatus.QUEUED:
        return await settled(scope, entry, fresh.head)
    return result_of(entry, fresh)


async def _execute_child(scope: Scope, run_id: str) -> None:
    """Work on a child until it pauses or ends, as far as it can be here, and tell its parent."""
    child = await scope.backend.head(run_id)
    if child is None:
        return  # it was deleted
    with suppress(RunIsLeased, IllegalTransition, PipelineNotFound, PipelineChanged):
        its_own = scope.around(child)
        await go_on(its_own, its_own.entry(child.version), child)
    await kin.settle(scope.backend, run_id, scope.now)
