"""The fixtures of the engine's tests: a store of each kind, verified and closed after the test that used it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flujo.state.base import StateBackend
from flujo.verify import verify_store

from tests.engine.making import Ledger
from tests.engine.stores import BUILT_IN, DURABLE, EVERY, Store, in_use, make_store


@pytest.fixture(scope="session", autouse=True)
def flush_by_deletion() -> Iterator[None]:
    """Empty PostgreSQL's few rows with DELETE after each test: TRUNCATE makes new files and takes ten times as long."""
    from django.db.backends.postgresql.operations import DatabaseOperations

    def sql_flush(self: DatabaseOperations, style: Any, tables: list[str], **_: bool) -> list[str]:
        return [f"DELETE FROM {self.quote_name(table)}" for table in tables]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


@pytest.fixture(params=EVERY)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of every kind, a user's own with three methods among them."""
    yield from _used(request, tmp_path)


@pytest.fixture(params=BUILT_IN)
def built_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of every built-in kind."""
    yield from _used(request, tmp_path)


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A built-in store that outlives its process."""
    yield from _used(request, tmp_path)


@pytest.fixture
def backend(store: Store) -> StateBackend:
    """A backend of every kind."""
    return store.backend


@pytest.fixture
def ledger() -> Ledger:
    """Counts what steps did, outside of every store."""
    return Ledger()


def _used(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    with in_use(make_store(request.param, folder)) as store:
        yield store
        if store.backend.lists_runs and request.node.get_closest_marker("tampers") is None:
            asyncio.run(verify_store(store.backend))
