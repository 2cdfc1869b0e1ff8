"""The log of an attempt: lines with a level, a message and fields, its own or those of the standard `logging`."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from flujo import canonical
from flujo.canonical import storable
from flujo.codec import isoformat
from flujo.errors import UnstorableValue
from flujo.reporter import Reporter

MAX_MESSAGE = 2_000
MAX_FIELD = 1_000
MAX_FIELDS = 20
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class StepLog:
    """Stores lines with the attempt: `ctx.log.info("charged %s", order, amount=20)`.

    Positional arguments are put into the message as by the standard `logging`; what is given by name becomes the line's
    fields. A line never fails the step: a value that cannot be stored is stored as its `repr`.
    """

    def __init__(self, reporter: Callable[[], Reporter], now: Callable[[], datetime]) -> None:
        self._reporter = reporter
        self._now = now

    def debug(self, message: str, *args: Any, **fields: Any) -> None:
        self.log(logging.DEBUG, message, *args, **fields)

    def info(self, message: str, *args: Any, **fields: Any) -> None:
        self.log(logging.INFO, message, *args, **fields)

    def warning(self, message: str, *args: Any, **fields: Any) -> None:
        self.log(logging.WARNING, message, *args, **fields)

    def error(self, message: str, *args: Any, **fields: Any) -> None:
        self.log(logging.ERROR, message, *args, **fields)

    def exception(self, message: str, *args: Any, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled, as the field `exception`."""
        self.log(logging.ERROR, message, *args, **{"exception": traceback.format_exc(), **fields})

    def log(self, level: int, message: str, *args: Any, **fields: Any) -> None:
        """A line of any level of the standard `logging`."""
        line = _line(self._now(), level, _filled(message, args), fields, "")
        self._reporter().add_line(line, grave=level >= logging.WARNING)


def _line(at: datetime, level: int, message: str, fields: dict[str, Any], source: str) -> str:
    kept = {storable(str(name))[:MAX_FIELD]: _plain(fields[name]) for name in list(fields)[:MAX_FIELDS]}
    line = {
        "at": isoformat(at),
        "level": logging.getLevelName(level),
        "logger": storable(source),
        "message": storable(message)[:MAX_MESSAGE],
        "fields": kept,
    }
    return canonical.dump(line)


def _filled(message: str, args: tuple[Any, ...]) -> str:
    try:
        return str(message) % args if args else str(message)
    except Exception:  # the seam to user code: a wrong line must not fail the step
        return f"{message!r} {args!r}" if not args else f"{message!r} % {_shown(args)}"


def _plain(value: Any) -> Any:
    """A field's value as JSON can hold it, cut when it is long."""
    try:
        text = canonical.encode(value)
    except (UnstorableValue, TypeError):
        return storable(_shown(value))[:MAX_FIELD]
    if isinstance(value, str):
        return value[:MAX_FIELD]
    return json.loads(text) if len(text) <= MAX_FIELD else text[:MAX_FIELD] + "…"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # the seam to user code, as above
        return f"<a {type(value).__name__} that cannot be shown>"


# The standard logging

_capturing: ContextVar[tuple[Callable[[], Reporter], int] | None] = ContextVar("flujo_capturing", default=None)


class _Capture(logging.Handler):
    """On the root logger while some step's records are captured: it knows whose they are by the context."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0
        self._users_guard = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        found = _capturing.get()
        if found is not None and record.levelno >= found[1]:
            fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
            if record.exc_info and record.exc_info[1] is not None:
                fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
            at = datetime.fromtimestamp(record.created, UTC)
            line = _line(at, record.levelno, _filled(record.msg, _args(record)), fields, record.name)
            found[0]().add_line(line, grave=record.levelno >= logging.WARNING)
        if logging.root.handlers == [self] and logging.lastResort is not None:
            self._pass_on(record, logging.lastResort)

    @staticmethod
    def _pass_on(record: logging.LogRecord, last: logging.Handler) -> None:
        """Where nothing is configured, warnings still go where they would without us."""
        if record.levelno >= last.level:
            last.handle(record)

    def use(self) -> None:
        with self._users_guard:
            self._users += 1
            if self._users == 1:
                logging.root.addHandler(self)

    def leave(self) -> None:
        with self._users_guard:
            self._users -= 1
            if not self._users:
                logging.root.removeHandler(self)


_capture = _Capture()


def _args(record: logging.LogRecord) -> tuple[Any, ...]:
    if isinstance(record.args, tuple):
        return record.args
    return (record.args,) if record.args else ()


@contextmanager
def capturing(reporter: Callable[[], Reporter], level: int) -> Iterator[None]:
    """Within the block, records of the standard `logging` from this context on are lines of the step's log.

    That covers tasks and threads that inherit the context, and whatever the loggers' own levels let through.
    """
    _capture.use()
    token = _capturing.set((reporter, level))
    try:
        yield
    finally:
        _capturing.reset(token)
        _capture.leave()
