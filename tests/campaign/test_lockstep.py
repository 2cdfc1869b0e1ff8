"""Every backend keeps step with the in-memory one, whatever is done to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.campaign.conftest import Campaign
from tests.campaign.lockstep import Lockstep
from tests.engine.stores import EVERY, in_use, make_store

EXAMPLES = {"django": 6, "postgres": 6}
WHOLE = 40  # times as many examples in a campaign


def keep_step(kind: str, folder: Path, *, examples: int, chances: int | None = None) -> None:
    """Raises what the machine found."""
    with in_use(make_store(kind, folder)) as opened:

        class Machine(Lockstep):
            store = opened

        run_state_machine_as_test(
            Machine if chances is None else seed(chances)(Machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                derandomize=chances is None,
                database=None,
                phases=[Phase.generate] if chances is None else [Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_every_backend_keeps_step_with_the_in_memory_one(kind: str, tmp_path: Path, campaign: Campaign) -> None:
    examples = EXAMPLES.get(kind, 20)
    if campaign.whole:
        keep_step(kind, tmp_path, examples=examples * WHOLE, chances=campaign.seed)
    else:
        keep_step(kind, tmp_path, examples=examples)
