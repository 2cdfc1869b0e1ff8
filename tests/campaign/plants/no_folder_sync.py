"""Bug: the file backend syncs its files, but not the folder that names them."""

from __future__ import annotations

import pytest
from flujo.state.backends import file


def plant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(file, "sync_folder", lambda folder: None)
