"""Deployment checks: the hardened site passes, and each setting made unsafe is reported by its own rule."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage
from django.db import connection, connections
from django.test import override_settings

from runs import checks, store_checks
from tests.runs.guards import lifted

KEPT = {"DATABASES", "INSTALLED_APPS", "ROOT_URLCONF", "STORAGES", "CHANNEL_LAYERS", "LOGGING", "PASSWORD_HASHERS"}
DEFAULT_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
SECURITY = "django.middleware.security.SecurityMiddleware"


def without(name: str) -> list[str]:
    return [path for path in settings.MIDDLEWARE if not path.endswith(f".{name}")]


def policy(**directives: list[str]) -> dict[str, Any]:
    given = {name.replace("_", "-"): sources for name, sources in directives.items()}
    return {"DIRECTIVES": {**settings.CONTENT_SECURITY_POLICY["DIRECTIVES"], **given}}


def template(**options: Any) -> list[dict[str, Any]]:
    return [{**settings.TEMPLATES[0], "OPTIONS": {**settings.TEMPLATES[0]["OPTIONS"], **options}}]


MANIFEST_STORAGE = "whitenoise.storage.CompressedManifestStaticFilesStorage"
DEBUG_PROCESSOR = "django.template.context_processors.debug"
FLIPS: dict[int, list[Callable[[], dict[str, Any]]]] = {
    1: [lambda: {"ALLOWED_HOSTS": ["*"]}, lambda: {"ALLOWED_HOSTS": [".example.org"]}],
    2: [lambda: {"USE_X_FORWARDED_HOST": True}],
    3: [
        lambda: {"SECRET_KEY": "django-insecure-" + "k3" * 30},
        lambda: {"SECRET_KEY": "b7" * 30, "SECRET_KEY_FALLBACKS": ["b7" * 30]},
    ],
    4: [lambda: {"PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"]}],
    5: [lambda: {"AUTH_PASSWORD_VALIDATORS": []}],
    6: [lambda: {"SESSION_COOKIE_SAMESITE": "None"}, lambda: {"CSRF_COOKIE_SAMESITE": None}],
    7: [lambda: {"SESSION_COOKIE_NAME": "sid"}, lambda: {"CSRF_COOKIE_DOMAIN": "example.org"}],
    8: [
        lambda: {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"},
        lambda: {"SESSION_SERIALIZER": "example.PickleSerializer"},
    ],
    9: [lambda: {"SESSION_COOKIE_AGE": 14 * 24 * 60 * 60}],
    10: [lambda: {"CSRF_TRUSTED_ORIGINS": ["https://*.org"]}, lambda: {"CSRF_TRUSTED_ORIGINS": ["http://a.org"]}],
    11: [lambda: {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}],
    12: [lambda: {"SECURE_HSTS_SECONDS": 1}],
    13: [lambda: {"SECURE_REFERRER_POLICY": "unsafe-url"}],
    14: [lambda: {"SECURE_CROSS_ORIGIN_OPENER_POLICY": None}],
    15: [
        lambda: {"MIDDLEWARE": without("CSPMiddleware")},
        lambda: {"CONTENT_SECURITY_POLICY": policy(script_src=["'self'", "'unsafe-inline'"])},
        lambda: {"CONTENT_SECURITY_POLICY": {"DIRECTIVES": {"script-src": ["'self'"]}}},
    ],
    16: [lambda: {"MIDDLEWARE": without("LoginRequiredMiddleware")}],
    17: [lambda: {"MIDDLEWARE": [*without("SecurityMiddleware"), SECURITY]}],
    18: [lambda: {"MIDDLEWARE": [*settings.MIDDLEWARE, "django.contrib.auth.middleware.RemoteUserMiddleware"]}],
    19: [
        lambda: {"AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.ModelBackend"]},
        lambda: {"AXES_ENABLED": False},
    ],
    20: [lambda: {"DATA_UPLOAD_MAX_MEMORY_SIZE": None}, lambda: {"FLUJO_MAX_UPLOAD_BYTES": 0}],
    21: [lambda: {"FILE_UPLOAD_PERMISSIONS": 0o777}],
    22: [lambda: {"TEMPLATES": template(autoescape=False)}],
    23: [lambda: {"TEMPLATES": template(context_processors=[DEBUG_PROCESSOR])}],
    24: [lambda: {"FLUJO_DEMO": True}],
    25: [lambda: {"FLUJO_DATA_DIR": Path("/tmp")}],
    26: [],  # depends on what is installed, tested below
    27: [lambda: {"SIGNED_COOKIE_LEGACY_SALT_FALLBACK": True}],
    28: [lambda: {"STORAGES": {**settings.STORAGES, "staticfiles": {"BACKEND": MANIFEST_STORAGE}}}],
}
CASES = [
    pytest.param(number, flip, id=f"W{number:03}-{n}")
    for number, flips in FLIPS.items()
    for n, flip in enumerate(flips)
]


@pytest.fixture(autouse=True)
def production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The site's own settings, as they are for https://flujo.example.org."""
    monkeypatch.setenv("FLUJO_ORIGIN", "https://flujo.example.org")
    monkeypatch.setenv("FLUJO_DATA", str(tmp_path / "data"))
    made = runpy.run_path(str(Path(settings.BASE_DIR) / "flujo_site" / "settings.py"))
    values = {name: value for name, value in made.items() if name.isupper() and name not in KEPT | {"STATIC_ROOT"}}
    with override_settings(**values, PASSWORD_HASHERS=DEFAULT_HASHERS):
        yield


@contextmanager
def swapped(other: Any) -> Iterator[None]:
    """Has the checks ask another connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_checks, "connection", other)
        yield


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages]


def test_production_settings_pass_every_rule() -> None:
    assert checks.check_settings() == []


def test_every_rule_is_tested() -> None:
    assert sorted(FLIPS) == [rule.number for rule in checks.RULES]


@pytest.mark.parametrize(("number", "flip"), CASES)
def test_a_setting_made_unsafe_is_reported_by_its_rule_alone(number: int, flip: Callable[[], dict[str, Any]]) -> None:
    with override_settings(**flip()):
        assert ids(checks.check_settings()) == [f"flujo.W{number:03}"]


def test_an_old_daphne_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda _: "4.2.1")
    assert ids(checks.check_settings()) == ["flujo.W026"]


@pytest.mark.django_db
def test_the_embedded_store_passes() -> None:
    assert store_checks.check_store() == []


@pytest.mark.django_db
@pytest.mark.parametrize(("pragma", "value"), [("synchronous", 1), ("foreign_keys", 0), ("trusted_schema", 1)])
def test_a_careless_sqlite_is_reported(pragma: str, value: int) -> None:
    careless = connection.copy()
    with careless.cursor() as cursor:
        cursor.execute(f"PRAGMA {pragma} = {value}")
    try:
        with swapped(careless):
            assert ids(store_checks.check_store()) == ["flujo.W032"]
    finally:
        careless.close()


@pytest.mark.django_db
def test_deferred_transactions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"timeout": 20})
    assert ids(store_checks.check_store()) == ["flujo.W033"]


def test_requests_as_transactions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "ATOMIC_REQUESTS", True)
    assert ids(store_checks.check_store()) == ["flujo.W030"]


@pytest.mark.django_db(transaction=True)
def test_missing_guards_are_reported() -> None:
    with lifted():
        assert ids(store_checks.check_store()) == ["flujo.W034"] * 3


def test_a_database_that_does_not_answer_is_reported(django_db_blocker: Any) -> None:
    missing = connection.copy()
    missing.settings_dict = {**missing.settings_dict, "NAME": "/nowhere/db.sqlite3"}
    with django_db_blocker.unblock(), swapped(missing):
        assert ids(store_checks.check_store()) == ["flujo.W031"]


def test_an_unguarded_socket_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(store_checks.check_sockets()) == []
    monkeypatch.setattr(store_checks, "get_default_application", lambda: None)
    assert ids(list(store_checks.check_sockets())) == ["flujo.W035"]


@pytest.mark.django_db(databases=["default", "postgres"])
def test_postgres_durability_and_the_layer_of_several_processes_are_checked() -> None:
    with swapped(connections["postgres"]):
        # The suite's own server runs without fsync, which is what the check is for.
        found = store_checks.check_store()
        assert ids(found) == ["flujo.W032", "flujo.W032"]
        assert [message.msg for message in found] == [
            "The database runs with fsync = off.",
            "The database runs with full_page_writes = off.",
        ]
        assert ids(list(store_checks.check_sockets())) == ["flujo.W036"]
