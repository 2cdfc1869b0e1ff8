"""What the navigation counts: the same rows as the inbox's first section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runs.queries.inbox import waiting_for

if TYPE_CHECKING:
    from runs.access import User


def inbox_count(user: User) -> int:
    """How many open human tasks `user` can decide."""
    return waiting_for(user).count() if user.is_authenticated else 0
