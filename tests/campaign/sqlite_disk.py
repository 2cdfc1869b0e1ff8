"""The writes and syncs of SQLite itself, recorded by a VFS of ours that passes them on to the one that is there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p, cast
from typing import Any

import pytest

from tests.campaign.disk import Disk


class Vfs(ctypes.Structure):
    """`sqlite3_vfs`, version 3."""


OPEN = CFUNCTYPE(c_int, POINTER(Vfs), c_void_p, c_void_p, c_int, c_void_p)  # SQLite keeps the name's address
DELETE = CFUNCTYPE(c_int, POINTER(Vfs), c_char_p, c_int)
WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SYNC = CFUNCTYPE(c_int, c_void_p, c_int)

Vfs._fields_ = [
    ("version", c_int),
    ("file_size", c_int),
    ("longest_path", c_int),
    ("next", c_void_p),
    ("name", c_char_p),
    ("data", c_void_p),
    ("open", OPEN),
    ("delete", DELETE),
    *[(f"other{number}", c_void_p) for number in range(14)],
]


class Methods(ctypes.Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", WRITE),
        ("truncate", TRUNCATE),
        ("sync", SYNC),
        *[(f"other{number}", c_void_p) for number in range(13)],
    )


def library() -> Any:
    """The SQLite that Python uses; None where it is built in, so that it cannot be reached."""
    import _sqlite3

    try:
        found = ctypes.CDLL(_sqlite3.__file__)  # symbols of what it is linked with are found through it
        found.sqlite3_vfs_find.restype = POINTER(Vfs)
    except (AttributeError, OSError):
        return None
    return found


def need_library() -> None:
    """Fail where it is None, or leave the test out."""
    if library() is None:
        missing = "this Python's SQLite is built in, so that its writes cannot be recorded"
        if os.environ.get("ALLOW_MISSING") == "1":
            pytest.skip(missing)
        pytest.fail(f"{missing}; ALLOW_MISSING=1 leaves the test out", pytrace=False)


class Recorder:
    """The VFS. SQLite syncs the folder with the first sync of a log or a journal, so that its name is safe with it."""

    def __init__(self, disk: Disk, library: Any) -> None:
        self.disk = disk
        self.library = library
        self.real = library.sqlite3_vfs_find(None)
        self.vfs = Vfs.from_buffer_copy(self.real.contents)
        self.vfs.name, self.vfs.open, self.vfs.delete = b"recorder", OPEN(self._open), DELETE(self._delete)
        self.paths: dict[int, str] = {}
        self.methods: dict[int, Methods] = {}

    def _open(self, vfs: Any, name: int | None, file: int, flags: int, out: int) -> int:
        code: int = self.real.contents.open(self.real, name, file, flags, out)
        pointer = cast(file, POINTER(c_void_p))
        path = ctypes.string_at(name).decode() if name else ""
        if code == 0 and pointer[0] and self.disk.holds(path) and not path.endswith("-shm"):
            self.paths[file] = path
            self.disk.name(path)
            pointer[0] = ctypes.addressof(self._recording(pointer[0]))
        return code

    def _recording(self, real: int) -> Methods:
        if real not in self.methods:
            of = cast(real, POINTER(Methods)).contents
            ours = Methods.from_buffer_copy(of)

            def write(file: int, data: int, amount: int, offset: int) -> int:
                self.disk.file(self.paths[file]).write(offset, ctypes.string_at(data, amount))
                return int(of.write(file, data, amount, offset))

            def truncate(file: int, size: int) -> int:
                self.disk.file(self.paths[file]).write(size, None)
                return int(of.truncate(file, size))

            def sync(file: int, flags: int) -> int:
                path = self.paths[file]
                if failure := self.disk.failure(path):
                    return failure
                code = int(of.sync(file, flags))
                self.disk.sync(path)
                if path.endswith(("-wal", "-journal")):
                    self.disk.sync(path.rpartition("/")[0])
                return code

            ours.write, ours.truncate, ours.sync = WRITE(write), TRUNCATE(truncate), SYNC(sync)
            self.methods[real] = ours
        return self.methods[real]

    def _delete(self, vfs: Any, name: bytes, sync_folder: int) -> int:
        code: int = self.real.contents.delete(self.real, name, sync_folder)
        if code == 0 and self.disk.holds(name.decode()):
            self.disk.unlink(name.decode())
            if sync_folder:
                self.disk.sync(name.decode().rpartition("/")[0])
        return code


@contextmanager
def recorded_sqlite(disk: Disk) -> Iterator[None]:
    """Tell the disk of what every connection opened meanwhile writes; they are to be closed before the end."""
    found = library()
    recorder = Recorder(disk, found)
    found.sqlite3_vfs_register(ctypes.byref(recorder.vfs), 1)
    try:
        yield
    finally:
        found.sqlite3_vfs_unregister(ctypes.byref(recorder.vfs))
        found.sqlite3_vfs_register(recorder.real, 1)
