"""The audit chain, walked from its first event to its head."""

from __future__ import annotations

import json
from collections.abc import Iterable

from flujo.batch import GENESIS, chained
from flujo.codec import isoformat
from flujo.errors import AuditChainBroken
from flujo.records import AuditEvent, RunHead, Tombstone
from flujo.state.base import StateBackend


def verify_chain(events: Iterable[AuditEvent], head: RunHead | Tombstone | None = None) -> int:
    """Walk one run's events in order and return how many there are.

    With `head`, the chain must also end where the run says it ends, or events are missing at its end. Raises
    `AuditChainBroken` naming the first bad `seq`.
    """
    previous, seq, fence, run_id = GENESIS, 0, 0, ""
    for event in events:
        run_id = run_id or event.run_id
        seq += 1
        problem = _problem(event, run_id, seq, previous, fence)
        if problem:
            raise AuditChainBroken(f"Run {run_id}: event {seq} {problem}.", run_id=run_id, seq=seq)
        previous, fence = event.hash, event.fence
    if head is not None and (head.seq, head.chain) != (seq, previous):
        raise AuditChainBroken(
            f"Run {head.run_id}: event {seq + 1} is missing; the run says that its history ends at event {head.seq}.",
            run_id=head.run_id,
            seq=seq + 1,
        )
    return seq


def _problem(event: AuditEvent, run_id: str, seq: int, previous: str, fence: int) -> str | None:
    if event.seq != seq:
        return f"is missing; event {event.seq} stands in its place"
    if event.prev_hash != previous:
        return "does not follow the event before it"
    if event.hash != chained(event.prev_hash, event.body):
        return "was changed: its hash is not that of its body"
    body = json.loads(event.body)
    for name in ("run_id", "seq", "kind", "actor", "path", "fence"):
        if body[name] != getattr(event, name):
            return f"was changed: its {name} is not the one that was hashed"
    if body["at"] != isoformat(event.at):
        return "was changed: its time is not the one that was hashed"
    if event.run_id != run_id:
        return f"belongs to run {event.run_id}"
    return "has a lower fencing token than the event before it" if event.fence < fence else None


async def verify_store(backend: StateBackend) -> tuple[int, int]:
    """Verify every run of a store, deleted ones included; how many runs and events there are."""
    runs = events = 0
    for run_id in await backend.run_ids():
        events += await verify_run(backend, run_id)
        runs += 1
    return runs, events


async def verify_run(backend: StateBackend, run_id: str) -> int:
    """Verify the history of one run, a deleted one too; how many events it has. Raises `AuditChainBroken`.

    The run may go on meanwhile: its end is looked at before its events are read, and where there are more, after it.
    """
    before = await backend.remains(run_id)
    history = list(await backend.events(run_id))
    if history and before is None:
        raise AuditChainBroken(f"Run {run_id} has a history, but its row is gone.", run_id=run_id, seq=len(history))
    if before is None or before.seq >= len(history):
        return verify_chain(history, before)
    verify_chain(history[: before.seq], before)
    after = await backend.remains(run_id)
    if after is None or after.seq < len(history):
        raise AuditChainBroken(
            f"Run {run_id}: event {before.seq + 1} was added after the end of the run's history.",
            run_id=run_id,
            seq=before.seq + 1,
        )
    return verify_chain(history, after if after.seq == len(history) else None)
