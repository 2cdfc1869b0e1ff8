"""Bug: the file backend appends behind what a crash left, without cutting it off."""

from __future__ import annotations

import os
from typing import Any

import pytest
from flujo.state.backends.file import FileBackend


def plant(patch: pytest.MonkeyPatch) -> None:
    append = FileBackend._append

    def behind(descriptor: int, cached: Any, line: bytes) -> None:
        cached.offset = os.fstat(descriptor).st_size
        append(descriptor, cached, line)

    patch.setattr(FileBackend, "_append", staticmethod(behind))
