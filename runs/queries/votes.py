"""How far the votes on a human task have come."""

from __future__ import annotations

from collections.abc import Iterable

from flujo.transitions.votes import leading

from runs.encryption import Sealed
from runs.models import Vote


def agreed(votes: Iterable[Vote]) -> int:
    """How many people gave the same answer; what cannot be read counts as an answer of its own."""
    return leading(vote.data.stored if isinstance(vote.data, Sealed) else vote.data for vote in votes)
