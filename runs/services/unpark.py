"""Letting a parked run go on, once its code is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils import timezone
from flujo import transitions
from flujo.batch import Batch, RunView, required
from flujo.deploy import Course, judge

from runs.registry import registry
from runs.services.run_action import act

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def unpark(*, actor: access.User, run_id: str, reason: str, origin: Origin) -> Run:
    """Queue a parked run whose own code this server has; it needs the grant `retry`.

    Raises `RunNotFound`, `NotAllowed`, `PipelineChanged` while the code is not here, and `IllegalTransition` for a run
    that is not parked.
    """
    name = actor.get_username()
    free = transitions.unpark(actor=name, reason=reason, now=timezone.now(), facts=origin.facts())

    def checked(view: RunView) -> Batch:
        verdict = judge(registry, required(view))
        if verdict.course is not Course.GO_ON and transitions.is_parked(required(view)):
            raise verdict.error
        return free(view)

    return act(actor, "retry", run_id, checked, origin)
