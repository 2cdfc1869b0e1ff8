"""The watch on a run that is worked on here: it looks whether the run is to stop, at a hint at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from threading import Lock
from types import TracebackType
from typing import Any, Self

LOOK_SECONDS = 1.0

_lock = Lock()
_watches: dict[str, set[Watch]] = {}


def hint(run_id: str) -> None:
    """Have whoever works on the run in this process look at it now. Any thread may call it; nobody may be there.

    It carries no truth: the look asks the store. A run of the same id in another store is looked at in vain.
    """
    with _lock:
        watches = list(_watches.get(run_id, ()))
    for watch in watches:
        watch.look_soon()


class Watch:
    """Inside its block `look` is called at every hint, and every second where `shared` says that others may write."""

    def __init__(self, run_id: str, look: Callable[[], Coroutine[Any, Any, None]], *, shared: bool) -> None:
        self._run_id = run_id
        self._look = look
        self._shared = shared
        self._again = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        with _lock:
            _watches.setdefault(self._run_id, set()).add(self)
        self._wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _lock:
            there = _watches[self._run_id]
            there.discard(self)
            if not there:
                del _watches[self._run_id]
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def look_soon(self) -> None:
        """Look now; while a look is under way, look again after it."""
        try:
            self._loop.call_soon_threadsafe(self._hinted)
        except RuntimeError:  # the loop has ended, and the work with it
            return

    def _hinted(self) -> None:
        self._again = True
        if self._task is None or self._task.done():
            self._begin()

    def _wait(self) -> None:
        if self._shared:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._hinted)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self in _watches.get(self._run_id, ()):  # a hint may come when the block is left
            self._task = self._loop.create_task(self._until_seen())

    async def _until_seen(self) -> None:
        while self._again:
            self._again = False
            await self._look()
        self._wait()
