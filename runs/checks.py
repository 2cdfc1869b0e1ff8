"""Deployment checks: what makes a site unsafe and Django's own `check --deploy` does not notice.

The rules about settings are one table here; those that ask the database and the socket stack are in
`runs.store_checks`. SECURITY.md lists the ids.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register

from runs import site_settings, store_checks

SAMPLE_KEY_WORDS = ("django-insecure", "changeme", "change-me", "change_me", "example", "secret-key", "xxxxx")
SLOW_HASHERS = ("Argon2PasswordHasher", "ScryptPasswordHasher", "BCryptSHA256PasswordHasher", "PBKDF2PasswordHasher")
MIN_PASSWORD = 12
MIN_HSTS_SECONDS = 30 * 24 * 60 * 60
MAX_SESSION_SECONDS = 24 * 60 * 60
DAPHNE_FLOOR = (4, 2, 2)  # the first that bounds the size of a socket's messages
UNSAFE_SOURCES = ("'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:")


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to be unsafe: when `violated`, the site says `message` and what to do."""

    number: int
    message: str
    hint: str
    violated: Callable[[], bool]


def _wildcard_hosts() -> bool:
    return any(host == "*" or host.startswith(".") for host in settings.ALLOWED_HOSTS)


def _sample_key() -> bool:
    key = str(settings.SECRET_KEY)
    return any(word in key.lower() for word in SAMPLE_KEY_WORDS) or key in settings.SECRET_KEY_FALLBACKS


def _fast_hasher() -> bool:
    return not settings.PASSWORD_HASHERS[0].endswith(SLOW_HASHERS)


def _short_passwords() -> bool:
    lengths = [
        validator.get("OPTIONS", {}).get("min_length", 8)
        for validator in settings.AUTH_PASSWORD_VALIDATORS
        if validator["NAME"].endswith("MinimumLengthValidator")
    ]
    return max(lengths, default=0) < MIN_PASSWORD


def _cookies_cross_sites() -> bool:
    return not {settings.SESSION_COOKIE_SAMESITE, settings.CSRF_COOKIE_SAMESITE} <= {"Lax", "Strict"}


def _cookies_shared() -> bool:
    names = (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME)
    return not all(name.startswith("__Host-") for name in names) or bool(
        settings.SESSION_COOKIE_DOMAIN or settings.CSRF_COOKIE_DOMAIN
    )


def _session_in_the_browser() -> bool:
    return "signed_cookies" in settings.SESSION_ENGINE or not settings.SESSION_SERIALIZER.endswith("JSONSerializer")


def _loose_origins() -> bool:
    return any("*" in origin or urlsplit(origin).scheme != "https" for origin in settings.CSRF_TRUSTED_ORIGINS)


def _proxy_trusted_by_mistake() -> bool:
    return bool(settings.SECURE_PROXY_SSL_HEADER) and not getattr(settings, "FLUJO_TRUSTED_PROXY", False)


def _policy_unsafe() -> bool:
    setting: dict[str, Any] = getattr(settings, "CONTENT_SECURITY_POLICY", {})
    policy: dict[str, list[str]] = setting.get("DIRECTIVES", {})
    if not _middleware("CSPMiddleware") or not {"default-src", "script-src", "frame-ancestors", "base-uri"} <= set(
        policy
    ):
        return True
    return any(source in UNSAFE_SOURCES for sources in policy.values() for source in sources)


def _middleware(name: str) -> bool:
    return any(path.endswith(f".{name}") for path in settings.MIDDLEWARE)


def _security_middleware_late() -> bool:
    return not settings.MIDDLEWARE[0].endswith(".SecurityMiddleware")


def _sign_in_unthrottled() -> bool:
    first = settings.AUTHENTICATION_BACKENDS[0]
    return (
        not first.startswith("axes.")
        or not _middleware("AxesMiddleware")
        or not getattr(settings, "AXES_ENABLED", True)
    )


def _uploads_unlimited() -> bool:
    limits = ("DATA_UPLOAD_MAX_MEMORY_SIZE", "DATA_UPLOAD_MAX_NUMBER_FIELDS", "DATA_UPLOAD_MAX_NUMBER_FILES")
    return any(getattr(settings, name) is None for name in limits) or not site_settings.max_upload_bytes()


def _uploads_readable() -> bool:
    permissions: int | None = getattr(settings, "FILE_UPLOAD_PERMISSIONS", None)
    return permissions is None or bool(permissions & 0o077)


def _template_options() -> Iterator[dict[str, Any]]:
    return (engine.get("OPTIONS", {}) for engine in settings.TEMPLATES)


def _autoescape_off() -> bool:
    return any(options.get("autoescape") is False for options in _template_options())


def _debug_in_templates() -> bool:
    return any(
        "django.template.context_processors.debug" in options.get("context_processors", ())
        for options in _template_options()
    )


def _data_readable() -> bool:
    folder = site_settings.data_folder()
    return folder.exists() and bool(stat.S_IMODE(folder.stat().st_mode) & 0o077)


def _static_files_missing() -> bool:
    hashed = "Manifest" in settings.STORAGES["staticfiles"]["BACKEND"]
    return hashed and not (Path(settings.STATIC_ROOT or "") / "staticfiles.json").exists()


def _daphne_too_old() -> bool:
    return tuple(int(part) for part in version("daphne").split(".")[:3]) < DAPHNE_FLOOR


RULES = (
    Rule(1, "ALLOWED_HOSTS has a wildcard.", "Name each host in full.", _wildcard_hosts),
    Rule(
        2, "A client can choose the host.", "Set USE_X_FORWARDED_HOST to False.", lambda: settings.USE_X_FORWARDED_HOST
    ),
    Rule(3, "SECRET_KEY looks like a sample, or is its own fallback.", "Let the site generate one.", _sample_key),
    Rule(4, "Passwords are hashed with a fast hash.", "Put Argon2 or PBKDF2 first in PASSWORD_HASHERS.", _fast_hasher),
    Rule(5, "Passwords may be short.", f"Validate a length of {MIN_PASSWORD} at least.", _short_passwords),
    Rule(6, "Cookies are sent from other sites.", "Set both SAMESITE settings to Lax or Strict.", _cookies_cross_sites),
    Rule(7, "Other hosts of the domain can set the cookies.", "Name them __Host-…, without domain.", _cookies_shared),
    Rule(8, "Sessions are read from the browser or unpickled.", "Use the database and JSON.", _session_in_the_browser),
    Rule(
        9,
        "Sessions last longer than a day.",
        "Set SESSION_COOKIE_AGE to a working day.",
        lambda: settings.SESSION_COOKIE_AGE > MAX_SESSION_SECONDS,
    ),
    Rule(10, "CSRF_TRUSTED_ORIGINS has a wildcard or plain http.", "Give https://host for each.", _loose_origins),
    Rule(
        11,
        "Clients can claim https by a header.",
        "Set FLUJO_TRUSTED_PROXY=1 only behind a proxy that sets it.",
        _proxy_trusted_by_mistake,
    ),
    Rule(
        12,
        "SECURE_HSTS_SECONDS is too short to protect anyone.",
        "Use a year.",
        lambda: 0 < settings.SECURE_HSTS_SECONDS < MIN_HSTS_SECONDS,
    ),
    Rule(
        13,
        "Addresses of pages leave the site.",
        "Set SECURE_REFERRER_POLICY to same-origin.",
        lambda: settings.SECURE_REFERRER_POLICY not in {"same-origin", "no-referrer", "strict-origin"},
    ),
    Rule(
        14,
        "Other sites keep a handle on the site's windows.",
        "Set SECURE_CROSS_ORIGIN_OPENER_POLICY to same-origin.",
        lambda: settings.SECURE_CROSS_ORIGIN_OPENER_POLICY != "same-origin",
    ),
    Rule(
        15, "There is no strict Content-Security-Policy.", "Add CSPMiddleware, without unsafe sources.", _policy_unsafe
    ),
    Rule(
        16,
        "Pages are public unless they say otherwise.",
        "Add LoginRequiredMiddleware.",
        lambda: not _middleware("LoginRequiredMiddleware"),
    ),
    Rule(17, "Some answers lack the security headers.", "Put SecurityMiddleware first.", _security_middleware_late),
    Rule(
        18,
        "A header can name the user.",
        "Remove RemoteUserMiddleware.",
        lambda: _middleware("RemoteUserMiddleware") or _middleware("PersistentRemoteUserMiddleware"),
    ),
    Rule(
        19,
        "Passwords can be guessed without end.",
        "Put the axes backend first, and its middleware.",
        _sign_in_unthrottled,
    ),
    Rule(20, "Uploads have no limit.", "Set DATA_UPLOAD_MAX_… and FLUJO_MAX_UPLOAD_BYTES.", _uploads_unlimited),
    Rule(21, "Other users can read uploads.", "Set FILE_UPLOAD_PERMISSIONS to 0o600.", _uploads_readable),
    Rule(22, "Templates do not escape.", "Remove autoescape from TEMPLATES.", _autoescape_off),
    Rule(23, "Templates can show debugging data.", "Remove the debug context processor.", _debug_in_templates),
    Rule(
        24,
        "Demo users with known passwords are on.",
        "Unset FLUJO_DEMO.",
        lambda: getattr(settings, "FLUJO_DEMO", False),
    ),
    Rule(25, "Other users of the machine can read the data folder.", "chmod 700 the folder.", _data_readable),
    Rule(26, "This daphne does not bound a socket's messages.", "Install daphne 4.2.2 or newer.", _daphne_too_old),
    Rule(
        27,
        "Signatures of one cookie can pass for another's.",
        "Set SIGNED_COOKIE_LEGACY_SALT_FALLBACK to False.",
        lambda: getattr(settings, "SIGNED_COOKIE_LEGACY_SALT_FALLBACK", False),
    ),
    Rule(28, "Static files are not collected.", "Run manage.py collectstatic.", _static_files_missing),
)


@register(Tags.security, deploy=True)
def check_settings(**_: Any) -> list[CheckMessage]:
    """Every rule of the table."""
    return [
        checks.Warning(rule.message, hint=rule.hint, id=f"flujo.W{rule.number:03}") for rule in RULES if rule.violated()
    ]


register(store_checks.check_store, Tags.security, deploy=True)
register(store_checks.check_sockets, Tags.security, deploy=True)
