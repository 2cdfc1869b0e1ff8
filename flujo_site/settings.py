"""Settings from the environment: embedded on SQLite by default, PostgreSQL and Redis when named.

Every variable is described in docs/configuration.md.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flujo.encryption import keys_in

from flujo_site.databases import postgres, sqlite
from flujo_site.logs import logging_settings
from flujo_site.secret_key import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
ENV = os.environ

# The data folder holds the database, the key and the uploads: nobody else on the machine may read it.
FLUJO_DATA_DIR = Path(ENV.get("FLUJO_DATA") or BASE_DIR / "var").resolve()
FLUJO_DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)

DEBUG = ENV.get("FLUJO_DEBUG") == "1"
FLUJO_DEMO = DEBUG and ENV.get("FLUJO_DEMO") == "1"
SECRET_KEY = secret_key(ENV.get("FLUJO_SECRET_KEY", ""), FLUJO_DATA_DIR)
SECRET_KEY_FALLBACKS = ENV.get("FLUJO_SECRET_KEY_FALLBACKS", "").split()

# The keys that encrypt values in the store, the newest first; they are in a file, which no list of processes shows.
_KEY_FILE = ENV.get("FLUJO_ENCRYPTION_KEYS_FILE", "")
FLUJO_ENCRYPTION_KEYS = keys_in(_KEY_FILE) if _KEY_FILE else ()

# Where browsers find the site, as scheme://host:port. Everything that depends on it follows from it.
FLUJO_ORIGINS = [origin.rstrip("/") for origin in ENV.get("FLUJO_ORIGIN", "").split()]
FLUJO_HTTPS = bool(FLUJO_ORIGINS) and all(origin.startswith("https://") for origin in FLUJO_ORIGINS)
FLUJO_FOUR_EYES = ENV.get("FLUJO_FOUR_EYES") == "1"
FLUJO_TRUSTED_PROXY = ENV.get("FLUJO_TRUSTED_PROXY") == "1"
_LOCAL_HOSTS = [] if FLUJO_HTTPS else ["127.0.0.1", "localhost", "[::1]"]
ALLOWED_HOSTS = [*dict.fromkeys([*_LOCAL_HOSTS, *(urlsplit(origin).hostname or "" for origin in FLUJO_ORIGINS)])]
CSRF_TRUSTED_ORIGINS = FLUJO_ORIGINS
USE_X_FORWARDED_HOST = False
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if FLUJO_TRUSTED_PROXY else None

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "django_filters",
    "django_htmx",
    "heroicons",
    "template_partials.apps.SimpleAppConfig",
    "runs",
    "flujo_site.apps.SiteConfig",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "flujo_site.static_files.StaticFiles",
    "csp.middleware.CSPMiddleware",
    "flujo_site.middleware.ResponseHeaders",
    "flujo_site.middleware.ClientAddress",
    "flujo_site.middleware.NoNul",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "flujo_site.urls"
ASGI_APPLICATION = "flujo_site.asgi.application"

_FILE_LOADERS = ["django.template.loaders.filesystem.Loader", "django.template.loaders.app_directories.Loader"]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "runs.context_processors.console",
            ],
            "loaders": [
                (
                    "template_partials.loader.Loader",
                    _FILE_LOADERS if DEBUG else [("django.template.loaders.cached.Loader", _FILE_LOADERS)],
                )
            ],
        },
    }
]

_DATABASE_URL = ENV.get("FLUJO_DATABASE_URL", "")
DATABASES = {
    "default": postgres(_DATABASE_URL, pool_size=int(ENV.get("FLUJO_DATABASE_POOL", "10")))
    if _DATABASE_URL
    else sqlite(FLUJO_DATA_DIR / "db.sqlite3")
}
_REDIS_URL = ENV.get("FLUJO_REDIS_URL", "")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [_REDIS_URL]}}
    if _REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

# Signing in
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "sign_in"
FLUJO_SIGN_OUT_URL = "sign_out"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Ten failures close the address they came from for a quarter of an hour; trying on does not prolong it. Accounts are
# not closed, or anybody could keep their owners out; no success forgives, or an own account would buy more tries.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = ["ip_address"]
AXES_RESET_ON_SUCCESS = False
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_LOCKOUT_CALLABLE = "flujo_site.sign_in.locked_out"
AXES_VERBOSE = False

# Sessions and cookies: __Host- cookies need https, so that no other application on the host can set or read them.
SESSION_ENGINE = "django.contrib.sessions.backends.db"
SESSION_COOKIE_AGE = 8 * 60 * 60
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = FLUJO_HTTPS
SESSION_COOKIE_NAME = "__Host-flujo" if FLUJO_HTTPS else "flujo"
CSRF_COOKIE_NAME = "__Host-flujo-csrf" if FLUJO_HTTPS else "flujo-csrf"
SIGNED_COOKIE_LEGACY_SALT_FALLBACK = False
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# Transport and browser hardening
SECURE_SSL_REDIRECT = FLUJO_HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60 if FLUJO_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = FLUJO_HTTPS
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "manifest-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}

# Uploads and request bodies; the body as a whole is cut off by flujo_site.body_limit before Django sees it.
FLUJO_ARTEFACT_BYTES = int(ENV.get("FLUJO_ARTEFACT_BYTES", str(64 * 1024)))
FLUJO_MAX_UPLOAD_BYTES = int(ENV.get("FLUJO_MAX_UPLOAD_BYTES", str(10 * 1024 * 1024)))
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
DATA_UPLOAD_MAX_NUMBER_FILES = 10
FILE_UPLOAD_PERMISSIONS = 0o600
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o700

# Static files
STATIC_URL = "/static/"
STATICFILES_DIRS = [("flujo", BASE_DIR / "static")]  # the prefix that the wheel gives them too
STATIC_ROOT = FLUJO_DATA_DIR / "static" if FLUJO_HTTPS else None
WHITENOISE_USE_FINDERS = not FLUJO_HTTPS
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_ALLOW_ALL_ORIGINS = False
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if FLUJO_HTTPS
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
MEDIA_ROOT = FLUJO_DATA_DIR / "uploads"

LOGGING = logging_settings(level=ENV.get("FLUJO_LOG_LEVEL", "INFO"), plain=DEBUG)
LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True
TIME_ZONE = ENV.get("FLUJO_TIME_ZONE", "UTC")
