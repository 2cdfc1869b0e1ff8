"""Starting a run from the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone
from flujo import transitions
from flujo.clock import SystemClock
from flujo.errors import NotAllowed
from flujo.runner import new_run

from runs import access, dispatch
from runs.models import Run
from runs.registry import registry
from runs.services import site_audit
from runs.state_backend import DjangoBackend

if TYPE_CHECKING:
    from runs.services.origin import Origin


def start(
    *,
    actor: access.User,
    pipeline: str,
    version: str | None,
    data: Any,
    title: str = "",
    tags: Sequence[str] = (),
    run_id: str | None = None,
    origin: Origin,
) -> Run:
    """Queue a run of `pipeline` on the JSON-ready input `data`; `version` None is the newest.

    An existing `run_id` with the same pipeline and input gives the run that is there. Raises `NotAllowed`,
    `PipelineNotFound`, `InvalidInput` (pydantic's `errors` in its details), `RunConflict`.
    """
    name = actor.get_username()
    try:
        with transaction.atomic():
            access.require(actor, "start", pipeline)
            entry = registry.get(pipeline, version)
            context = {"run_id": run_id or SystemClock().new_id()}
            new = new_run(entry, data, context, title=title, owner=name, requester=name, tags=tags)
            started = transitions.start(new, now=timezone.now(), claim=None, actor=name, facts=origin.facts())
            DjangoBackend().transact_now(new.run_id, started)
            dispatch.hint_on_commit(new.run_id)
            return Run.objects.get(pk=new.run_id)
    except NotAllowed as refusal:
        site_audit.record("action.refused", actor=name, origin=origin, verb="start", message=refusal.message)
        raise
