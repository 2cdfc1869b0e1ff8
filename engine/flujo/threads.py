"""Threads for sync steps: daemons, so that a step that never returns cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

_IDLE_SECONDS = 10.0


@dataclass(eq=False, slots=True)
class _Job:
    """A call, and the future of whoever waits for it in `loop`."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    call: Callable[[], Any]
    over: bool = False


_jobs: SimpleQueue[_Job] = SimpleQueue()
_idle = threading.Semaphore(0)
_left: set[_Job] = set()
_guard = threading.Lock()


def _start_anew() -> None:
    """A fork has the queue, but none of the threads."""
    global _jobs, _idle, _left, _guard  # they belong to the process
    _jobs, _idle, _left, _guard = SimpleQueue(), threading.Semaphore(0), set(), threading.Lock()


os.register_at_fork(after_in_child=_start_anew)


def in_thread(call: Callable[[], Any], *, when_left: Callable[[int], None] | None = None) -> asyncio.Future[Any]:
    """Make a call in a thread; await the future for its result. Cancelling the future leaves the thread running.

    `when_left` is told then how many threads of this process go on like that, this one included.
    """
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    job = _Job(loop, loop.create_future(), lambda: context.run(call))
    _jobs.put(job)
    if not _idle.acquire(blocking=False):
        threading.Thread(target=_serve, name="flujo-step", daemon=True).start()
    if when_left is not None:
        job.future.add_done_callback(lambda future: _leave(job, when_left) if future.cancelled() else None)
    return job.future


def left_running() -> int:
    """How many threads of this process go on though nobody waits for them any longer."""
    return len(_left)


def _leave(job: _Job, when_left: Callable[[int], None]) -> None:
    """Count a thread that goes on, unless it has just ended."""
    with _guard:
        if job.over:
            return
        _left.add(job)
        going_on = len(_left)
    when_left(going_on)


def _serve() -> None:
    while True:
        try:
            job = _jobs.get(timeout=_IDLE_SECONDS)
        except Empty:
            if _idle.acquire(blocking=False):
                return
            continue
        try:
            result, error = job.call(), None
        except BaseException as raised:  # a step's own error, whatever it is, belongs to the loop that awaits it
            result, error = None, raised
        with _guard:
            job.over = True
            _left.discard(job)
        _idle.release()
        if not job.loop.is_closed():
            job.loop.call_soon_threadsafe(_settle, job.future, result, error)
        del job, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return  # too late: the wait has ended, and with it the attempt
    if isinstance(error, StopIteration):
        error = RuntimeError("the step raised StopIteration")
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
