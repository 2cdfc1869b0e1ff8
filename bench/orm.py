"""The ORM backend's rows: Django's SQLite and, where its programs are installed, a throwaway PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.measuring import RawLimit, Row, folder, interleaved, milliseconds, ratio

STEPS = 100
TARGET = 3.0


def orm_backend(rounds: int) -> Iterator[Row]:
    """100 steps on the ORM backend, per step, against the raw commit of the same database."""
    with folder() as where, _postgres() as address:
        databases = ["default"] if address is None else ["default", "postgres"]
        _set_up(where, address)
        yield from _measured(rounds, where, address, databases)
        _leave(databases)
    if address is None:
        yield Row("ORM backend on PostgreSQL", float("nan"), "", note="left out: PostgreSQL is not installed")


def _measured(rounds: int, where: Path, address: str | None, databases: list[str]) -> Iterator[Row]:
    from bench.pipelines import adding, runner, seconds_of
    from runs.state_backend import DjangoBackend

    for using in databases:
        title = "SQLite FULL" if using == "default" else "PostgreSQL"
        with asyncio.Runner() as loop:
            flujo = runner(adding(STEPS), DjangoBackend(using=using))
            raw = RawLimit(where, "FULL").commits if address is None or using == "default" else _psycopg(address)
            limits, seconds = interleaved(
                rounds,
                partial(raw, STEPS),
                lambda flujo=flujo, loop=loop: loop.run(seconds_of(flujo)) / STEPS,  # type: ignore[misc]  # bound now
            )
        note = f"{milliseconds(seconds)} a step, raw {milliseconds(limits)}"
        yield Row(f"ORM backend on {title}, 100 async steps", ratio(seconds, limits), "× raw", TARGET, note=note)
        if using == "postgres":
            yield Row("  round trips per step", round_trips(where / "trace"), "", 5)


def round_trips(trace: Path) -> float:
    """How often a step waits for PostgreSQL's answer: its protocol is traced for two runs of different lengths."""
    from django.db import connections
    from django.db.backends.signals import connection_created

    from bench.pipelines import adding, runner, seconds_of
    from runs.state_backend import DjangoBackend, close_store_threads

    with trace.open("w") as file:

        def watch(connection: Any, **_: Any) -> None:
            if connection.vendor == "postgresql":
                connection.connection.pgconn.trace(file.fileno())

        close_store_threads()  # the next ones open connections that are watched
        connection_created.connect(watch)
        backend, counts = DjangoBackend(using="postgres"), []
        for steps in (STEPS, 3 * STEPS):
            asyncio.run(seconds_of(runner(adding(steps), backend)))
            counts.append(trace.read_text().count("ReadyForQuery"))
        connection_created.disconnect(watch)
        close_store_threads()
        connections["postgres"].close()
    first, both = counts
    return (both - 2 * first) / (2 * STEPS)


def _set_up(where: Path, address: str | None) -> None:
    site = {
        "FLUJO_DATA": str(where),
        "FLUJO_ORIGIN": "https://flujo.example.org",
    }  # in debug mode Django keeps each query
    os.environ.update(site, FLUJO_DATABASE_URL="", FLUJO_REDIS_URL="", FLUJO_DEBUG="")  # else Django keeps each query
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flujo_site.settings")
    import django
    from django.conf import settings
    from django.core.management import call_command

    if address is not None:
        from flujo_site.databases import postgres

        settings.DATABASES["postgres"] = postgres(address, pool_size=0)
    django.setup()
    for using in settings.DATABASES:
        call_command("migrate", database=using, verbosity=0)


def _leave(databases: list[str]) -> None:
    from django.db import connections

    from runs.state_backend import close_store_threads

    close_store_threads()
    for using in databases:
        connections[using].close()


def _psycopg(address: str) -> Callable[[int], float]:
    import psycopg

    connection = psycopg.connect(address, autocommit=True)
    connection.execute("CREATE TABLE raw_run (run_id text PRIMARY KEY, seq integer)")
    connection.execute("CREATE TABLE raw_step (run_id text, seq integer, output text, PRIMARY KEY (run_id, seq))")
    connection.execute("INSERT INTO raw_run VALUES ('run', 0)")
    numbers = itertools.count(1)

    def commits(count: int) -> float:
        began = time.perf_counter()
        for seq in itertools.islice(numbers, count):
            with connection.transaction():
                connection.execute("INSERT INTO raw_step VALUES (%s, %s, %s)", ("run", seq, '"output"'))
                connection.execute("UPDATE raw_run SET seq = %s WHERE run_id = %s", (seq, "run"))
        return (time.perf_counter() - began) / count

    return commits


@contextmanager
def _postgres() -> Iterator[str | None]:
    """A throwaway server that writes through to the disk, unlike the tests' own."""
    from tests.services import Missing, new_database, start_postgres

    try:
        server = start_postgres(flush=True)
    except Missing:
        yield None
        return
    with server:
        yield new_database(server)
