"""Sending a signal to a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils import timezone
from flujo import transitions
from flujo.batch import Batch, RunView, required
from flujo.description import checked

from runs.registry import registry
from runs.services.run_action import act

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def signal(*, actor: access.User, run_id: str, name: str, data: Any, message_id: str, origin: Origin) -> Run:
    """Send a run the message `name` with the JSON-ready `data`, and wake it if it waits for that.

    The same `message_id` counts once. A page that other systems call has an account of its own, granted `signal`.
    Raises `RunNotFound`, `NotAllowed`, `SignalUnknown`, `InvalidInput` (pydantic's `errors` in its details),
    `RunFinished`, and `PipelineNotFound` where this server lacks the run's version.
    """
    sender = actor.get_username()

    def validated(view: RunView) -> Batch:
        head = required(view)
        receiving = registry.get(head.pipeline, head.version).signal_step(name)
        return transitions.receive(
            name,
            receiving.validate(data) if head.active else "null",  # a run that has ended takes none, fitting or not
            message_id=checked(message_id=message_id)["message_id"],
            actor=sender,
            now=timezone.now(),
            claim=None,
            facts=origin.facts(),
        )(view)

    return act(actor, "signal", run_id, validated, origin)
