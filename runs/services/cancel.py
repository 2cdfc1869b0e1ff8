"""Cancelling a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils import timezone
from flujo import transitions

from runs.services.run_action import act

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def cancel(*, actor: access.User, run_id: str, reason: str, origin: Origin) -> Run:
    """Cancel a waiting run, or one whose worker is gone, at once; a running one stops at its worker's next safe point.
    Final either way. A worker in this process hears of it at once, one elsewhere within a second.

    Raises `RunNotFound`, `NotAllowed`, `RunFinished`, `RunCancelled`.
    """
    name = actor.get_username()
    asked = transitions.cancel(actor=name, reason=reason, now=timezone.now(), facts=origin.facts())
    return act(actor, "cancel", run_id, asked, origin)
