"""The throwaway servers: they answer, they are private, and nothing of them stays."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis
from django.contrib.auth.models import User
from django.db import connections

from tests import services

ROOT = Path(__file__).resolve().parents[2]
ABANDON = """
import os, signal, sys
from tests import services
server = services.start_redis()
print(server.process.pid, server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_postgres_url_names_a_new_and_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_redis_url_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


@pytest.mark.django_db(databases=["default", "postgres"], transaction=True)
def test_both_databases_are_real_in_one_session() -> None:
    for alias in ("default", "postgres"):
        User.objects.db_manager(alias).create(username=f"on-{alias}")
    assert connections["default"].vendor == "sqlite"
    assert connections["postgres"].vendor == "postgresql"
    assert [user.username for user in User.objects.using("postgres").all()] == ["on-postgres"]


@pytest.mark.django_db
def test_the_default_database_is_a_file_tuned_as_in_production() -> None:
    connection = connections["default"]
    assert Path(connection.settings_dict["NAME"]).is_file()
    with connection.cursor() as cursor:
        values = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS]
    assert dict(zip(PRAGMAS, values, strict=True)) == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0, "busy_timeout": 20000}


@pytest.mark.services
def test_a_server_ends_with_its_test_process_even_when_that_is_killed() -> None:
    killed = subprocess.run([sys.executable, "-c", ABANDON], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    folder = Path(killed.stdout.split()[1])
    deadline = time.monotonic() + services.STOP_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()


def suite(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run two tests, one of which needs Redis, where Redis is not installed."""
    tests = [f"tests/site/test_services.py::{name}" for name in ("test_redis_url_answers", "test_a_port_is_free")]
    variables = {"PATH": str(tmp_path), "HOME": str(tmp_path), **environment}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *tests]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_a_port_is_free() -> None:
    assert services._free_port() > 1024


@pytest.mark.slow
def test_a_missing_program_fails_the_suite_and_is_named(tmp_path: Path) -> None:
    run = suite(tmp_path)
    assert run.returncode == 1
    assert "Redis is missing (on Debian: apt install redis-server)" in run.stdout
    assert "1 passed, 1 error" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two"])
def test_a_missing_program_may_be_left_out_and_the_last_line_says_so(tmp_path: Path, options: tuple[str, ...]) -> None:
    run = suite(tmp_path, *options, ALLOW_MISSING="1")
    assert run.returncode == 0
    assert run.stdout.splitlines()[-1] == "LEFT OUT: 1 tests that need Redis"
