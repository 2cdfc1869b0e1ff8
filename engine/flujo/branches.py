"""Branches side by side: how they come to rest together, and how their contexts join."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any

from flujo import canonical
from flujo.constructs import Reducers
from flujo.context import Fields
from flujo.errors import ContextConflict


class Suspended(BaseException):
    """This branch waits for a person, or stops because its worker does.

    Like all signals of the walk it passes a user's `except Exception`.
    """


async def all_of(works: Sequence[Awaitable[Any]]) -> list[Any]:
    """Wait for all. A failure or the end of the run stops the others; a branch that waits does not."""
    tasks = [asyncio.ensure_future(work) for work in works]
    waits = False
    try:
        pending: set[asyncio.Future[Any]] = set(tasks)
        while pending:
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                waits = _suspended(task) or waits
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if waits:
        raise Suspended
    return [task.result() for task in tasks]


def _suspended(task: asyncio.Future[Any]) -> bool:
    """Whether a finished branch waits; any other way not to have a result is raised."""
    error = task.exception()
    if error is None:
        return False
    if isinstance(error, Suspended):
        return True
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
