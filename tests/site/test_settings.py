"""The settings follow from the environment, safe where it says nothing."""

from __future__ import annotations

import re
import runpy
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from flujo_site.databases import postgres
from flujo_site.secret_key import secret_key

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "flujo_site" / "settings.py"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The settings as they come out of an environment."""

    def settings(**environment: str) -> dict[str, Any]:
        monkeypatch.setenv("FLUJO_DATA", str(tmp_path / "data"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS))

    return settings


def test_nothing_is_for_development_unless_it_is_asked_for(made: Any) -> None:
    assert (made()["DEBUG"], made()["FLUJO_DEMO"]) == (False, False)


def test_demo_mode_needs_debug(made: Any) -> None:
    assert made(FLUJO_DEMO="1")["FLUJO_DEMO"] is False
    assert made(FLUJO_DEMO="1", FLUJO_DEBUG="1")["FLUJO_DEMO"] is True


def test_without_an_origin_only_this_machine_is_served(made: Any) -> None:
    assert made()["ALLOWED_HOSTS"] == ["127.0.0.1", "localhost", "[::1]"]


def test_an_https_origin_names_the_host_and_hardens_the_cookies(made: Any) -> None:
    settings = made(FLUJO_ORIGIN="https://flujo.example.org")
    assert settings["ALLOWED_HOSTS"] == ["flujo.example.org"]
    assert settings["SESSION_COOKIE_NAME"].startswith("__Host-")
    assert settings["SESSION_COOKIE_SECURE"]
    assert settings["SECURE_SSL_REDIRECT"]
    assert settings["SECURE_HSTS_SECONDS"] > 0
    assert settings["SECURE_PROXY_SSL_HEADER"] is None


def test_a_proxy_is_trusted_only_when_the_operator_says_so(made: Any) -> None:
    settings = made(FLUJO_ORIGIN="https://flujo.example.org", FLUJO_TRUSTED_PROXY="1")
    assert settings["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")


def test_a_plain_origin_keeps_its_port(made: Any) -> None:
    settings = made(FLUJO_ORIGIN="http://10.0.0.5:9000")
    assert settings["FLUJO_ORIGINS"] == ["http://10.0.0.5:9000"]
    assert "10.0.0.5" in settings["ALLOWED_HOSTS"]
    assert not settings["SECURE_SSL_REDIRECT"]


def test_a_database_address_becomes_django_settings() -> None:
    made = postgres("postgres://ana:p%40ss@db.example.org:5433/flujo?sslmode=verify-full", pool_size=4)
    assert (made["USER"], made["PASSWORD"], made["HOST"], made["PORT"]) == ("ana", "p@ss", "db.example.org", "5433")
    assert made["NAME"] == "flujo"
    assert made["OPTIONS"]["sslmode"] == "verify-full"
    assert made["OPTIONS"]["pool"]["max_size"] == 4
    assert made["CONN_MAX_AGE"] == 0
    assert "synchronous_commit=on" in made["OPTIONS"]["options"]


@pytest.mark.parametrize("address", ["mysql://db/flujo", "postgres://db", "flujo"])
def test_an_address_that_is_not_postgres_is_refused(address: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="postgres://"):
        postgres(address, pool_size=1)


def test_redis_and_postgres_are_used_when_named(made: Any) -> None:
    settings = made(FLUJO_DATABASE_URL="postgres://db/flujo", FLUJO_REDIS_URL="redis://cache:6379/1")
    assert settings["DATABASES"]["default"]["ENGINE"].endswith("postgresql")
    assert settings["CHANNEL_LAYERS"]["default"]["CONFIG"]["hosts"] == ["redis://cache:6379/1"]


def test_the_key_and_the_data_folder_are_private(made: Any, tmp_path: Path) -> None:
    key = made()["SECRET_KEY"]
    assert len(key) >= 64
    assert made()["SECRET_KEY"] == key
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "secret_key").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["secret_key"]


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: secret_key("", tmp_path), range(64)))
    assert len(set(keys)) == 1
    assert secret_key("given", tmp_path) == "given"


def test_every_variable_is_documented_and_every_documented_one_is_read() -> None:
    sources = [*(ROOT / "flujo_site").glob("*.py"), *(ROOT / "runs").rglob("*.py"), ROOT / "Makefile"]
    read = {name for file in sources for name in re.findall(r'ENV(?:\.get\(|\[)"(FLUJO_\w+)"', file.read_text())}
    documented = set(
        re.findall(r"^\| `(FLUJO_\w+)` \|", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    )
    assert documented == read
    assert len(read) > 8


@pytest.mark.slow
def test_manage_py_runs_from_a_bare_checkout(tmp_path: Path) -> None:
    """The engine is found beside the site when nothing is installed."""
    program = f"import sys; sys.path.remove({str(ROOT / 'engine')!r}); import flujo_site, flujo"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
