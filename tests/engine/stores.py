"""The stores that the contract suite runs on: the four built-in backends, and a user's own with three methods."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flujo.encryption import Keys
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend

KEY = "5pxLY3nqCRvI1g2Mlt0Tz6HsTTjPOEs5SzyMdRwTRMk="  # of tests alone
KEYS = Keys(KEY)


class JsonFiles(StateBackend):
    """What a user writes: the three methods and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        new = self.folder / f"{run_id}.new"
        new.write_text(json.dumps(state))
        new.replace(self.folder / f"{run_id}.json")

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        path = self.folder / f"{run_id}.json"
        if not path.exists():
            return None
        state: dict[str, Any] = json.loads(path.read_text())
        return state

    async def delete_state(self, run_id: str) -> None:
        (self.folder / f"{run_id}.json").unlink(missing_ok=True)


class TracedSQLite(SQLiteBackend):
    """Notes the statements of every connection it opens."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.statements: list[str] = []

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.set_trace_callback(self.statements.append)
        return connection


@dataclass
class Store:
    """A place for runs; `reopen` gives a new backend on the same runs, as a new process would."""

    name: str
    opens: Callable[[], StateBackend]
    backend: StateBackend = field(init=False)
    opened: list[StateBackend] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> StateBackend:
        self.backend = self.opens()
        if not any(known is self.backend for known in self.opened):
            self.opened.append(self.backend)
        return self.backend

    async def close(self) -> None:
        for backend in self.opened:
            await backend.close()


def make_store(name: str, folder: Path, keys: Keys | None = None) -> Store:
    """A new, empty store; the folder holds its files. Django's has the keys of the settings."""
    if name in ("django", "postgres"):
        from runs.state_backend import DjangoBackend

        using = "default" if name == "django" else "postgres"
        return Store(name, lambda: DjangoBackend(using=using))
    memory = InMemoryBackend()
    opens: dict[str, Callable[[], StateBackend]] = {
        "memory": lambda: memory,
        "file": lambda: FileBackend(folder / "runs", encryption=keys),
        "sqlite": lambda: SQLiteBackend(folder / "runs.db", encryption=keys),
        "sealed": lambda: SQLiteBackend(folder / "runs.db", encryption=KEYS),
        "three_methods": lambda: JsonFiles(folder / "states"),
    }
    return Store(name, opens[name])


@contextmanager
def in_use(store: Store) -> Iterator[Store]:
    """Close the store after its use, and the threads that hold connections to the test databases."""
    try:
        yield store
        asyncio.run(store.close())
    finally:
        if store.name in ("django", "postgres"):
            from runs.state_backend import close_store_threads

            close_store_threads()


def emptied(store: Store) -> StateBackend:
    """The same database without its rows. Django's connection belongs to the test's own thread."""
    from django.db import connections

    from runs import models
    from tests.runs.guards import lifted

    def empty() -> None:
        connection = connections[store.backend.using]  # type: ignore[attr-defined]  # only Django's backend comes here
        tables = (models.Decision, models.HumanTask, models.Attempt, models.Checkpoint, models.RunInput)
        with lifted(connection), connection.cursor() as cursor:
            for model in (
                *tables,
                models.ArtefactUse,
                models.Artefact,
                models.AuditEvent,
                models.Tombstone,
                models.Run,
            ):
                cursor.execute(f"DELETE FROM {model._meta.db_table}")
        connection.close()

    _apart(empty)
    return store.backend


def back_up(store: Store, folder: Path) -> Callable[[], StateBackend]:
    """Take a backup of a store as it stands; the answer puts the store back to it and opens it again."""
    if store.name in ("django", "postgres"):
        return _back_up_tables(store)
    backend: Any = store.backend
    if store.name == "memory":
        runs = {run_id: document.copy() for run_id, document in backend._runs.items()}

        def put_back() -> StateBackend:
            backend._runs = {run_id: document.copy() for run_id, document in runs.items()}
            return store.backend

        return put_back
    if store.name in ("sqlite", "sealed"):
        database: Path = backend.path
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", [str(folder)])

        def replace() -> StateBackend:
            for suffix in ("-wal", "-shm"):
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            shutil.copy(folder, database)
            return store.reopen()

        return _closed_first(store, replace)
    runs_of: Path = backend.folder
    runs_of.mkdir(exist_ok=True)
    shutil.copytree(runs_of, folder)

    def copy_back() -> StateBackend:
        shutil.rmtree(runs_of)
        shutil.copytree(folder, runs_of)
        return store.reopen()

    return _closed_first(store, copy_back)


def _closed_first(store: Store, then: Callable[[], StateBackend]) -> Callable[[], StateBackend]:
    def put_back() -> StateBackend:
        _apart(lambda: asyncio.run(store.close()))
        return then()

    return put_back


def _back_up_tables(store: Store) -> Callable[[], StateBackend]:
    """The rows of all tables of the console, as a dump has them."""
    from django.apps import apps
    from django.db import connections

    from tests.runs.guards import lifted

    backend: Any = store.backend
    using: str = backend.using
    tables = [model._meta.db_table for model in apps.get_app_config("flujo_runs").get_models()]
    rows: dict[str, list[Any]] = {}

    def dump() -> None:
        with connections[using].cursor() as cursor:
            for table in tables:
                cursor.execute(f"SELECT * FROM {table}")
                rows[table] = cursor.fetchall()
        connections[using].close()

    def put_back() -> None:
        connection = connections[using]
        with lifted(connection), connection.cursor() as cursor:
            for table in reversed(tables):
                cursor.execute(f"DELETE FROM {table}")
            for table in tables:
                for row in rows[table]:
                    cursor.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)
        connection.close()

    _apart(dump)

    def restore() -> StateBackend:
        _apart(put_back)
        return store.reopen()

    return restore


def _apart(work: Callable[[], None]) -> None:
    """On a thread of its own: without a running loop, and without the test's own connection."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


BUILT_IN = [
    "memory",
    "file",
    "sqlite",
    # Emptying all tables after each test takes longer than most tests: the fast tier does without it.
    pytest.param("django", marks=[pytest.mark.slow, pytest.mark.django_db(transaction=True)]),
    pytest.param(
        "postgres", marks=[pytest.mark.services, pytest.mark.django_db(transaction=True, databases=["postgres"])]
    ),
]
EVERY = [*BUILT_IN, pytest.param("sealed", marks=pytest.mark.slow), "three_methods"]
DURABLE = BUILT_IN[1:]
