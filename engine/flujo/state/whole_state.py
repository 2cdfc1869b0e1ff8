"""A whole state that comes from outside, held against what is stored."""

from __future__ import annotations

from datetime import datetime

from flujo.document import RunDocument
from flujo.errors import RunIsLeased, StaleState
from flujo.lease import is_held
from flujo.verify import verify_chain


def compare_and_import(incoming: RunDocument, stored: RunDocument | None, now: datetime) -> RunDocument | None:
    """What `save_state` on a built-in backend may write; None when the store has it already.

    A whole state replaces an older one of the same history. A run under a live lease is refused (`RunIsLeased`), and so
    is a state that is not newer, or has another history (`StaleState`): otherwise `save_state` would be a hole through
    fencing and the audit. Raises `AuditChainBroken` when the state's own history does not hold.
    """
    verify_chain(incoming.events(), incoming.head or incoming.tombstone)
    if stored is None or (stored.head is None and stored.tombstone is None):
        return incoming
    if stored.digest() == incoming.digest():
        return None
    holder = is_held(stored.head, now) if stored.head is not None else None
    if holder is not None:
        raise RunIsLeased(f"Run {incoming.run_id} is under the lease of {holder} and cannot be replaced.")
    known, events = stored.events(), incoming.events()
    if len(events) <= len(known):
        raise StaleState(f"The state of run {incoming.run_id} is not newer than the stored one; nothing was written.")
    if events[: len(known)] != known:
        raise StaleState(f"The state of run {incoming.run_id} has another history than the stored one.")
    return incoming
