"""A crash before and after every write of the pipeline that has everything, in this process, on every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flujo.state.backends.memory import InMemoryBackend
from flujo.testing import When, assert_crash_safe
from flujo.testing.drive import NAME

from tests.campaign.conftest import Campaign
from tests.campaign.everything import ANSWERS, SIGNALS, drive, everything
from tests.engine.stores import EVERY, in_use, make_store

# The slice takes one of the two answers for each store, and one of so many crashes: more where they take no time. The
# numbers are odd, so that some crashes come before a write and some after one.
ALONE = {"file": "rejected", "django": "rejected"}
ONE_IN = {"memory": 11, "three_methods": 61, "django": 45, "postgres": 55}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_a_crash_at_any_write_changes_nothing_on_any_store(kind: str, tmp_path: Path, campaign: Campaign) -> None:
    crash(kind, tmp_path, campaign)


@pytest.mark.parametrize("answer", ANSWERS)
async def test_pipeline_that_has_everything_comes_to_its_end_with_its_children(answer: str) -> None:
    """Else there would be little to crash."""
    told = await drive(answer).run(InMemoryBackend(), "whole")
    assert told["the status"] == "completed", told["the error"]
    assert told["the list of its children"].count("the child") == 6


def crash(kind: str, folder: Path, campaign: Campaign) -> None:
    """Raises an `AssertionError` with what was found."""
    registry = everything()
    pipelines = [registry.get(name).pipeline for name in registry.names()]
    for answer in ANSWERS if campaign.whole else [ALONE.get(kind, "approved")]:
        one_in = 1 if campaign.whole else ONE_IN.get(kind, 29)
        first = campaign.chances(f"{kind} {answer}").randrange(one_in)
        place = folder / answer
        place.mkdir()
        with in_use(make_store(kind, place)) as store:
            report = assert_crash_safe(
                registry.get(NAME).pipeline,
                input="start",
                registry=registry,
                answers=ANSWERS[answer],
                signals=SIGNALS,
                repeatable={node.name for pipeline in pipelines for node in pipeline.every_node()},
                backend=lambda store=store: store.backend,
                reopen=lambda _, store=store: store.reopen(),
                chosen=_one_in(one_in, first),
            )
        assert report.crashes >= 320 // one_in


def _one_in(of: int, first: int) -> Callable[[int, When], bool]:
    def chosen(write: int, when: When) -> bool:
        return (2 * write + (when == "after")) % of == first

    return chosen
