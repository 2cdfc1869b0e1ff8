"""The embedded dispatcher: it wakes who listens in this process, and carries hints, never truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from threading import Lock

from django.db import transaction
from django.utils import timezone

Wake = Callable[[str], None]

logger = logging.getLogger(__name__)
_lock = Lock()
_listeners: list[Wake] = []


def listen(wake: Wake) -> None:
    """Call `wake(run_id)`, in the thread that hints, for every hint of this process."""
    with _lock:
        _listeners.append(wake)


def unlisten(wake: Wake) -> None:
    """Stop calling `wake`."""
    with _lock:
        if wake in _listeners:
            _listeners.remove(wake)


def hint(run_id: str, not_before: datetime | None = None) -> None:
    """Say that a run may have become ready. May be lost, doubled or late: the sweeper finds what no hint announced.

    A hint for later is dropped here, since the sweeper sends one when the time has come. Never raises: the change that
    it announces is committed.
    """
    if not_before is not None and not_before > timezone.now():
        return
    with _lock:
        listeners = list(_listeners)
    for wake in listeners:
        try:
            wake(run_id)
        except Exception:  # a listener's failure must not turn a committed decision into an error
            logger.exception("A listener failed on a hint for run %s.", run_id)


def hint_on_commit(run_id: str) -> None:
    """Hint when the caller's transaction has committed; a hint that fails leaves the committed change as it is."""
    transaction.on_commit(lambda: hint(run_id), robust=True)
