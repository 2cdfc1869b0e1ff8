"""The database settings: embedded SQLite by default, PostgreSQL by address."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

# IMMEDIATE takes the write lock when the transaction starts: a deferred one fails at once with "database is locked"
# when another writer came between its first read and its first write, whatever the timeout.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF"
    ),
}
POSTGRES_SESSION = (
    "-c statement_timeout=15000 -c lock_timeout=3000 -c idle_in_transaction_session_timeout=15000"
    " -c synchronous_commit=on"
)


def sqlite(file: Path) -> dict[str, Any]:
    """Settings for one SQLite file that several processes share; an acknowledged commit survives a power cut."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": file, "OPTIONS": dict(SQLITE_OPTIONS)}


def postgres(address: str, *, pool_size: int) -> dict[str, Any]:
    """Settings for `postgres://user:password@host:port/name?sslmode=…`; a `pool_size` of 0 means no pool."""
    parts = urlsplit(address)
    if parts.scheme not in {"postgres", "postgresql"} or not parts.path.strip("/"):
        raise ImproperlyConfigured("FLUJO_DATABASE_URL must look like postgres://user:password@host:port/name")
    # The statement of a step is planned once for a connection: planning takes longer than executing it.
    options: dict[str, Any] = {"options": POSTGRES_SESSION, "prepare_threshold": 5, **dict(parse_qsl(parts.query))}
    if pool_size:
        options["pool"] = {"min_size": 1, "max_size": pool_size, "timeout": 10}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }
