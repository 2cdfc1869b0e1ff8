"""What was acknowledged survives a power cut, on a disk that keeps nothing that was not synced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flujo.state.artefacts import ARTEFACT_BYTES
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend

from tests.campaign.disk import recorded_files
from tests.campaign.power import cut_the_power
from tests.campaign.sqlite_disk import library, recorded_sqlite


def cut_files(folder: Path, order: str = "lamp") -> int:
    return cut_the_power(folder, lambda place: FileBackend(place / "runs"), recorded_files, order=order)


def cut_sqlite(folder: Path) -> int:
    if library() is None:
        missing = "this Python's SQLite is built in, so that its writes cannot be recorded"
        if os.environ.get("ALLOW_MISSING") == "1":
            pytest.skip(missing)
        pytest.fail(f"{missing}; ALLOW_MISSING=1 leaves the test out", pytrace=False)
    return cut_the_power(folder, lambda place: SQLiteBackend(place.with_suffix(".db")), recorded_sqlite)


def test_file_store_keeps_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_files(tmp_path) > 20


def test_file_store_keeps_the_artefacts_of_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_files(tmp_path, order="o" * ARTEFACT_BYTES) > 20


def test_sqlite_store_keeps_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_sqlite(tmp_path) > 20
