"""Rerunning a run: a new one on the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flujo import lineage
from flujo.document import RunDocument
from flujo.transitions import NewRun

from runs.registry import registry
from runs.services.derive import derive, id_for

if TYPE_CHECKING:
    from runs import access
    from runs.models import Run
    from runs.services.origin import Origin


def rerun(*, actor: access.User, run_id: str, version: str | None = None, reason: str, key: str, origin: Origin) -> Run:
    """Queue a new run of the same pipeline, of its newest version unless `version` is given, on the same input.

    The same `key` with the same version gives the run that is there. Raises `RunNotFound`, `NotAllowed`,
    `PipelineNotFound`, and `InvalidInput` when the version does not take the input or the context.
    """
    name = actor.get_username()

    def make(document: RunDocument) -> NewRun:
        assert document.head is not None  # a visible run has a row
        entry = registry.get(document.head.pipeline, version)
        new_id = id_for(key, "rerun", run_id, entry.version)
        return lineage.rerun_of(entry, document, new_id, owner=name, actor=name, reason=reason)

    return derive(actor, ["start"], run_id, make, origin)
