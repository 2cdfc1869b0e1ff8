"""Storms on the stores that several processes share: workers killed and frozen, two approvers at once, cancels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.conftest import Campaign
from tests.engine.making import python

PROGRAM = Path(__file__).with_name("storm.py")
SLICE_SECONDS = 8


def storm(store: str, place: str | Path, folder: Path, *, seed: str, seconds: float, plant: str = "") -> str:
    """What the storm's program says at its end. Raises an `AssertionError` with what it found."""
    done = python(PROGRAM, store, place, str(seconds), seed, plant, timeout=seconds + 200, FLUJO_DATA=str(folder))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_storm_on_sqlite_breaks_no_promise(tmp_path: Path, campaign: Campaign) -> None:
    said = storm("sqlite", tmp_path, tmp_path, seed=str(campaign.seed), seconds=campaign.seconds or SLICE_SECONDS)
    print(said)
    assert "0 problems" in said
    assert " 0 kills" not in said


@pytest.mark.slow
@pytest.mark.services
def test_storm_on_postgres_breaks_no_promise(postgres_url: str, tmp_path: Path, campaign: Campaign) -> None:
    seconds = campaign.seconds or SLICE_SECONDS
    said = storm("postgres", postgres_url, tmp_path, seed=str(campaign.seed), seconds=seconds)
    print(said)
    assert "0 problems" in said
    assert " 0 kills" not in said
