"""What can be seen from outside of the health of an SQLite store, by a connection that may only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flujo.codec import RECORDS
from flujo.records import Artefact, ArtefactUse, AuditEvent, RunHead, Tombstone
from flujo.state.backends.sqlite_schema import SCHEMA_VERSION, TABLES
from flujo.state.base import Check

LARGE_LOG = 256
"""In MB. Writers let it grow to a quarter of that, unless a reader needs what it holds."""


def health(path: Path, synchronous: str) -> Iterator[Check]:
    """Each check of the file at `path`."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        yield Check(
            "schema",
            version == SCHEMA_VERSION,
            f"version {version} of {SCHEMA_VERSION}",
            "open the store once to renew it",
        )
        said = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        yield Check("integrity", said == ["ok"], "; ".join(said), "the file is damaged: restore it from a backup")
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        yield Check("journal", mode == "wal", mode, "another program changed it: open the store once to set it back")
        log = Path(f"{path}-wal")
        size = log.stat().st_size >> 20 if log.exists() else 0
        advice = "a program reads from the store and does not end: end it, and the log is emptied"
        yield Check("log", size < LARGE_LOG, f"{size} MB", advice)
        sure = synchronous == "FULL"
        advice = "a power cut may take the last commits: open the store with synchronous='FULL'"
        yield Check("synchronous", sure, f"{synchronous}, as this backend opens it", advice)
        orphans = sum(_orphans(connection))
        yield Check(
            "orphans",
            not orphans,
            f"{orphans} rows without their run",
            "restore the runs they belong to from a backup",
        )


def _orphans(connection: sqlite3.Connection) -> Iterator[int]:
    run, gone = TABLES[RunHead], TABLES[Tombstone]
    unused = f"SELECT count(*) FROM {TABLES[Artefact]} WHERE digest NOT IN (SELECT digest FROM {TABLES[ArtefactUse]})"
    yield connection.execute(unused).fetchone()[0]
    for record in (*RECORDS, ArtefactUse):
        if record in (RunHead, Tombstone):
            continue
        known = f"SELECT run_id FROM {run}"
        if record is AuditEvent:
            known += f" UNION SELECT run_id FROM {gone}"
        sql = f"SELECT count(*) FROM {TABLES[record]} WHERE run_id NOT IN ({known})"
        yield connection.execute(sql).fetchone()[0]
