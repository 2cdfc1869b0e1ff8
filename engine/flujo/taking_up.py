"""What is seen to before a run is taken up: a parent that is gone, a deadline that has passed, and its turn."""

from __future__ import annotations

from datetime import datetime

from flujo import kin, transitions
from flujo.clock import Clock
from flujo.document import RunDocument
from flujo.errors import AtMaxConcurrency
from flujo.records import RunHead
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.transitions import ClaimTerms

FIRST_LOOK, LAST_LOOK = 0.05, 1.0
"""Seconds between two looks for a place among the runs of a concurrency key."""


async def stays(backend: StateBackend, document: RunDocument, now: datetime) -> bool:
    """Record what is overdue; whether the run waits on, or has ended, because of that.

    A child that nobody waits for any more ends, and what is due at human tasks is recorded.
    """
    if await kin.disowned(backend, document, now):
        return True
    if not transitions.due_alarms(document.open_human_tasks(), now):
        return False
    head = (await backend.transact(document.run_id, transitions.ring(now=now))).kept
    return not head.active or (head.status is RunStatus.PAUSED and not transitions.is_due(head, now))


async def claim_in_turn(backend: StateBackend, run_id: str, terms: ClaimTerms, clock: Clock) -> RunHead:
    """Take the lease; while too many runs of its key are running, wait for a place. The run as it was taken."""
    pause = FIRST_LOOK
    while True:
        try:
            claimed = await backend.transact(run_id, transitions.claim(terms, now=clock.now()))
        except AtMaxConcurrency:
            await clock.sleep(pause)
            pause = min(2 * pause, LAST_LOOK)
        else:
            return claimed.kept
