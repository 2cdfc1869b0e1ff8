"""A real site for a test: `manage.py serve` in a process of its own, on a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import psycopg
from flujo.records import AuditEvent
from flujo.status import EventKind

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


def environment(folder: Path, database_url: str = "") -> dict[str, str]:
    """What a process of the site needs to know; nothing of the site's is inherited."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLUJO_")}
    return {
        **clean,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.settings",
        "FLUJO_DATA": str(folder / "data"),
        "FLUJO_E2E_FOLDER": str(folder),
        "FLUJO_DATABASE_URL": database_url,
        "FLUJO_LOG_LEVEL": "WARNING",
        "PYTHONWARNINGS": "default",
    }


def python(folder: Path, *arguments: str, database_url: str = "") -> str:
    """Run a program of the site to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(folder, database_url), text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(folder: Path, database_url: str = "") -> dict[str, str]:
    """Tables and people in a new store; the session key of each person."""
    (folder / "data").mkdir(parents=True)
    sessions: dict[str, str] = json.loads(python(folder, "-m", "tests.e2e.prepare", database_url=database_url))
    return sessions


def wait_for(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; fails naming `what` when it does not come."""
    deadline = time.monotonic() + patience
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"waited {patience} s in vain for {what}"
        time.sleep(0.03)


@dataclass
class Site:
    """One store with up to one server; `sessions` holds a session key for each person."""

    folder: Path
    sessions: dict[str, str]
    database_url: str = ""
    url: str = ""
    process: subprocess.Popen[str] | None = None
    logs: list[Path] = field(default_factory=list)

    @classmethod
    def copied(cls, template: Path, folder: Path) -> Site:
        """A site on a copy of a prepared SQLite store."""
        shutil.copytree(template / "data", folder / "data")
        return cls(folder, json.loads((template / "sessions.json").read_text()))

    # The server

    def start(self, *options: str, server: str = "serve") -> Site:
        """Start the server, on the port it had before if it had one."""
        port = self.url.rstrip("/").rpartition(":")[2] or "0"
        self.logs.append(self.folder / f"{server}-{time.monotonic_ns()}.log")
        arguments = [sys.executable, "manage.py", server, *options]
        with self.logs[-1].open("w") as log:
            process = subprocess.Popen(
                [*arguments, "--port", port] if server == "serve" else arguments,
                cwd=ROOT, env=environment(self.folder, self.database_url), stdout=log, stderr=log, text=True,
            )  # fmt: skip
        self.process = process
        ready = "Ctrl-C stops it"
        wait_for(lambda: ready in self.log or process.poll() is not None, "the server to start", 40)
        assert process.poll() is None, self.log
        if server == "serve":
            self.url = next(word for word in self.log.split() if word.startswith("http://127"))
        return self

    @property
    def log(self) -> str:
        return self.logs[-1].read_text()

    @property
    def said(self) -> str:
        """Everything all servers of this site wrote."""
        return "".join(path.read_text() for path in self.logs)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    # What steps do outside the store

    def hold(self, path: str) -> None:
        """The step at `path` does not end until it is released."""
        (self.folder / f"hold-{path}").touch()

    def release(self, path: str) -> None:
        (self.folder / f"hold-{path}").unlink()

    def release_all(self) -> None:
        for file in self.folder.glob("hold-*"):
            file.unlink()

    @property
    def effects(self) -> Counter[tuple[str, str]]:
        """How often each step of each run began, by (run id, path)."""
        ledger = self.folder / "ledger"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return Counter((run_id, path) for run_id, path, _ in (line.split() for line in lines))

    # What the store holds, read beside the site

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query with `?` for values."""
        if self.database_url:
            with psycopg.connect(self.database_url) as postgres:
                return postgres.execute(sql.replace("?", "%s"), values).fetchall()
        sqlite = sqlite3.connect(f"file:{self.folder / 'data' / 'db.sqlite3'}?mode=ro", uri=True, timeout=20)
        try:
            return sqlite.execute(sql, values).fetchall()
        finally:
            sqlite.close()

    def value(self, sql: str, *values: Any) -> Any:
        """The one value of a query, None when there is no row."""
        found = self.rows(sql, *values)
        return found[0][0] if found else None

    def status(self, run_id: str) -> str:
        return str(self.value("SELECT status FROM flujo_runs_run WHERE run_id = ?", run_id))

    def await_status(self, run_id: str, status: str, patience: float = PATIENCE) -> None:
        wait_for(lambda: self.status(run_id) == status, f"{run_id} to be {status}", patience)

    def newest_run(self) -> str:
        return str(self.value("SELECT run_id FROM flujo_runs_run ORDER BY created_at DESC LIMIT 1"))

    def open_task(self, run_id: str) -> int:
        """The open human task of a run that is about to pause."""
        sql = "SELECT id FROM flujo_runs_humantask WHERE run_id = ? AND status = 'open'"
        return int(wait_for(lambda: self.value(sql, run_id), f"{run_id} to ask"))

    def committed(self, run_id: str) -> set[str]:
        """The paths whose checkpoint is committed."""
        return {path for (path,) in self.rows("SELECT path FROM flujo_runs_checkpoint WHERE run_id = ?", run_id)}

    def start_runs(self, pipeline: str, count: int = 1, value: object = None) -> list[str]:
        """Queue runs by the site's own service, from another process."""
        printed = python(
            self.folder, "-m", "tests.e2e.start_runs", pipeline, str(count), json.dumps(value),
            database_url=self.database_url,
        )  # fmt: skip
        return list(json.loads(printed))

    def run_python(self, statement: str) -> None:
        """Do something to the store from another process, with Django set up."""
        python(self.folder, "-c", f"import django; django.setup(); {statement}", database_url=self.database_url)

    def histories(self) -> Iterable[list[AuditEvent]]:
        """Each run's audit events, for the check at the end of the suite."""
        columns = "run_id, seq, kind, at, actor, path, fence, body, prev_hash, hash"
        rows = self.rows(f"SELECT {columns} FROM flujo_runs_auditevent ORDER BY run_id, seq")
        for _, history in groupby(rows, key=lambda row: row[0]):
            yield [AuditEvent(r[0], r[1], EventKind(r[2]), _moment(r[3]), *r[4:]) for r in history]


def _moment(stored: datetime | str) -> datetime:
    """The time in a column; SQLite's is text without a zone, in UTC."""
    return stored if isinstance(stored, datetime) else datetime.fromisoformat(stored).replace(tzinfo=UTC)
