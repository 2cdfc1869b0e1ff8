"""The campaigns have teeth: each of these bugs, put back on purpose, is found by the slice that the suite runs.

A campaign that stays green under its bug proves nothing. The bugs are in `plants/`; each is planted in this process by
a monkeypatch, or by the program that the campaign starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from flujo.errors import FlujoError

from tests.campaign.conftest import SLICE_SEED, Campaign
from tests.campaign.rights import take_the_right_away_within_a_decision
from tests.campaign.test_crashes import crash
from tests.campaign.test_kills import kill
from tests.campaign.test_lockstep import keep_step
from tests.campaign.test_power_loss import cut_files, cut_sqlite
from tests.campaign.test_storms import storm

pytestmark = [pytest.mark.slow, pytest.mark.tampers]
Plant = Callable[[str], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Plants a bug until the test ends."""

    def planted(name: str) -> None:
        importlib.import_module(f"tests.campaign.plants.{name}").plant(monkeypatch)

    return planted


def found_in_lockstep(kind: str, folder: Path) -> str:
    with pytest.raises((AssertionError, FlujoError)) as found:
        keep_step(kind, folder, examples=400)
    return str(found.value)


def test_campaign_finds_no_fence(plant: Plant, tmp_path: Path) -> None:
    plant("no_fence")
    assert "only the holder saves" in found_in_lockstep("memory", tmp_path)


def test_campaign_finds_generation_not_checked(plant: Plant, tmp_path: Path) -> None:
    plant("generation_not_checked")
    assert "only the open question is decided" in found_in_lockstep("memory", tmp_path)


def test_campaign_finds_tombstone_forgotten(plant: Plant, tmp_path: Path) -> None:
    plant("tombstone_forgotten")
    found_in_lockstep("memory", tmp_path)


def test_campaign_finds_restored_as_it_was(plant: Plant, tmp_path: Path) -> None:
    plant("restored_as_it_was")
    found_in_lockstep("memory", tmp_path)


def test_campaign_finds_no_unique_key(plant: Plant, tmp_path: Path) -> None:
    plant("no_unique_key")
    found_in_lockstep("sqlite", tmp_path)


def test_campaign_finds_upsert(plant: Plant, tmp_path: Path) -> None:
    plant("upsert")
    found_in_lockstep("sqlite", tmp_path)


@pytest.mark.parametrize("name", ["split_transaction", "audit_after_commit"])
def test_campaign_finds_split_transaction_and_audit_after_commit(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"kills at \d+ moments, [1-9]\d* findings"):
        kill("sqlite", tmp_path, tmp_path, seed="1", kills=6, plant=name)


def test_campaign_finds_torn_line_kept(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"kills at \d+ moments, [1-9]\d* findings"):
        kill("file", tmp_path, tmp_path, seed="2", kills=6, plant="torn_line_kept")


def test_campaign_finds_read_check_write(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"[1-9]\d* problems"):
        storm("sqlite", tmp_path, tmp_path, seed="2", seconds=4, plant="read_check_write")


LOST = r"event \d+ of r0 was acknowledged and lost"


@pytest.mark.parametrize("name", ["no_file_sync", "no_folder_sync", "new_folder_lost"])
def test_campaign_finds_what_the_file_store_does_not_sync(plant: Plant, name: str, tmp_path: Path) -> None:
    plant(name)
    with pytest.raises(AssertionError, match=LOST):
        cut_files(tmp_path)


def test_campaign_finds_synchronous_normal(plant: Plant, tmp_path: Path) -> None:
    plant("synchronous_normal")
    with pytest.raises(AssertionError, match=LOST):
        cut_sqlite(tmp_path)


def found_in_crashes(folder: Path) -> str:
    with pytest.raises(AssertionError) as found:
        crash("memory", folder, Campaign(seconds=None, seed=SLICE_SEED))
    return str(found.value)


def test_campaign_finds_second_child(plant: Plant, tmp_path: Path) -> None:
    plant("second_child")
    assert "the list of its children is" in found_in_crashes(tmp_path)


def test_campaign_finds_told_before_telling(plant: Plant, tmp_path: Path) -> None:
    plant("told_before_telling")
    assert "yet these go on waiting" in found_in_crashes(tmp_path)


@pytest.mark.django_db(transaction=True)
def test_campaign_finds_permission_outside(plant: Plant) -> None:
    plant("permission_outside")
    with pytest.raises(AssertionError, match="the right was gone before"):
        take_the_right_away_within_a_decision()
