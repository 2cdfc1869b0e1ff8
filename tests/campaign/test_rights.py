"""Whoever decides has the right to in the very transaction that records it."""

from __future__ import annotations

import pytest

from runs.models import Decision, PipelineGrant
from tests.campaign.rights import take_the_right_away_within_a_decision


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_right_that_is_taken_away_meanwhile_is_gone_before_the_decision_or_after_it() -> None:
    take_the_right_away_within_a_decision()
    assert Decision.objects.count() == 1
    assert not PipelineGrant.objects.filter(verb="decide").exists()
