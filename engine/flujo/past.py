"""Runs that ended under a version that is registered no longer: what a start gives that means one of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pydantic import ConfigDict, ValidationError

from flujo import canonical, transitions
from flujo.context import PipelineContext
from flujo.document import RunDocument
from flujo.errors import CorruptState, UnstorableValue
from flujo.pipeline import Pipeline
from flujo.records import RunHead
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.result import PipelineResult, result_of
from flujo.status import RunStatus


class _AnyContext(PipelineContext):
    """A context whose fields are read as they are stored."""

    model_config = ConfigDict(extra="allow")


def past_result(registry: PipelineRegistry, document: RunDocument, value: Any, key: str) -> PipelineResult | None:
    """What a start on `value` gives that means this run; None unless the run is one of the past.

    It is the stored result, whose values are plain JSON. Raises `RunFailed`, `RunCancelled`, and as `check_same_input`.
    """
    head = document.head
    if head is None or head.active or head.version in registry.versions(head.pipeline):
        return None
    check_same_input(registry, document, head, value, key)
    if head.status is not RunStatus.COMPLETED:
        transitions.check_unended(head)
    return result_of(RegisteredPipeline(head.pipeline, head.version, Pipeline([]), _AnyContext), document)


def check_same_input(registry: PipelineRegistry, document: RunDocument, head: RunHead, value: Any, key: str) -> None:
    """Raise `RunConflict`, or under an idempotency key `IdempotencyConflict`, unless the run was started on `value`.

    How its own version read the input is not known here: the two are the same when they are as plain JSON, or as the
    newest version reads them.
    """
    newest = registry.versions(head.pipeline)[:1]
    for annotation in (Any, *[registry.get(head.pipeline, version).input_type for version in newest]):
        with suppress(CorruptState, UnstorableValue, ValidationError):
            stored = canonical.encode(canonical.decode(document.start.input, annotation), annotation)
            if stored == canonical.take(value, annotation):
                return
    raise transitions.another_input(head, key)
