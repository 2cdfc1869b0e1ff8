"""Bug: the file backend acknowledges what is in the system's memory only."""

from __future__ import annotations

import os
from typing import Any

import pytest
from flujo.state.backends.file import FileBackend


def plant(patch: pytest.MonkeyPatch) -> None:
    def careless(descriptor: int, cached: Any, line: bytes) -> None:
        os.ftruncate(descriptor, cached.offset)
        cached.offset += os.write(descriptor, line)

    patch.setattr(FileBackend, "_append", staticmethod(careless))
