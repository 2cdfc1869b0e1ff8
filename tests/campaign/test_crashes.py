"""A crash before and after every write of the pipeline that has everything, in this process, on every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flujo.testing import When, assert_crash_safe

from tests.campaign.conftest import Campaign
from tests.campaign.everything import ANSWERS, SIGNALS, everything
from tests.engine.stores import EVERY, in_use, make_store

# The slice takes one of the two answers for each store, and one of so many crashes: more where they take no time.
ALONE = {"file": "rejected", "django": "rejected"}
ONE_IN = {"memory": 4, "three_methods": 16, "django": 14, "postgres": 16}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_a_crash_at_any_write_changes_nothing_on_any_store(kind: str, tmp_path: Path, campaign: Campaign) -> None:
    pipeline = everything()
    for answer in ANSWERS if campaign.whole else [ALONE.get(kind, "approved")]:
        one_in = 1 if campaign.whole else ONE_IN.get(kind, 8)
        first = campaign.chances(f"{kind} {answer}").randrange(one_in)
        folder = tmp_path / answer
        folder.mkdir()
        with in_use(make_store(kind, folder)) as store:
            report = assert_crash_safe(
                pipeline,
                input="start",
                answers=ANSWERS[answer],
                signals=SIGNALS,
                repeatable={node.name for node in pipeline.every_node()},
                backend=lambda store=store: store.backend,
                reopen=lambda _, store=store: store.reopen(),
                chosen=_one_in(one_in, first),
            )
        assert report.crashes >= 160 // one_in


def _one_in(of: int, first: int) -> Callable[[int, When], bool]:
    """One crash of so many: before one write, after another."""

    def chosen(write: int, when: When) -> bool:
        return (2 * write + (when == "after")) % of == first

    return chosen
