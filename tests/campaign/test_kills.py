"""Kill -9 within the writes of the pipeline that has everything, in child processes on stores that outlive them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.conftest import Campaign
from tests.engine.making import python

PROGRAM = Path(__file__).with_name("kills.py")
WHOLE = 150
SLICE = {"sqlite": 4, "file": 4, "django": 2, "postgres": 2}


def kill(store: str, place: str | Path, folder: Path, *, seed: str, kills: int, plant: str = "") -> None:
    """Raises an `AssertionError` with what the program found."""
    done = python(PROGRAM, store, place, seed, str(kills), plant, timeout=3_600, FLUJO_DATA=str(folder))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " kills at " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "file", "django"])
def test_a_process_killed_within_a_write_loses_and_repeats_nothing(
    store: str, tmp_path: Path, campaign: Campaign
) -> None:
    kill(store, tmp_path, tmp_path, seed=str(campaign.seed), kills=WHOLE if campaign.whole else SLICE[store])


@pytest.mark.slow
@pytest.mark.services
def test_a_process_killed_within_a_transaction_on_postgres_loses_and_repeats_nothing(
    postgres_url: str, tmp_path: Path, campaign: Campaign
) -> None:
    kill(
        "postgres",
        postgres_url,
        tmp_path,
        seed=str(campaign.seed),
        kills=WHOLE if campaign.whole else SLICE["postgres"],
    )
