"""Artefacts in an SQL database: a table of texts and a table of their uses, written with the rows that refer to them.

Whoever adds a use holds the artefact's row until the commit, and whoever deletes it locks that row and only then looks
for uses: neither can miss the other. Each takes the rows in the order of their digests, so that nobody waits in a ring.
Where the database has one writer at a time its own lock does all that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from flujo.codec import columns
from flujo.errors import CorruptState
from flujo.records import Artefact, ArtefactUse, Record
from flujo.state.artefacts import checked, digest_in, missing, place
from flujo.state.dialect import Cursor, Dialect
from flujo.state.payloads import BEGINNING, JSON, key_of

_AT_ONCE = 100


def keep(cursor: Cursor, dialect: Dialect, run_id: str, texts: Mapping[str, str]) -> None:
    """Store texts by their digests, unless they are stored and can be opened, and that the run uses them."""
    table, mark = dialect.tables[Artefact], dialect.mark
    share = " FOR KEY SHARE" if dialect.lock else ""
    for digest, text in sorted(texts.items()):
        cursor.execute(f"SELECT substr(text, 1, {BEGINNING}) FROM {table} WHERE digest = {mark}{share}", [digest])
        stored = cursor.fetchone()
        if stored is None or key_of(stored[0]) not in dialect.opens:
            cursor.execute(
                f"{dialect.insert(Artefact, 1)} "
                "ON CONFLICT (digest) DO UPDATE SET text = excluded.text",  # another was faster: hold its row
                dialect.row(Artefact(digest, text)),
            )
        cursor.execute(
            f"{dialect.insert(ArtefactUse, 1)} ON CONFLICT (run_id, digest) DO NOTHING",
            dialect.row(ArtefactUse(run_id, digest)),
        )


def release(cursor: Cursor, dialect: Dialect, run_id: str, *, kept: Collection[str] = ()) -> None:
    """End the run's uses but those that are `kept`, and delete the artefacts that no run uses any longer."""
    table, uses, mark = dialect.tables[Artefact], dialect.tables[ArtefactUse], dialect.mark
    cursor.execute(f"SELECT digest FROM {uses} WHERE run_id = {mark} ORDER BY digest", [run_id])
    for digest in [row[0] for row in cursor.fetchall() if row[0] not in kept]:
        cursor.execute(f"DELETE FROM {uses} WHERE run_id = {mark} AND digest = {mark}", [run_id, digest])
        if dialect.lock:
            cursor.execute(f"SELECT digest FROM {table} WHERE digest = {mark}{dialect.lock}", [digest])
        unused = f"NOT EXISTS (SELECT 1 FROM {uses} WHERE digest = {mark})"
        cursor.execute(f"DELETE FROM {table} WHERE digest = {mark} AND {unused}", [digest, digest])


def put_back(cursor: Cursor, dialect: Dialect, record: type[Record], fields: list[Any]) -> CorruptState | None:
    """Put texts in place of the references in the columns of rows; what is missing comes as an error to be raised.

    Raises `CorruptState` when a text is not the one that was stored, and `KeyMissing`.
    """
    if not fields or record not in JSON:
        return None
    names = columns(record)
    payloads = {names.index(name): name for name in JSON[record]}
    wanted = {digest for at in payloads for text in fields[at] if (digest := digest_in(text)) is not None}
    if not wanted:
        return None
    stored, texts = _stored(cursor, dialect, wanted), dict[str, str]()
    runs = fields[names.index("run_id")]
    paths = fields[names.index("path")] if "path" in names else [""] * len(runs)
    for at, name in payloads.items():
        references = [(row, digest) for row, text in enumerate(fields[at]) if (digest := digest_in(text))]
        for row, digest in references:
            where = partial(place, name, runs[row], paths[row])
            if digest not in stored:
                return missing(digest, where())
            if digest not in texts:
                texts[digest] = checked(digest, partial(_opened, dialect, digest, stored[digest]), where)
        replaced = {row: texts[digest] for row, digest in references}
        fields[at] = [replaced.get(row, text) for row, text in enumerate(fields[at])]
    return None


def _opened(dialect: Dialect, digest: str, stored: str) -> str:
    fields: list[Any] = [[digest], [stored]]
    dialect.open_columns(Artefact, fields)
    text: str = fields[1][0]
    return text


def _stored(cursor: Cursor, dialect: Dialect, digests: Iterable[str]) -> dict[str, str]:
    table, left, stored = dialect.tables[Artefact], iter(digests), dict[str, str]()
    while some := list(islice(left, _AT_ONCE)):
        marks = ", ".join([dialect.mark] * len(some))
        cursor.execute(f"SELECT digest, text FROM {table} WHERE digest IN ({marks})", some)
        stored.update(cursor.fetchall())
    return stored
