"""Locks on files and folders, which end with the process that took them, whatever children it forks meanwhile.

What `flock` locks is the open file. A child of a fork shares that, and would keep it locked for as long as it lives: so
it closes what it was given.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

_guard = threading.RLock()
_held: set[int] = set()


def open_locked(path: Path, flags: int, mode: int = 0o777) -> int:
    """A descriptor of the file, as soon as nobody else has one of these; `close_locked` is to follow."""
    with _guard:
        descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
        _held.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        close_locked(descriptor)
        raise
    return descriptor


def close_locked(descriptor: int) -> None:
    """Close it, and let others have the file."""
    with _guard:
        if descriptor in _held:  # a fork inside of this lock closed the child's
            _held.discard(descriptor)
            os.close(descriptor)


def _after_fork_in_child() -> None:
    while _held:
        os.close(_held.pop())
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)
