"""Bug: a store makes its folder, but does not sync the one above it, which holds the new name."""

from __future__ import annotations

import pytest
from flujo.state.backends import file


def plant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(file, "make_folder", lambda folder, mode: folder.mkdir(mode, parents=True, exist_ok=True))
