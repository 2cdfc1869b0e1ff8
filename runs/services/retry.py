"""Retrying a failed run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils import timezone
from flujo import transitions

from runs.services.run_action import act

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def retry(*, actor: access.User, run_id: str, reason: str, origin: Origin) -> Run:
    """Queue a failed run again; its failed step gets all its retries anew.

    Raises `RunNotFound`, `NotAllowed`, `IllegalTransition` when the run has not failed.
    """
    name = actor.get_username()
    again = transitions.retry(actor=name, reason=reason, now=timezone.now(), claim=None, facts=origin.facts())
    return act(actor, "retry", run_id, again, origin)
