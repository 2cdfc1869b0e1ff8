"""Forking a run: a new one that goes on from an earlier step, perhaps with an edited context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flujo import lineage
from flujo.document import RunDocument
from flujo.errors import PipelineChanged, PipelineNotFound
from flujo.records import RunHead
from flujo.registry import RegisteredPipeline
from flujo.transitions import NewRun

from runs.registry import registry
from runs.services.derive import derive, id_for

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def fork(
    *,
    actor: access.User,
    run_id: str,
    from_step: str,
    edits: dict[str, Any],
    reason: str,
    key: str,
    origin: Origin,
) -> Run:
    """Queue a new run that takes over the run before the top-level step `from_step`; the run itself is left alone.

    `edits` sets fields of the context, which needs `view_context` too. The same `key` with the same step and edits
    gives the run that is there. Raises `RunNotFound`, `NotAllowed`, `PipelineChanged`, `InvalidInput` (pydantic's
    `errors` in its details), `IllegalTransition`.
    """
    name = actor.get_username()

    def make(document: RunDocument) -> NewRun:
        assert document.head is not None  # a visible run has a row
        return lineage.fork_of(
            _code_of(document.head),
            document,
            id_for(key, "fork", run_id, from_step, edits),
            from_step=from_step,
            edits=edits,
            owner=name,
            actor=name,
            reason=reason,
        )

    return derive(actor, ["fork", "view_context"] if edits else ["fork"], run_id, make, origin)


def _code_of(head: RunHead) -> RegisteredPipeline:
    try:
        return registry.get(head.pipeline, head.version)
    except PipelineNotFound as error:
        raise PipelineChanged(
            f"{head.pipeline} {head.version} is not registered on this server. Deploy that version, or rerun the run."
        ) from error
