"""Starting a run from the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone
from flujo import transitions
from flujo.admission import run_id_for
from flujo.batch import required
from flujo.clock import SystemClock
from flujo.past import check_same_input
from flujo.start import new_run

from runs import access, dispatch
from runs.models import Run
from runs.registry import registry
from runs.services.refusals import recorded
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
    idempotency_key: str | None = None,
    priority: int | None = None,
    origin: Origin,
) -> Run:
    """Queue a run of `pipeline` on the JSON-ready input `data`; `version` None is the newest.

    An existing `run_id` with the same pipeline and input gives the run that is there; each start of the pipeline with
    the same `idempotency_key` gives the same run. Raises `NotAllowed`, `PipelineNotFound`, `InvalidInput` (pydantic's
    `errors` in its details), `RunConflict`, `IdempotencyConflict`.
    """
    name = actor.get_username()
    with recorded("start", actor=name, origin=origin, pipeline=pipeline), transaction.atomic():
        access.require(actor, "start", pipeline)
        run_id = run_id_for(pipeline, idempotency_key, run_id, SystemClock())
        begun = _version_begun(run_id) if idempotency_key else None
        if begun is not None and begun not in registry.versions(pipeline):
            return _past(run_id, data, idempotency_key or "")
        new = new_run(
            registry.get(pipeline, begun or version),
            data,
            {"run_id": run_id},
            title=title,
            owner=name,
            requester=name,
            tags=tags,
            idempotency_key=idempotency_key or "",
            priority=priority,
        )
        started = transitions.start(new, now=timezone.now(), claim=None, actor=name, facts=origin.facts())
        DjangoBackend().transact_now(run_id, started)
        dispatch.hint_on_commit(new.run_id)
        return Run.objects.get(pk=new.run_id)


def _version_begun(run_id: str) -> str | None:
    """The version by which the run of a key was begun: its input is read as that one read it."""
    return Run.objects.filter(pk=run_id).values_list("version", flat=True).first()


def _past(run_id: str, data: Any, key: str) -> Run:
    """The run of a key whose version is registered no longer. Raises `IdempotencyConflict`."""
    document = DjangoBackend().load_now(run_id)
    assert document is not None  # it is there, in this transaction
    check_same_input(registry, document, required(document), data, key)
    return Run.objects.get(pk=run_id)
