"""Bug: the file backend syncs its files, but not the folder that names them."""

from __future__ import annotations

import pytest
from flujo.state.backends.file import FileBackend


def plant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileBackend, "_sync_folder", lambda self: None)
