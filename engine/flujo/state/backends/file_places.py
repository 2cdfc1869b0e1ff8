"""The places of a concurrency key in a folder of run files: which runs may hold one, under a lock for each key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flujo import canonical
from flujo.records import RunHead
from flujo.state.file_locks import close_locked, open_locked
from flujo.status import RunStatus


class Places:
    """The keys that one write asks for; `close` gives their locks back.

    A folder for each key holds an empty file for each run that took a place. It is made before the run's own file is
    written, so that there may be one for a run that holds none (each is looked at), but none is missing. That needs no
    fsync: a power cut ends the holders too.
    """

    def __init__(self, folder: Path, head_of: Callable[[str], RunHead | None]) -> None:
        self._folder = folder
        self._head_of = head_of
        self._locks: dict[str, int] = {}

    def running(self, concurrency_key: str) -> list[RunHead]:
        """The running runs of the key. No other write asks for the same key before `close`."""
        place = self._place(concurrency_key)
        if concurrency_key not in self._locks:
            place.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._locks[concurrency_key] = open_locked(place, os.O_RDONLY | os.O_DIRECTORY)
        running = []
        for mark in sorted(place.iterdir()):
            head = self._head_of(mark.name)
            if head is not None and head.status is RunStatus.RUNNING and head.concurrency_key == concurrency_key:
                running.append(head)
            else:
                mark.unlink()
        return running

    def take(self, head: RunHead | None) -> None:
        """Mark a run that is about to be stored as running."""
        if head is not None and head.concurrency_key in self._locks and head.status is RunStatus.RUNNING:
            (self._place(head.concurrency_key) / head.run_id).touch(mode=0o600)

    def close(self) -> None:
        """Let others ask."""
        for descriptor in self._locks.values():
            close_locked(descriptor)

    def _place(self, concurrency_key: str) -> Path:
        return self._folder / canonical.digest(concurrency_key)
