"""Artefacts: values too large for a row, stored once by the hash of their text; the row refers to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

from flujo import canonical
from flujo.errors import CorruptState
from flujo.records import Record
from flujo.state.payloads import JSON

R = TypeVar("R", bound=Record)

ARTEFACT_BYTES = 64 * 1024
MARK = "@"
"""What a reference begins with, and no JSON text."""
_LENGTH = len(MARK) + 64


def checked_threshold(artefact_bytes: int) -> int:
    """The bytes above which a value is an artefact. Raises `ValueError` for less than a reference takes."""
    if artefact_bytes < _LENGTH:
        raise ValueError(f"artefact_bytes is at least {_LENGTH}, which a reference takes, not {artefact_bytes!r}.")
    return artefact_bytes


def is_large(text: str, limit: int) -> bool:
    """Whether a text takes more than `limit` bytes of UTF-8; one look at its length answers that of a small one."""
    length = len(text)
    return length * 4 > limit and (length > limit or (not text.isascii() and len(text.encode()) > limit))


def has_large(rows: Iterable[Record], limit: int) -> bool:
    """Whether one of the rows holds a value that is to be stored apart."""
    for row in rows:
        for name in JSON.get(type(row), ()):
            text = getattr(row, name)
            if text is not None and is_large(text, limit):
                return True
    return False


def set_apart(rows: Iterable[R], limit: int, texts: dict[str, str]) -> list[R]:
    """The rows with references in place of their large values, which `texts` gains by their digests."""

    def refer(_: str, text: str) -> str:
        if not is_large(text, limit):
            return text
        digest = canonical.digest(text)
        texts[digest] = text
        return MARK + digest

    return [with_payloads(row, refer) for row in rows]


def with_payloads(row: R, change: Callable[[str, str], str]) -> R:
    """The row with `change(field, text)` in place of each of its values; the same row when all stay as they are."""
    changed: dict[str, str] = {}
    for name in JSON.get(type(row), ()):
        text = getattr(row, name)
        if text is not None and (other := change(name, text)) is not text:
            changed[name] = other
    if not changed:
        return row
    other_row: R = dataclasses.replace(cast(Any, row), **changed)
    return other_row


def digest_in(stored: str | None) -> str | None:
    """The digest that a stored text refers to; None for a value that stands for itself."""
    if stored is not None and len(stored) == _LENGTH and stored[0] == MARK:
        return stored[len(MARK) :]
    return None


def place(field: str, run_id: str, path: str) -> str:
    """Where a value stands, in words: what it is of which path and run."""
    return f"The {field} of {path or 'the start'} in run {run_id}"


def missing(digest: str, where: str) -> CorruptState:
    """What is wrong when a row refers to an artefact that is not there."""
    return CorruptState(f"{where} is missing: its artefact {digest} is gone. Restore it from a backup.")


def checked(digest: str, read: Callable[[], str], where: Callable[[], str]) -> str:
    """The text that `read` gives. Raises `CorruptState`, which says where, unless it is the one that was stored."""
    with suppress(CorruptState):
        text = read()
        if canonical.digest(text) == digest:
            return text
    raise CorruptState(f"{where()} is damaged: its artefact {digest} holds another text. Restore it from a backup.")
