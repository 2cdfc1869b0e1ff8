"""What was acknowledged survives a power cut, on a disk that keeps nothing that was not synced."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import nullcontext
from pathlib import Path

import pytest
from flujo.errors import OutcomeUnknown
from flujo.state.artefacts import ARTEFACT_BYTES
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend

from tests.campaign.conftest import Campaign
from tests.campaign.disk import Disk, recorded_files
from tests.campaign.power import cut_the_power, fail_to_sync
from tests.campaign.sqlite_disk import need_library, recorded_sqlite
from tests.engine.making import Ledger, order_pipeline, runner_of

pytestmark = pytest.mark.slow


def cut_files(folder: Path, order: str = "lamp") -> int:
    return cut_the_power(folder, lambda place: FileBackend(place / "runs"), recorded_files, order=order)


def cut_sqlite(folder: Path) -> int:
    need_library()
    return cut_the_power(folder, lambda place: SQLiteBackend(place.with_suffix(".db")), recorded_sqlite)


def test_file_store_keeps_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_files(tmp_path) > 20


def test_file_store_keeps_the_artefacts_of_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_files(tmp_path, order="o" * ARTEFACT_BYTES) > 20


def test_sqlite_store_keeps_what_it_acknowledged_when_the_power_is_cut(tmp_path: Path) -> None:
    assert cut_sqlite(tmp_path) > 20


async def test_write_that_sqlite_could_not_sync_is_not_said_to_be_undone(tmp_path: Path) -> None:
    """Its rows stand in the log. Nobody reads them there, until a crash lets the log be read from the beginning."""
    need_library()
    disk = Disk(tmp_path)
    with recorded_sqlite(disk):
        backend = SQLiteBackend(tmp_path / "runs.db")
        runner = runner_of(order_pipeline(Ledger()), backend)
        await runner.run_async("lamp", run_id="kept")
        await backend.run_ids()  # a reader that stays open, so that the log stays, too
        disk.failures = [sqlite3.SQLITE_IOERR_FSYNC] * 9
        with pytest.raises(OutcomeUnknown, match="Read the run before acting"):
            await runner.run_async("lamp", run_id="doubtful")
        assert await backend.run_ids() == ["kept"]
        disk.failures = []
        crashed = shutil.copytree(tmp_path, tmp_path.with_name("crashed"))
        await backend.close()
    after = SQLiteBackend(crashed / "runs.db")
    assert await after.run_ids() == ["doubtful", "kept"]
    await after.close()


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_nothing_is_acknowledged_behind_what_the_disk_did_not_sync(
    kind: str, tmp_path: Path, campaign: Campaign
) -> None:
    need_library()
    opens, recorded = {
        "sqlite": (lambda place: SQLiteBackend(place.with_suffix(".db")), recorded_sqlite),
        "file": (lambda place: FileBackend(place / "runs"), nullcontext),
    }[kind]
    cuts = 0
    for number in range(100 if campaign.whole else 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        cuts += fail_to_sync(folder, opens, recorded, campaign.chances(f"{kind} {number}"))
    assert cuts > 30
