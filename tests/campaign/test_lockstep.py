"""Every backend keeps step with the in-memory one, whatever is done to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.campaign.conftest import SLICE_SEED, Campaign
from tests.campaign.lockstep import Lockstep
from tests.engine.stores import EVERY, in_use, make_store

EXAMPLES = {"django": 6, "postgres": 6}
WHOLE = 40  # times as many examples in a campaign


def keep_step(kind: str, folder: Path, *, examples: int, chances: int = SLICE_SEED, shrink: bool = False) -> None:
    """Raises what the machine found."""
    with in_use(make_store(kind, folder)) as opened:

        class Machine(Lockstep):
            store = opened

        run_state_machine_as_test(
            seed(chances)(Machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_every_backend_keeps_step_with_the_in_memory_one(kind: str, tmp_path: Path, campaign: Campaign) -> None:
    for number in range(WHOLE if campaign.whole else 1):  # each in a store of its own: backups copy all that is there
        folder = tmp_path / str(number)
        folder.mkdir()
        examples = EXAMPLES.get(kind, 20)
        keep_step(kind, folder, examples=examples, chances=campaign.seed + number, shrink=campaign.whole)
