"""What a power cut leaves: a disk that keeps what was synced, and of the rest as little as it likes.

`Disk` is told of every write, sync and name in a folder. A file's bytes are safe once the file was synced, its name
once the folder that holds it was. `image()` makes the folder as it may be after a power cut at any moment: with nothing
else left, or, with chances, any part of what was not synced: whole writes, or the first sectors of one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

SECTOR = 512
FUNCTIONS = ("open", "close", "write", "pwrite", "ftruncate", "fsync", "replace", "mkdir")


@dataclass
class File:
    """A file's bytes: as the system shows them, as they are safe, and the writes in between."""

    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    waiting: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, offset: int, data: bytes | None) -> None:
        """`data` None cuts the file at the offset."""
        _apply(self.now, offset, data)
        self.waiting.append((offset, data))

    def sync(self) -> None:
        left = bytearray(self.safe)
        for offset, data in self.waiting:
            _apply(left, offset, data)
        self.safe, self.waiting = bytes(left), []

    def fail_to_sync(self) -> None:
        """The system gives up what waits: it shows it still, but no later sync is about it."""
        self.waiting = []

    def after_a_cut(self, chances: Random | None) -> bytes:
        left = bytearray(self.safe)
        for offset, data in self.waiting if chances is not None else ():
            fate = chances.random()
            if fate < 0.4:
                _apply(left, offset, data)
            elif fate < 0.6 and data is not None:
                _apply(left, offset, data[: chances.randrange(0, len(data), SECTOR) if len(data) > SECTOR else 0])
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """The disk below the folder `root`, which is there from the beginning.

    `failures` are how its next syncs fail, in SQLite's words where it is told; 0 is for one that succeeds.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[Path, File | None] = {}  # None: a folder
        self.safe_names: dict[Path, File | None] = {}
        self.acknowledged: dict[str, int] = {}
        self.failures: list[int] = []

    def holds(self, path: Any) -> bool:
        return isinstance(path, str | Path) and self.root in (Path(path), *Path(path).parents)

    def name(self, path: str | Path, *, folder: bool = False) -> None:
        self.names.setdefault(Path(path), None if folder else File())

    def file(self, path: str | Path) -> File:
        found = self.names.setdefault(Path(path), File())
        assert found is not None
        return found

    def rename(self, source: str | Path, target: str | Path) -> None:
        self.names[Path(target)] = self.names.pop(Path(source))

    def unlink(self, path: str | Path) -> None:
        self.names.pop(Path(path), None)

    def failure(self, path: str | Path) -> int:
        """How the next sync, of this file or folder, fails; 0 when it does not."""
        failure = self.failures.pop(0) if self.failures else 0
        file = self.names.get(Path(path))
        if failure and file is not None:
            file.fail_to_sync()
        return failure

    def sync(self, path: str | Path) -> None:
        """A file's bytes, or a folder's names."""
        file = self.names.get(Path(path))
        if file is not None:
            file.sync()
            return
        for name in [name for name in self.safe_names if name.parent == Path(path)]:
            del self.safe_names[name]
        self.safe_names.update({name: file for name, file in self.names.items() if name.parent == Path(path)})

    def image(self, target: Path, chances: Random | None = None) -> None:
        """Make the folder `target` as `root` may be after a power cut now."""
        target.mkdir()
        names = dict(self.safe_names)
        if chances is not None:
            names |= {name: file for name, file in self.names.items() if chances.random() < 0.5}
        for name in sorted(names):
            file, place = names[name], target / name.relative_to(self.root)
            if not place.parent.exists():
                continue  # the folder that held it is lost
            if file is None:
                place.mkdir()
            else:
                place.write_bytes(file.after_a_cut(chances))


class RecordedFiles:
    """The functions of `os` that change files, which tell a disk what they do below its root."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.paths: dict[int, str] = {}
        self.system = {name: getattr(os, name) for name in FUNCTIONS}

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor: int = self.system["open"](path, flags, mode, **more)
        if self.disk.holds(path):
            self.paths[descriptor] = str(path)
            if flags & os.O_CREAT:
                self.disk.name(path)
            if flags & os.O_TRUNC:
                self.disk.file(path).write(0, None)
        return descriptor

    def close(self, descriptor: int) -> None:
        self.paths.pop(descriptor, None)
        self.system["close"](descriptor)

    def write(self, descriptor: int, data: bytes) -> int:
        count: int = self.system["write"](descriptor, data)
        if descriptor in self.paths:  # all our files are written at their end
            file = self.disk.file(self.paths[descriptor])
            file.write(len(file.now), bytes(data[:count]))
        return count

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        count: int = self.system["pwrite"](descriptor, data, offset)
        if descriptor in self.paths:
            self.disk.file(self.paths[descriptor]).write(offset, bytes(data[:count]))
        return count

    def ftruncate(self, descriptor: int, length: int) -> None:
        self.system["ftruncate"](descriptor, length)
        if descriptor in self.paths and len(self.disk.file(self.paths[descriptor]).now) > length:
            self.disk.file(self.paths[descriptor]).write(length, None)

    def fsync(self, descriptor: int) -> None:
        if descriptor in self.paths and self.disk.failure(self.paths[descriptor]):
            raise OSError(errno.EIO, "the disk failed")
        self.system["fsync"](descriptor)
        if descriptor in self.paths:
            self.disk.sync(self.paths[descriptor])

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        self.system["replace"](source, target, **more)
        if self.disk.holds(target):
            self.disk.rename(source, target)

    def mkdir(self, path: Any, *given: Any, **more: Any) -> None:
        self.system["mkdir"](path, *given, **more)
        if self.disk.holds(path):
            self.disk.name(path, folder=True)


@contextmanager
def recorded_files(disk: Disk) -> Iterator[None]:
    """Tell the disk of what Python's `os` does below its root."""
    recorded = RecordedFiles(disk)
    with pytest.MonkeyPatch.context() as patch:
        for name in FUNCTIONS:
            patch.setattr(os, name, getattr(recorded, name))
        yield
