"""Log lines: one JSON object each, so that no text in a message can forge a second line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any


class JsonLines(logging.Formatter):
    """Time, level, logger, message and traceback as one line of JSON; control characters come out escaped."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class PlainLines(logging.Formatter):
    """The same for people: the message's control characters escaped, the traceback as Python prints it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not record.message.isprintable():
            record.message = record.message.encode("unicode_escape").decode()
        return super().formatMessage(record)


def logging_settings(*, level: str, plain: bool) -> dict[str, Any]:
    """Django's `LOGGING`: everything to standard error, the security logger included."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {"()": "flujo_site.logs.JsonLines"},
            "plain": {
                "()": "flujo_site.logs.PlainLines",
                "format": "{asctime} {levelname:<7} {name}: {message}",
                "style": "{",
            },
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain" if plain else "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": level, "propagate": True},
            "daphne": {"handlers": [], "level": "WARNING", "propagate": True},
            "django.security": {"handlers": [], "level": "INFO", "propagate": True},
        },
    }
