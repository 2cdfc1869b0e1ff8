"""Where stores keep their rows, to be opened with other keys and read as raw bytes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flujo.encryption import Keys
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend


@dataclass
class Place:
    """Where a store of one kind keeps its rows."""

    kind: str
    folder: Path
    settings: Any

    def open(self, *keys: str) -> StateBackend:
        """The store, as a process opens it that was given these keys."""
        if self.kind in ("django", "postgres"):
            from runs.state_backend import DjangoBackend

            self.settings.FLUJO_ENCRYPTION_KEYS = keys
            return DjangoBackend("default" if self.kind == "django" else "postgres")
        given = Keys(*keys) if keys else None
        if self.kind == "sqlite":
            return SQLiteBackend(self.folder / "runs.db", encryption=given)
        return FileBackend(self.folder / "runs", encryption=given)

    def run(self, work: Callable[[StateBackend], Any], *keys: str) -> Any:
        """Do something with the store and close it."""

        async def doing() -> Any:
            backend = self.open(*keys)
            try:
                return await work(backend)
            finally:
                await backend.close()

        return asyncio.run(doing())

    def raw(self) -> bytes:
        """All that is stored, as it lies there."""
        if self.kind == "postgres":
            return repr(self.rows()).encode()
        folder = self.folder
        if self.kind == "django":
            from django.db import connections

            folder = Path(connections["default"].settings_dict["NAME"]).parent
        return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())

    def artefacts(self) -> int:
        """How many values are stored apart."""
        if self.kind == "file":
            return len([path for path in self.folder.glob("runs/artefacts/??/*") if path.is_file()])
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.folder / "runs.db")) as connection:
                return int(connection.execute("SELECT count(*) FROM flujo_artefact").fetchone()[0])
        from runs.models import Artefact

        return Artefact.objects.using("default" if self.kind == "django" else "postgres").count()

    def rows(self) -> list[Any]:
        from django.apps import apps
        from django.db import connections

        found = []
        with connections["postgres"].cursor() as cursor:
            for model in apps.get_app_config("flujo_runs").get_models():
                cursor.execute(f"SELECT * FROM {model._meta.db_table}")
                found += cursor.fetchall()
        return found
