"""Threads for sync steps: daemons, so that a step that never returns cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

_IDLE_SECONDS = 10.0

_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]
_jobs: SimpleQueue[_Job] = SimpleQueue()
_idle = threading.Semaphore(0)


def _start_anew() -> None:
    """A fork has the queue, but none of the threads."""
    global _jobs, _idle  # they belong to the process
    _jobs, _idle = SimpleQueue(), threading.Semaphore(0)


os.register_at_fork(after_in_child=_start_anew)


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
    """Call `function` in a thread; await the future for its result. Cancelling the future leaves the thread running."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    _jobs.put((loop, future, lambda: context.run(function, *args, **kwargs)))
    if not _idle.acquire(blocking=False):
        threading.Thread(target=_serve, name="flujo-step", daemon=True).start()
    return future


def _serve() -> None:
    while True:
        try:
            loop, future, call = _jobs.get(timeout=_IDLE_SECONDS)
        except Empty:
            if _idle.acquire(blocking=False):
                return
            continue
        try:
            result, error = call(), None
        except BaseException as raised:  # a step's own error, whatever it is, belongs to the loop that awaits it
            result, error = None, raised
        _idle.release()
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, future, result, error)
        del loop, future, call, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if isinstance(error, StopIteration):
        error = RuntimeError("the step raised StopIteration")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
