"""What `python -m flujo doctor` looks at in a site's database, beside what it looks at in every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from flujo.state.base import Check

from runs.services.verify import verify_site

SQLITE_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
POSTGRES_SETTINGS = {"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
GUARDS = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'",
}
GUARDED_TABLES = ("flujo_runs_auditevent", "flujo_runs_siteevent", "flujo_runs_run")


def health(using: str) -> Iterator[Check]:
    """Migrations, durability, guards, and the chain of the site."""
    database = connections[using]
    yield _migrations(database)
    if database.vendor == "sqlite":
        said = ask(database, "PRAGMA integrity_check(5)")
        yield Check("integrity", said == ["ok"], "; ".join(said), "the file is damaged: restore it from a backup")
    for name, found, wanted in durability(database):
        shown, right = (SYNCHRONOUS[value] if name == "synchronous" else str(value) for value in (found, wanted))
        yield Check(name, found == wanted, shown, f"set it to {right}, or commits that were acknowledged can be lost")
    bare = unguarded(database)
    advice = "run manage.py migrate: history could be changed in these tables"
    yield Check("guards", not bare, f"none on {', '.join(bare)}" if bare else "on every table of history", advice)
    if using == DEFAULT_DB_ALIAS:
        yield _site_chain()


def durability(database: BaseDatabaseWrapper) -> Iterator[tuple[str, Any, Any]]:
    """Each setting on which it depends that a commit is kept: its name, what it is, and what it should be."""
    sqlite = database.vendor == "sqlite"
    for name, value in (SQLITE_PRAGMAS if sqlite else POSTGRES_SETTINGS).items():
        yield name, ask(database, f"PRAGMA {name}" if sqlite else f"SHOW {name}")[0], value


def unguarded(database: BaseDatabaseWrapper) -> list[str]:
    """The tables whose triggers are not there: history could be changed in them."""
    triggers = ask(database, GUARDS[database.vendor])
    return [table for table in GUARDED_TABLES if not any(name.startswith(f"{table}_no_") for name in triggers)]


def ask(database: BaseDatabaseWrapper, question: str) -> list[Any]:
    """The first column of the answer."""
    with database.cursor() as cursor:
        cursor.execute(question)
        return [row[0] for row in cursor.fetchall()]


def files(using: str) -> list[Path]:
    """The files of an SQLite database."""
    database = connections[using]
    name = str(database.settings_dict["NAME"])
    if database.vendor != "sqlite" or ":memory:" in name or "mode=memory" in name:
        return []
    return [path for end in ("", "-wal", "-shm") if (path := Path(f"{name}{end}")).exists()]


def _migrations(database: BaseDatabaseWrapper) -> Check:
    executor = MigrationExecutor(database)
    left = [migration for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    found = f"not applied: {', '.join(map(str, left[:3]))}{', …' if len(left) > 3 else ''}"
    return Check("migrations", not left, found if left else "all are applied", "run manage.py migrate")


def _site_chain() -> Check:
    report = verify_site()
    said = "; ".join(problem.sentence for problem in report.problems[:3])
    advice = f"{said}. Restore it from a backup, and find out who changed the store."
    found = f"{report.events} events, {'intact' if report.intact else 'broken'}"
    return Check("chain of the site", report.intact, found, advice)
