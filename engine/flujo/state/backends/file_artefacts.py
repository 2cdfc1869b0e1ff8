"""Artefacts in a folder: a file for each text, named by its hash, and beside it a mark for each run that uses it.

With keys the files hold sealed texts; plain ones of earlier times are read.

A text and its mark are on disk before the line that refers to them, and a mark goes after the line that did. So a crash
may leave an artefact or a mark too many, which `unused` finds, and never one too few. Whoever adds a mark or looks for
the last one holds the lock of the folder, which the first two letters of the hash name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from flujo.encryption import Keys
from flujo.errors import BackendError
from flujo.records import Artefact
from flujo.state.artefacts import checked, missing
from flujo.state.file_locks import close_locked, open_locked
from flujo.state.folders import make_folder, sync_folder
from flujo.state.payloads import BEGINNING, key_of, place
from flujo.state.rotation import Rotation
from flujo.state.sealing import row_reader, row_writer

_USES = ".uses"
_NEW = ".new"


class FileArtefacts:
    """The artefacts in `folder`."""

    def __init__(self, folder: Path, keys: Keys | None = None) -> None:
        self._folder = folder
        self._opens = {"", *(keys.ids if keys else ())}
        self._to_plain = row_writer(keys)
        self._opened = row_reader(keys)

    def load(self, digest: str, where: Callable[[], str]) -> str:
        """The text of a value that stands `where`. Raises `KeyMissing`, and `CorruptState` if it is not that text."""
        stored = self._stored(digest)
        if stored is None:
            raise missing(digest, where())
        return checked(digest, lambda: cast(Artefact, self._opened(Artefact(digest, stored))).text, where)

    def keep(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Store texts by their digests, unless they are and can be opened, and that the run uses them.

        All is on disk when this returns.
        """
        for digest, text in texts.items():
            with self._locked(digest):
                path, uses = self._path(digest), self._uses(digest)
                if self.key_of(digest) not in self._opens:
                    _write_whole(path, self._to_plain(Artefact(digest, text))["text"])
                make_folder(uses, mode=0o700)
                (uses / run_id).touch(mode=0o600)
                sync_folder(uses)
                sync_folder(path.parent)

    def release(self, run_id: str, digests: Iterable[str]) -> None:
        """End uses of a run, and delete what no run uses any longer."""
        for digest in digests:
            with self._locked(digest):
                (self._uses(digest) / run_id).unlink(missing_ok=True)
                self._delete_unused(digest)

    def delete_unused(self, digest: str) -> None:
        """Delete an artefact that no run uses, with what a crash left of the writing of one."""
        with self._locked(digest):
            self._delete_unused(digest)

    def rotate(self, digest: str, keys: Keys, done: Rotation) -> None:
        """Seal a text anew with the first key, and delete what a crash left of the writing of one."""
        with self._locked(digest):
            path, stored = self._path(digest), self._stored(digest)
            path.with_name(digest + _NEW).unlink(missing_ok=True)
            sealed = done.reseal(keys, stored, place(Artefact, "text", [digest]))
            if sealed is not None and sealed != stored:
                _write_whole(path, sealed)
            sync_folder(path.parent)

    def key_of(self, digest: str) -> str | None:
        """The id of the key that sealed a text; "" where it was not sealed, None where there is none."""
        try:
            with self._path(digest).open("rb") as file:
                return key_of(file.read(BEGINNING).decode(errors="replace"))
        except FileNotFoundError:
            return None

    def digests(self) -> set[str]:
        """Those of all artefacts, and of what a crash left of them."""
        return {path.name.removesuffix(_USES).removesuffix(_NEW) for path in self._folder.glob("??/*")}

    def users(self, digest: str) -> set[str]:
        """The runs that are marked as users of an artefact."""
        uses = self._uses(digest)
        return {mark.name for mark in uses.iterdir()} if uses.is_dir() else set()

    def _delete_unused(self, digest: str) -> None:
        if not self.users(digest):
            path = self._path(digest)
            path.unlink(missing_ok=True)
            path.with_name(digest + _NEW).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._uses(digest).rmdir()

    def _stored(self, digest: str) -> str | None:
        try:
            return self._path(digest).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _uses(self, digest: str) -> Path:
        return self._folder / digest[:2] / (digest + _USES)

    @contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        """Alone among threads and processes in the folder of an artefact."""
        folder = self._path(digest).parent
        make_folder(folder, mode=0o700)
        descriptor = open_locked(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield
        except OSError as error:
            raise BackendError(f"{folder}: {error}. The write may not be saved.") from error
        finally:
            close_locked(descriptor)


def _write_whole(path: Path, text: str) -> None:
    """A file with this text, whole or not at all; its name is on disk once the folder is synchronised."""
    new = path.with_name(path.name + _NEW)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        content = text.encode()
        if os.write(descriptor, content) != len(content):
            raise BackendError("The disk is full: nothing was saved.")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.replace(path)
