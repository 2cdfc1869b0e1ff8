"""The unfinished runs of a store that the code being deployed would not simply go on with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from flujo.deploy import Course, Verdict, foresee
from flujo.document import RunDocument
from flujo.errors import PipelineNotFound
from flujo.records import RunHead
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.shape import Difference, differences
from flujo.state.base import StateBackend

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """A run whose own code is not registered; `registered` is what the registry has in its place, if anything."""

    head: RunHead
    problem: str
    registered: RegisteredPipeline | None
    differences: list[Difference]
    verdict: Verdict
    plan: dict[str, Any] | None = None

    @property
    def needs_attention(self) -> bool:
        """Whether the run would not simply go on: it would be parked, or left to processes that have its version."""
        return self.verdict.course is not Course.MIGRATE

    def to_plain(self) -> dict[str, Any]:
        """The finding as JSON values."""
        there = self.registered
        return {
            "run_id": self.head.run_id,
            "pipeline": self.head.pipeline,
            "version": self.head.version,
            "fingerprint": self.head.fingerprint,
            "status": self.head.status.value,
            "next_step": self.head.step_name,
            "problem": self.problem,
            "registered": None if there is None else {"version": there.version, "fingerprint": there.fingerprint},
            "course": self.verdict.course.value,
            "migration": self.plan,
            "differences": [difference.to_plain() for difference in self.differences],
        }


async def every_head(backend: StateBackend, *, after: str = "") -> AsyncIterator[RunHead]:
    """The heads of all runs behind the id `after`, in the order of their ids."""
    while page := await backend.heads(limit=_PAGE, after=after):
        for head in page:
            yield head
        after = page[-1].run_id


async def check_inflight(backend: StateBackend, registry: PipelineRegistry) -> tuple[int, list[Finding]]:
    """How many runs are unfinished, and those among them whose own code `registry` does not have."""
    unfinished, found = 0, []
    async for head in every_head(backend):
        if not head.active:
            continue
        unfinished += 1
        if not registry.has(head):
            document = await backend.load(head.run_id)
            if document is not None:
                found.append(_finding(head, document, registry))
    return unfinished, found


def _finding(head: RunHead, document: RunDocument, registry: PipelineRegistry) -> Finding:
    there, problem = None, ""
    try:
        there = registry.get(head.pipeline, head.version)
        problem = f"{head.pipeline} {head.version} has another shape than when the run started"
    except PipelineNotFound as error:
        problem = error.message
        if head.pipeline in registry.names():
            there = registry.get(head.pipeline)
    verdict, planned = foresee(registry, document)
    if there is None:
        return Finding(head, problem, None, [], verdict)
    changes = differences(json.loads(document.start.shape), there.pipeline.shape(), step_index=head.step_index)
    return Finding(head, problem, there, changes, verdict, None if planned is None else planned.to_plain())
