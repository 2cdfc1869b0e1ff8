"""The file backend: one append-only file per run in a folder, a line for each transition."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

from flujo import canonical, codec
from flujo.batch import Batch, Transition
from flujo.clock import Clock, SystemClock
from flujo.document import RunDocument
from flujo.encryption import Keys
from flujo.errors import BackendError, CorruptState, KeyMissing, OutcomeUnknown
from flujo.records import AuditEvent, Record, RunHead, Tombstone
from flujo.state.artefacts import (
    ARTEFACT_BYTES,
    checked_threshold,
    digest_in,
    has_large,
    place,
    set_apart,
    with_payloads,
)
from flujo.state.backends.file_artefacts import FileArtefacts
from flujo.state.backends.file_places import Places
from flujo.state.base import Check, StateBackend, check_run_id
from flujo.state.file_locks import close_locked, open_locked
from flujo.state.folders import make_folder, sync_folder
from flujo.state.ready import first_ready
from flujo.state.rotation import Rotation
from flujo.state.sealing import ids_of_keys, row_reader, row_writer, stale_values
from flujo.state.whole_state import compare_and_import
from flujo.state.workflow_state import document_of, state_of
from flujo.threads import in_thread
from flujo.transitions import purge

SUFFIX = ".jsonl"
_PLACES = "places"
_ARTEFACTS = "artefacts"
FOLDERS = (_PLACES, _ARTEFACTS)


@dataclass(slots=True)
class _Cached:
    """A run as read from its file up to `offset`; `inode` tells when the file was replaced.

    `uses` has the digests of the artefacts that its lines refer to.
    """

    document: RunDocument
    offset: int
    inode: int
    uses: set[str] = field(default_factory=set)


class FileBackend(StateBackend):
    """Stores runs in `folder`, on a local file system; several threads, loops and processes may share it.

    Each write appends one line, `{"sha256": …, "rows": …}`, and returns after fsync. A line that a crash left
    unfinished was never acknowledged and is cut off by the next write; a damaged line before the last is an error
    (`CorruptState`), and the file is left as it is. Values of more than `artefact_bytes` have files of their own under
    `artefacts`, one for all runs, and the lines refer to them. With `encryption` all values are sealed, by the first of
    the keys; plain ones of earlier times stay readable.
    """

    lists_runs: ClassVar[bool] = True
    shared_by_processes: ClassVar[bool] = True

    def __init__(
        self,
        folder: Path | str,
        *,
        clock: Clock | None = None,
        encryption: Keys | None = None,
        artefact_bytes: int = ARTEFACT_BYTES,
    ) -> None:
        self.folder = Path(folder).absolute()  # the program may go to another folder
        self._keys = encryption
        self._to_plain = row_writer(encryption)
        self._opened = row_reader(encryption)
        self._artefact_bytes = checked_threshold(artefact_bytes)
        self._artefacts = FileArtefacts(self.folder / _ARTEFACTS, encryption)
        self._clock = clock or SystemClock()
        self.begin()
        _backends.add(self)

    def begin(self) -> None:
        """Begin, also anew in a child of a fork: it has none of the threads that were in the midst of a write."""
        self._cache: dict[str, _Cached] = {}
        self._guards: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    # Writing

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        check_run_id(run_id)
        result: Batch = await in_thread(lambda: self._transact(run_id, transition))
        return result

    def _transact(self, run_id: str, transition: Transition) -> Batch:
        with self._locked(run_id) as descriptor, closing(Places(self.folder / _PLACES, self._peek)) as places:
            cached = self._read(run_id, descriptor)
            cached.document.running = places.running
            cached.document.seals = self._keys is not None
            batch = transition(cached.document)
            if not batch.writes:
                return batch
            places.take(batch.head)
            after = cached.document.copy()
            after.apply(batch)
            if batch.head is None:
                self._replace(run_id, after, cached.uses)
            else:
                rows, texts = self._set_apart([batch.head, *batch.inserts, *batch.updates])
                self._artefacts.keep(run_id, {digest: texts[digest] for digest in texts.keys() - cached.uses})
                self._append(descriptor, cached, _line([{row.table: [self._to_plain(row)]} for row in rows]))
                cached.document = after
                cached.uses |= texts.keys()
            return batch

    def _set_apart(self, rows: list[Record]) -> tuple[list[Record], dict[str, str]]:
        """Rows as they are written, and the texts that they refer to."""
        texts: dict[str, str] = {}
        return (set_apart(rows, self._artefact_bytes, texts) if has_large(rows, self._artefact_bytes) else rows), texts

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        check_run_id(run_id)
        incoming = document_of(run_id, state)
        await in_thread(lambda: self._import(incoming))

    def _import(self, incoming: RunDocument) -> None:
        with self._locked(incoming.run_id) as descriptor:
            stored = self._read(incoming.run_id, descriptor)
            accepted = compare_and_import(incoming, stored.document, self._clock.now())
            if accepted is not None:
                self._replace(incoming.run_id, accepted, stored.uses)

    async def delete_state(self, run_id: str) -> None:
        if await self.load(run_id) is not None:
            await self.transact(run_id, purge(actor="", reason="delete_state", now=self._clock.now(), facts={}))

    # Reading

    async def load(self, run_id: str) -> RunDocument | None:
        check_run_id(run_id)
        document: RunDocument | None = await in_thread(lambda: self._load(run_id))
        return document

    def _load(self, run_id: str) -> RunDocument | None:
        if not self._path(run_id).exists():
            return None
        with self._locked(run_id) as descriptor:
            document = self._read(run_id, descriptor).document.copy()
            return document if document.records() else None

    def _peek(self, run_id: str) -> RunHead | None:
        """The head of another run as its file says now: without its lock, since whoever has that may wait for ours."""
        return self._unopened(run_id).head

    def _unopened(self, run_id: str, seen: Callable[[Record], Record] = lambda row: row) -> RunDocument:
        """What a run's file says now, with its values as they are stored; `seen` is given each row."""
        document = RunDocument(run_id)
        with suppress(FileNotFoundError):
            for line in self._path(run_id).read_bytes().rpartition(b"\n")[0].splitlines():
                for row in _rows(line, str(self._path(run_id))):
                    document.put(seen(row))
        return document

    async def events(self, run_id: str) -> Iterable[AuditEvent]:
        try:
            return await super().events(run_id)
        except KeyMissing:
            return self._unopened(run_id).events()

    async def remains(self, run_id: str) -> RunHead | Tombstone | None:
        try:
            return await super().remains(run_id)
        except KeyMissing:
            stored = self._unopened(run_id)
            return stored.head or stored.tombstone

    async def rotate_keys(self) -> Rotation:
        keys, done = self._keys, Rotation()
        if keys is None:
            return await super().rotate_keys()
        for run_id in await self.run_ids():
            try:
                await in_thread(partial(self._rotate, run_id, keys, done))
            except (CorruptState, KeyMissing) as error:
                done.note(error)
        for digest in sorted(self._artefacts.digests()):
            await in_thread(partial(self._artefacts.rotate, digest, keys, done))
        return done

    async def missing_keys(self) -> dict[str, int]:
        given, found = self._keys.ids if self._keys else [], Counter[str]()
        for run_id in await self.run_ids():
            with suppress(CorruptState):  # `verify` tells of it
                for row in self._unopened(run_id).records():
                    found.update(ids_of_keys(row, seals=self._keys is not None))
        found.update(filter(None, map(self._artefacts.key_of, self._artefacts.digests())))
        return {key_id: count for key_id, count in found.items() if key_id not in given}

    def _rotate(self, run_id: str, keys: Keys, done: Rotation) -> None:
        """Write the run's file anew under its lock, if a value in one of its lines needs that."""
        stale = 0

        def look(row: Record) -> Record:
            nonlocal stale
            stale += stale_values(row, keys)
            return row

        with self._locked(run_id) as descriptor:
            self._unopened(run_id, look)
            if stale:
                stored = self._read(run_id, descriptor)
                self._replace(run_id, stored.document, stored.uses)
                done.resealed += stale

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        document = await self.load(run_id)
        return None if document is None or document.head is None else state_of(document)

    async def untold(self, limit: int = 100) -> list[str]:
        return [head.run_id for head in await self.heads(limit=2**31) if head.untold][:limit]

    async def run_ids(self) -> list[str]:
        return sorted(path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}"))

    async def heads(self, *, limit: int = 100, after: str = "") -> list[RunHead]:
        heads: list[RunHead] = []
        for run_id in await self.run_ids():
            if run_id <= after or len(heads) == limit:
                continue
            try:
                document = await self.load(run_id)
            except CorruptState:
                continue  # one damaged file holds up no other run; `load` and `verify` say what is wrong with it
            except KeyMissing:
                document = self._unopened(run_id)
            if document is not None and document.head is not None:
                heads.append(document.head)
        return heads

    async def ready(
        self,
        now: datetime,
        limit: int = 100,
        *,
        fingerprints: Iterable[str] | None = None,
        full_keys: Collection[str] = (),
    ) -> list[RunHead]:
        heads = await self.heads(limit=2**31)
        return first_ready(heads, now, limit, fingerprints=fingerprints, full_keys=full_keys)

    # Files

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}{SUFFIX}"

    @contextmanager
    def _locked(self, run_id: str) -> Iterator[int]:
        """The run's file, locked against threads and processes."""
        with self._guard:
            guard = self._guards.setdefault(run_id, threading.Lock())
        with guard:
            descriptor = self._open(run_id)
            try:
                yield descriptor
            except OSError as error:
                self._cache.pop(run_id, None)
                raise BackendError(f"{self._path(run_id)}: {error}. The write may not be saved.") from error
            except BaseException:
                self._cache.pop(run_id, None)
                raise
            finally:
                self._remove_if_empty(run_id, descriptor)
                close_locked(descriptor)

    def _remove_if_empty(self, run_id: str, descriptor: int) -> None:
        """A file that was made for a write that was then refused is no run."""
        made, path = os.fstat(descriptor), self._path(run_id)
        if made.st_size == 0 and path.exists() and path.stat().st_ino == made.st_ino:
            path.unlink()

    def _open(self, run_id: str) -> int:
        """Open and lock; a file that another process replaced while we waited for the lock is opened again."""
        path = self._path(run_id)
        try:
            make_folder(self.folder, mode=0o700)
            while True:
                new = not path.exists()
                descriptor = open_locked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
                if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                    if new:
                        sync_folder(self.folder)
                    return descriptor
                close_locked(descriptor)
        except OSError as error:
            raise BackendError(f"{path} cannot be opened: {error}") from error

    def _read(self, run_id: str, descriptor: int) -> _Cached:
        """The run up to its last whole line; only lines that others appended are read again."""
        inode, size = os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size
        cached = self._cache.get(run_id)
        if cached is None or cached.inode != inode or cached.offset > size:
            cached = _Cached(RunDocument(run_id), 0, inode)
        tail = os.pread(descriptor, size - cached.offset, cached.offset)
        whole, _, torn = tail.rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        for number, line in enumerate(lines):
            where = f"{self._path(run_id)}, line {number + 1} after {cached.offset}"
            self._apply_line(cached, line, where)
        cached.offset += len(tail) - len(torn)
        if lines or cached.offset == 0:
            self._cache[run_id] = cached
        return cached

    def _apply_line(self, cached: _Cached, line: bytes, where: str) -> None:
        texts: dict[str, str] = {}
        for row in _rows(line, where):
            cached.document.put(self._put_back(self._opened(row), texts))
        cached.uses |= texts.keys()

    def _put_back(self, row: Record, texts: dict[str, str]) -> Record:
        """The row with its values in place of references; `texts` gains those that were read."""

        def value(name: str, stored: str) -> str:
            digest = digest_in(stored)
            if digest is None:
                return stored
            if digest not in texts:
                where = partial(place, name, getattr(row, "run_id", ""), getattr(row, "path", ""))
                texts[digest] = self._artefacts.load(digest, where)
            return texts[digest]

        return with_payloads(row, value)

    async def health(self) -> list[Check]:
        unused = self.unused_artefacts(delete=False)
        advice = "a crash left them behind: python -m flujo prune deletes them, too"
        return [Check("artefacts", not unused, f"{len(unused)} that no run refers to", advice)]

    def files(self) -> list[Path]:
        return [self.folder, *sorted(self.folder.glob("*.jsonl"))]

    def unused_artefacts(self, *, delete: bool) -> list[str]:
        """The digests of artefacts that a crash left behind: stored for a line that was then not written, or gone."""
        found = self._artefacts.digests()
        users: dict[str, set[str]] = {}
        for digest in found:
            for run_id in self._artefacts.users(digest):
                users.setdefault(run_id, set()).add(digest)
        for run_id, marked in users.items():
            found -= self._used_of(run_id, marked, delete=delete)
        if delete:
            for digest in found:
                self._artefacts.delete_unused(digest)
        return sorted(found)

    @staticmethod
    def _append(descriptor: int, cached: _Cached, line: bytes) -> None:
        os.ftruncate(descriptor, cached.offset)  # what a crash left behind was never acknowledged
        written = os.write(descriptor, line)
        if written != len(line):
            os.ftruncate(descriptor, cached.offset)
            raise BackendError("The disk is full: the write was taken back, nothing was saved.")
        try:
            os.fsync(descriptor)
        except OSError as error:
            with suppress(OSError):  # the next line takes its place: no sync would tell of it again, if it was lost
                os.ftruncate(descriptor, cached.offset)
            raise OutcomeUnknown(f"The disk did not confirm the write: {error}. Read the run before acting.") from error
        cached.offset += len(line)

    def _used_of(self, run_id: str, marked: set[str], *, delete: bool) -> set[str]:
        """Those of the marked artefacts that a run refers to; a run that cannot be read may refer to all."""
        with suppress(CorruptState, KeyMissing), self._locked(run_id) as descriptor:
            used = self._read(run_id, descriptor).uses & marked
            if delete:
                self._artefacts.release(run_id, marked - used)
            return used
        return marked

    def _replace(self, run_id: str, document: RunDocument, uses: set[str]) -> None:
        """A new file in place of the old one, whole or not at all; then the run uses no more than that refers to."""
        path = self._path(run_id)
        rows, texts = self._set_apart(document.records())
        self._artefacts.keep(run_id, texts)
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            line = _line([{row.table: [self._to_plain(row)]} for row in rows])
            if os.write(descriptor, line) != len(line):
                raise BackendError("The disk is full: nothing was saved.")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(self.folder)
        self._cache.pop(run_id, None)
        self._artefacts.release(run_id, uses - texts.keys())


def _rows(line: bytes, where: str) -> Iterator[Record]:
    """The rows of a line, in order. Raises `CorruptState`."""
    try:
        parsed = json.loads(line)
        text = canonical.dump(parsed["rows"])
        intact = canonical.digest(text) == parsed["sha256"]
        tables = parsed["rows"] if intact else []
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"{where} cannot be read: {error}. The file was left as it is.") from error
    if not intact:
        raise CorruptState(f"{where} is damaged: its checksum differs. The file was left as it is.")
    for table in tables:
        for name, rows in table.items():
            for row in rows:
                yield _record(name, row, where)


def _record(table: str, row: dict[str, Any], where: str) -> Any:
    """A stored row. Fields that its record has gained since take their defaults; one of a newer Flujo is refused."""
    try:
        return codec.from_plain(codec.BY_TABLE[table], row)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(
            f"{where} cannot be read, a newer Flujo may have written it: {error}. It was left."
        ) from error


def _line(tables: list[dict[str, Any]]) -> bytes:
    text = canonical.dump(tables)
    return f'{{"rows":{text},"sha256":"{canonical.digest(text)}"}}\n'.encode()


def _after_fork_in_child() -> None:
    for backend in _backends:
        backend.begin()


_backends: WeakSet[FileBackend] = WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
