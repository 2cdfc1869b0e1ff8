"""Which fields of which rows hold values: what steps got and gave, what people answered, texts that quote them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from flujo import canonical
from flujo.codec import columns
from flujo.errors import KeyMissing
from flujo.records import (
    Artefact,
    Attempt,
    Checkpoint,
    Decision,
    HumanTask,
    LogChunk,
    Record,
    RunHead,
    RunInput,
    Signal,
    StepReport,
    Vote,
)

MARK = "~flujo1:"
"""How a sealed value begins. No JSON text begins with a tilde, nor with any letter behind it in the alphabet."""
BEGINNING = len(MARK) + 9
"""How many letters of a sealed value tell the id of its key."""
_SEALED_WITH = re.compile(rf"{MARK}([0-9a-f]{{8}}):")

JSON: dict[type[Record], tuple[str, ...]] = {
    RunInput: ("input", "context"),
    Checkpoint: ("output", "context_changes"),
    LogChunk: ("lines",),
    HumanTask: ("evidence", "default_answer"),
    Signal: ("data",),
    Decision: ("data",),
    Vote: ("data",),
    Artefact: ("text",),
}
TEXTS: dict[type[Record], tuple[str, ...]] = {
    RunHead: ("error_message",),
    Attempt: ("error_message", "traceback"),
    StepReport: ("note",),
    HumanTask: ("message", "if_expired"),
}
PAYLOADS = {record: JSON.get(record, ()) + TEXTS.get(record, ()) for record in (*JSON, *TEXTS)}


def key_of(text: str) -> str:
    """The id of the key that sealed a stored text; "" where it was not sealed."""
    found = _SEALED_WITH.match(text)
    return found[1] if found else ""


class Keyed(Protocol):
    """What has a table and names the fields that identify a row in it."""

    @property
    def table(self) -> str: ...
    @property
    def key(self) -> tuple[str, ...]: ...


def place(of: Keyed, field: str, key: Sequence[Any]) -> str:
    """Where a value belongs: its table, its field and the key of its row, in one line."""
    return canonical.dump([of.table, field, *key])


def positions(fields: dict[type[Record], tuple[str, ...]]) -> dict[type[Record], tuple[int, ...]]:
    """The fields by their place in the rows of their record."""
    return {record: tuple(map(columns(record).index, names)) for record, names in fields.items()}


_JSON_POSITIONS = positions(JSON)


def refuse_sealed(record: type[Record], fields: Sequence[Sequence[Any]]) -> None:
    """Raise `KeyMissing` when the columns of some rows, read without keys, hold a sealed value.

    A free text may begin as it likes and is left alone: nobody can close a store without keys by what they write.
    """
    for position in _JSON_POSITIONS.get(record, ()):
        if (highest := max(filter(None, fields[position]), default="")) >= MARK[0]:
            raise _missing(record, highest)


def plain(record: Record) -> Record:
    """The row as it is. Raises `KeyMissing` when one of its values is sealed."""
    for name in JSON.get(type(record), ()):
        if (value := getattr(record, name) or "").startswith(MARK):
            raise _missing(type(record), value)
    return record


def _missing(record: type[Record], sealed: str) -> KeyMissing:
    return KeyMissing(
        f"A stored {record.__name__} is encrypted with the key {key_of(sealed)}, and this process was given no key. "
        "Nothing was changed: give it the keys of the store."
    )
