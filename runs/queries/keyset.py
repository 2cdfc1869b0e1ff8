"""Keyset paging: a window on a queryset ordered newest first, with signed cursors to its older and newer neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.core import signing
from django.db.models import Model, Q, QuerySet

OLDER, NEWER = "older", "newer"
SIZE = 50

_SALT = "flujo.keyset"
M = TypeVar("M", bound=Model)


class InvalidCursor(ValueError):
    """The link to this page of the list is damaged. Start again from the newest."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row next to a window: those `direction` of it follow."""

    direction: str
    at: datetime
    key: str

    def text(self) -> str:
        """The cursor as an opaque signed word for a query string."""
        return signing.dumps([self.direction, self.at.isoformat(), self.key], salt=_SALT)


def read(text: str) -> Cursor:
    """The cursor that `Cursor.text` made. Raises `InvalidCursor` for anything else."""
    try:
        direction, at, key = signing.loads(text, salt=_SALT)
    except signing.BadSignature as error:
        raise InvalidCursor(InvalidCursor.__doc__) from error
    return Cursor(direction, datetime.fromisoformat(at), key)


@dataclass(frozen=True, slots=True)
class Window(Generic[M]):
    """The rows of one page, newest first; `older` and `newer` are cursors, empty where nothing follows."""

    rows: list[M]
    older: str = ""
    newer: str = ""


def window(
    queryset: QuerySet[M], cursor: Cursor | None, *, at: str = "created_at", key: str = "run_id", size: int = SIZE
) -> Window[M]:
    """The page that `cursor` names, or the newest one; a newer page that would not be full is the newest one."""
    if cursor is None:
        rows = list(queryset.order_by(f"-{at}", f"-{key}")[: size + 1])
        return _window(rows[:size], at, key, older=len(rows) > size, newer=False)
    if cursor.direction == NEWER:
        rows = list(queryset.filter(newer_than(cursor, at, key)).order_by(at, key)[: size + 1])
        if len(rows) <= size:
            return window(queryset, None, at=at, key=key, size=size)
        return _window(rows[:size][::-1], at, key, older=True, newer=True)
    rows = list(queryset.filter(_beyond(cursor, at, key, "lt")).order_by(f"-{at}", f"-{key}")[: size + 1])
    return _window(rows[:size], at, key, older=len(rows) > size, newer=True)


def newer_than(cursor: Cursor, at: str = "created_at", key: str = "run_id") -> Q:
    """The rows that were added after the row at `cursor`."""
    return _beyond(cursor, at, key, "gt")


def _beyond(cursor: Cursor, at: str, key: str, sign: str) -> Q:
    """Rows beyond the cursor. The leading bound lets the index seek; the usual two-part OR alone would scan."""
    bound = Q(**{f"{at}__{sign}e": cursor.at})
    return bound & (Q(**{f"{at}__{sign}": cursor.at}) | Q(**{at: cursor.at, f"{key}__{sign}": cursor.key}))


def _window(rows: list[M], at: str, key: str, *, older: bool, newer: bool) -> Window[M]:
    if not rows:
        return Window(rows)

    def beside(direction: str, row: Any) -> str:
        return Cursor(direction, getattr(row, at), str(getattr(row, key))).text()

    return Window(rows, beside(OLDER, rows[-1]) if older else "", beside(NEWER, rows[0]) if newer else "")
