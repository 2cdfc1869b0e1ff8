"""The worker: a thread with a loop of its own that claims ready runs and executes them, a bounded number at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from threading import Thread
from time import monotonic
from typing import Protocol

from flujo import Flujo, PipelineRegistry, watch
from flujo.clock import Clock, SystemClock
from flujo.errors import (
    AtMaxConcurrency,
    Fenced,
    FlujoError,
    IllegalTransition,
    PipelineNotFound,
    RunIsLeased,
    RunNotFound,
)
from flujo.records import RunHead

from runs import changed_code, dispatch
from runs.registry import registry as site_registry
from runs.state_backend import DjangoBackend

logger = logging.getLogger(__name__)

CONCURRENCY = 4
LOOK_SECONDS = 5.0
DRAIN_SECONDS = 10.0
CANCEL_SECONDS = 2.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
PAUSE_AFTER_ERROR = 2.0
FULL_SECONDS = 1.0

TAKEN_BY_ANOTHER = (RunIsLeased, Fenced, RunNotFound, IllegalTransition)


@dataclass(slots=True)
class Setback:
    """A run that could not be executed: what was said about it, and when it is tried again."""

    reason: str
    pause: float
    until: float

    @classmethod
    def after(cls, before: Setback | None, reason: str, now: float) -> Setback:
        """The pause doubles while the same thing goes wrong."""
        pause = min(before.pause * 2, LONGEST_PAUSE) if before and before.reason == reason else FIRST_PAUSE
        return cls(reason, pause, now + pause)


class Worker:
    """Executes the ready runs of the site's store whose pipeline, version and fingerprint are registered here.

    What is ready is always asked of the store; a hint only says that it is worth asking now.
    """

    def __init__(
        self,
        *,
        registry: PipelineRegistry = site_registry,
        concurrency: int = CONCURRENCY,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._registry = registry
        self._concurrency = concurrency
        self._backend = DjangoBackend()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._setbacks: dict[str, Setback] = {}
        self._policies_again = 0.0
        self._full_keys: dict[str, float] = {}
        self._taking: dict[str, str] = {}
        self._thread = Thread(target=self._run, name="flujo-worker", daemon=True)
        self._ready: Future[_Signals] = Future()

    # From other threads

    def start(self) -> None:
        """Begin; runs that a dead process held are taken over at once."""
        self._thread.start()
        self._ready.result()
        dispatch.listen(self._hinted)

    def stop(self, timeout: float = DRAIN_SECONDS) -> bool:
        """Let each run finish its present step and give back its lease; False when some had to be left to expire.

        Steps that are not done after `timeout` seconds are cancelled.
        """
        dispatch.unlisten(self._hinted)
        signals = self._ready.result()
        signals.call(signals.drain.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            signals.call(self._cancel_all)
            self._thread.join(CANCEL_SECONDS)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _hinted(self, run_id: str) -> None:
        watch.hint(run_id)
        signals = self._ready.result()
        signals.call(signals.wake.set)

    # In the worker's own loop

    def _run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        signals = _Signals(asyncio.get_running_loop(), asyncio.Event(), asyncio.Event())
        self._ready.set_result(signals)
        while not signals.drain.is_set():
            signals.wake.clear()
            pause = await self._fill(signals)
            await _first_of(signals.wake, signals.drain, timeout=pause)
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def _fill(self, signals: _Signals) -> float:
        """Give each free slot a run; the seconds after which to look again without a hint."""
        self._setbacks = {key: it for key, it in self._setbacks.items() if it.until > monotonic() - LONGEST_PAUSE}
        self._full_keys = {key: until for key, until in self._full_keys.items() if until > monotonic()}
        try:
            await self._follow_policies()
            for head in await self._claimable(self._clock.now()):
                self._taking |= {head.concurrency_key: head.run_id} if head.concurrency_key else {}
                self._running[head.run_id] = asyncio.create_task(self._execute(head, signals))
        except Exception:  # the seam of the worker: a store that is away for a while must not end it
            logger.exception("The worker could not look for ready runs; it tries again.")
            return PAUSE_AFTER_ERROR
        return FULL_SECONDS if self._full_keys else LOOK_SECONDS

    async def _follow_policies(self) -> None:
        """Now and then see to the runs that this process would take, but has not the code for."""
        if monotonic() < self._policies_again:
            return
        self._policies_again = monotonic() + LOOK_SECONDS
        for run_id, why in await changed_code.follow_policies(self._backend, self._registry, self._clock.now()):
            logger.warning("Run %s needs attention: %s", run_id, why)

    async def _claimable(self, now: datetime) -> list[RunHead]:
        """As many runs as there are free slots, however many that cannot be executed stand before them.

        Of the runs of one concurrency key only the first is taken at a time: of several that are tried at once chance
        would decide which gets the place.
        """
        found: dict[str, RunHead] = {}
        free, limit = self._concurrency - len(self._running), self._concurrency * 4
        keys = {*self._full_keys, *self._taking}
        while len(found) < free:
            heads = await self._backend.ready(now, limit, fingerprints=self._fingerprints(), full_keys=list(keys))
            known = len(keys)
            for head in heads:
                key = head.concurrency_key
                if len(found) < free and head.run_id not in found and not (key and key in keys) and self._can(head):
                    found[head.run_id] = head
                    keys |= {key} if key else set()
            if len(heads) < limit:
                break
            limit *= 4 if len(keys) == known else 1
        return list(found.values())

    def _fingerprints(self) -> set[str]:
        registry = self._registry
        return {
            registry.get(name, version).fingerprint for name in registry.names() for version in registry.versions(name)
        }

    def _can(self, head: RunHead) -> bool:
        if head.run_id in self._running:
            return False
        setback = self._setbacks.get(head.run_id)
        if setback is not None and setback.until > monotonic():
            return False
        if reason := self._why_not(head):
            self._set_back(head.run_id, reason)
            return False
        return True

    def _why_not(self, head: RunHead) -> str:
        """Why this process cannot execute the run; "" when it can."""
        try:
            registered = self._registry.get(head.pipeline, head.version)
        except PipelineNotFound:
            return f"no pipeline {head.pipeline} {head.version} is registered here"
        if registered.fingerprint != head.fingerprint:
            return f"{head.pipeline} {head.version} has another shape here than when the run started"
        return ""

    async def _execute(self, head: RunHead, signals: _Signals) -> None:
        def taken() -> None:
            """The next run of the same key may be tried now."""
            if self._taking.get(head.concurrency_key) == head.run_id:
                del self._taking[head.concurrency_key]
                signals.wake.set()

        try:
            await Flujo(
                registry=self._registry,
                pipeline_name=head.pipeline,
                pipeline_version=head.version,
                state_backend=self._backend,
                clock=self._clock,
            ).continue_async(head.run_id, drain=signals.drain, taken=taken)
            self._setbacks.pop(head.run_id, None)
            await self._offer_place(head.concurrency_key)
        except AtMaxConcurrency:
            self._full_keys[head.concurrency_key] = monotonic() + FULL_SECONDS
        except TAKEN_BY_ANOTHER as error:
            logger.debug("Run %s was left to another: %s", head.run_id, error)
            self._setbacks[head.run_id] = Setback.after(None, "taken", monotonic())
        except FlujoError as error:
            self._set_back(head.run_id, f"{error.code}: {error}")
        except Exception as error:  # the seam of the worker: one run's failure must not end the others
            self._set_back(head.run_id, f"{type(error).__name__}: {error}", unexpected=error)
        finally:
            del self._running[head.run_id]
            taken()
            signals.wake.set()

    async def _offer_place(self, concurrency_key: str) -> None:
        """A run of this key has given back its place: tell those who wait for one."""
        self._full_keys.pop(concurrency_key, None)
        waiting = await self._backend.next_of_key(concurrency_key) if concurrency_key else None
        if waiting is not None:
            dispatch.hint(waiting)

    def _set_back(self, run_id: str, reason: str, unexpected: Exception | None = None) -> None:
        before = self._setbacks.get(run_id)
        self._setbacks[run_id] = Setback.after(before, reason, monotonic())
        if before is None or before.reason != reason:
            logger.warning("Run %s is not executed: %s", run_id, reason, exc_info=unexpected)

    def _cancel_all(self) -> None:
        for task in self._running.values():
            task.cancel()


@dataclass(frozen=True, slots=True)
class _Signals:
    """The worker's events, and the way to set them from another thread."""

    loop: asyncio.AbstractEventLoop
    wake: asyncio.Event
    drain: asyncio.Event

    def call(self, action: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop has ended, and with it what was to be told
            logger.debug("The worker has already ended.")


class _Waitable(Protocol):
    async def wait(self) -> bool: ...


async def _first_of(*events: _Waitable, timeout: float) -> None:
    waits = [asyncio.create_task(_wait(event)) for event in events]
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for waiting in waits:
        waiting.cancel()


async def _wait(event: _Waitable) -> None:
    await event.wait()
