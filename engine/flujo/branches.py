"""Branches side by side: how they come to rest together, and how their contexts join."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from flujo import canonical
from flujo.constructs import Reducers
from flujo.context import Fields
from flujo.errors import ContextConflict


class Suspended(BaseException):
    """This branch waits, or stops because its worker does; `until` is when it can go on by itself.

    Like all signals of the walk it passes a user's `except Exception`.
    """

    def __init__(self, until: datetime | None = None) -> None:
        super().__init__(until)
        self.until = until


class Stopped(BaseException):
    """This branch was interrupted in a step's own code, or between two of its attempts; so are all others."""


Work = Callable[[], Awaitable[Any]]


class Alarms(Protocol):
    """What ends the rest of a branch while others work."""

    told: int
    """Counts how often something came of others: an answer, a signal, the end of a child."""

    async def sleep_until(self, moment: datetime) -> None: ...
    async def news(self, told: int) -> None:
        """Wait until more has come than was `told`."""


async def all_of(works: Sequence[Work], alarms: Alarms) -> list[Any]:
    """Wait for all. A failure or the end of the run stops the others; a branch that waits, or was stopped, does not.

    While others still work, a branch whose time has come is begun again, and at news all that rest are.
    """
    tasks = [asyncio.ensure_future(work()) for work in works]
    numbers: dict[asyncio.Future[Any], int] = {task: number for number, task in enumerate(tasks)}
    heard = dict.fromkeys(range(len(works)), alarms.told)
    resting: dict[int, datetime | None] = {}
    working: set[asyncio.Future[Any]] = set(tasks)
    bells: set[asyncio.Future[None]] = set()
    stopped = False
    try:
        while working:
            due = min((until for until in resting.values() if until is not None), default=None)
            alarm = None if due is None else asyncio.create_task(_ring(alarms, due), name="flujo-alarm")
            news = asyncio.create_task(alarms.news(min(heard[number] for number in resting))) if resting else None
            bells = {bell for bell in (alarm, news) if bell is not None}
            finished, _ = await asyncio.wait({*working, *bells}, return_when=asyncio.FIRST_COMPLETED)
            for task in finished & working:
                rest = _rest(task)
                if rest is not None:
                    resting[numbers[task]] = rest.until if isinstance(rest, Suspended) else None
                    stopped = stopped or isinstance(rest, Stopped)
            working -= finished
            rang, told = [bell is not None and not bell.cancel() for bell in (alarm, news)]
            again = [n for n, until in resting.items() if (told and heard[n] < alarms.told) or (rang and until == due)]
            for number in again:
                del resting[number]
                heard[number] = alarms.told
                tasks[number] = asyncio.ensure_future(works[number]())
                numbers[tasks[number]] = number
                working.add(tasks[number])
    finally:
        left = [*tasks, *bells]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if stopped:
        raise Stopped
    if resting:
        raise Suspended(min((until for until in resting.values() if until is not None), default=None))
    return [task.result() for task in tasks]


async def _ring(alarms: Alarms, due: datetime) -> None:
    await alarms.sleep_until(due)


def _rest(task: asyncio.Future[Any]) -> Suspended | Stopped | None:
    """How a finished branch came to rest, None when it has a result; any other way not to have one is raised."""
    error = task.exception()
    if error is None or isinstance(error, Suspended | Stopped):
        return error
    raise error


def merge(base: Fields, branches: Sequence[Fields], reducers: Reducers) -> Fields:
    """The context at a join: what each branch changed, in order. Raises `ContextConflict` for a field changed twice."""
    changed: dict[str, list[Any]] = {}
    for fields in branches:
        if fields is not base:
            for name, value in fields.items():
                if name not in base or canonical.dump(base[name]) != canonical.dump(value):
                    changed.setdefault(name, []).append(value)
    if not changed:
        return base
    merged = dict(base)
    for name, values in changed.items():
        if len(values) > 1 and name not in reducers:
            raise ContextConflict(
                f"{len(values)} branches changed the context field {name!r}. Let one change it, or declare a reducer."
            )
        merged[name] = json.loads(canonical.encode(reducers[name](values))) if len(values) > 1 else values[0]
    return merged
