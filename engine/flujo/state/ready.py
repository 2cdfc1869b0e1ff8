"""Which runs a worker could take now: highest priority first, then oldest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from flujo.lease import is_held
from flujo.records import RunHead
from flujo.state.dialect import Cursor, Dialect
from flujo.state.sql import fetch
from flujo.status import RunStatus
from flujo.transitions.rules import is_due

# The statuses are literals: SQLite uses an index of some rows only where the statement says so itself.
_QUEUED = f"status = '{RunStatus.QUEUED.value}'"
_DUE = f"status = '{RunStatus.PAUSED.value}' AND wake_at <= {{0}}"
_RUNNING = f"status = '{RunStatus.RUNNING.value}'"
_IN_ORDER = " ORDER BY priority DESC, created_at LIMIT "


def ready_runs(
    cursor: Cursor,
    dialect: Dialect,
    now: datetime,
    limit: int,
    *,
    fingerprints: Iterable[str] | None,
    full_keys: Collection[str],
) -> list[RunHead]:
    """The first `limit` runs that a worker with these pipelines could take; None for all pipelines."""
    known = None if fingerprints is None else sorted(fingerprints)
    if known == []:
        return []
    mine = f" AND fingerprint IN ({_marks(dialect, known)})" if known else ""
    mine += f" AND concurrency_key NOT IN ({_marks(dialect, full_keys)})" if full_keys else ""

    def some(where: str, parameters: Sequence[Any], suffix: str) -> list[RunHead]:
        values = [*parameters, *(known or []), *full_keys]
        return fetch(cursor, dialect, RunHead, where + mine, values, suffix=suffix)

    heads = some(_QUEUED, [], f"{_IN_ORDER}{limit}")
    heads += some(_DUE, [dialect.to_db(now)], f"{_IN_ORDER}{limit}")
    heads += [head for head in some(_RUNNING, [], "") if is_held(head, now) is None]
    return in_order(heads)[:limit]


def _marks(dialect: Dialect, values: Collection[str]) -> str:
    return ", ".join([dialect.mark] * len(values))


def is_ready(head: RunHead, now: datetime) -> bool:
    """Whether a worker could take the run."""
    return (
        is_due(head, now)
        or head.status is RunStatus.QUEUED
        or (head.status is RunStatus.RUNNING and is_held(head, now) is None)
    )


def first_ready(
    heads: Iterable[RunHead],
    now: datetime,
    limit: int,
    *,
    fingerprints: Iterable[str] | None,
    full_keys: Collection[str],
) -> list[RunHead]:
    """The same of runs that are all in memory."""
    known = None if fingerprints is None else set(fingerprints)
    mine = (head for head in heads if known is None or head.fingerprint in known)
    return in_order(head for head in mine if head.concurrency_key not in full_keys and is_ready(head, now))[:limit]


def in_order(heads: Iterable[RunHead]) -> list[RunHead]:
    """Those of higher priority first, then the oldest."""
    return sorted(heads, key=lambda head: (-head.priority, head.created_at, head.run_id))
