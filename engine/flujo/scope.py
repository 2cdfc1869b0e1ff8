"""What a runner works within: one pipeline of a registry, a store, a clock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from flujo import transitions
from flujo.batch import Batch, Transition
from flujo.clock import Clock
from flujo.context import PipelineContext
from flujo.deploy import migrated
from flujo.document import RunDocument
from flujo.errors import RunDeleted, RunNotFound
from flujo.lease import this_process
from flujo.records import RunHead
from flujo.registry import LATEST, PipelineRegistry, RegisteredPipeline
from flujo.start import check_capable
from flujo.state.base import RUN_ID, StateBackend
from flujo.step import Step


@dataclass(frozen=True, slots=True)
class Scope:
    """One pipeline of a registry on a store; without a version, or with "latest", any version of it."""

    registry: PipelineRegistry
    pipeline_name: str
    pipeline_version: str | None
    context_model: type[PipelineContext] | None
    backend: StateBackend
    clock: Clock
    lease: timedelta

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def around(self, child: RunHead) -> Scope:
        """The scope of a child run: its own pipeline, under its own version, on the same store."""
        return dataclasses.replace(
            self, pipeline_name=child.pipeline, pipeline_version=child.version, context_model=None
        )

    async def load(self, run_id: str) -> RunDocument:
        """The stored run. Raises `RunNotFound`, `RunDeleted`."""
        document = await self.backend.load(run_id)
        if document is None:
            raise RunNotFound(f"No run has the id {run_id!r}.")
        if document.head is None:
            raise RunDeleted(f"Run {run_id} was deleted; only its audit trail is left.")
        return document

    async def write(self, document: RunDocument, transition: Transition) -> Batch:
        """Write to a run that was just loaded: what it was then is not read again, if the write proves it to stand."""
        return await self.backend.transact(document.run_id, document.decides(transition), known=document.head)

    def entry(self, version: str | None) -> RegisteredPipeline:
        """The registered version, or the newest. Raises `PipelineNotFound`, `BackendCannot`."""
        entry = self.registry.get(self.pipeline_name, version)
        check_capable(self.backend, entry)
        if self.context_model is None:
            return entry
        return dataclasses.replace(entry, context_model=self.context_model)

    async def stored(self, run_id: str, *, whatever_version: bool) -> RunDocument | None:
        """The run that a start means, where it does not mean a version: of this pipeline, or None."""
        if (whatever_version or self.pipeline_version in (None, LATEST)) and RUN_ID.fullmatch(str(run_id)):
            document = await self.backend.load(run_id)
            if document is not None and document.head is not None and document.head.pipeline == self.pipeline_name:
                return document
        return None

    async def entry_for(self, document: RunDocument | None) -> RegisteredPipeline:
        """The version of a stored run, and the one that the scope names, or the newest, for a new run."""
        if document is None or document.head is None:
            return self.entry(self.pipeline_version)
        known = self.registry.has(document.head) or not document.head.active
        return self.entry(document.head.version) if known else await self.own_code(document)

    async def own_code(self, document: RunDocument) -> RegisteredPipeline:
        """The code that an unfinished run goes on with. Where it is not registered the run's policy is followed.

        A run that was migrated is read again into `document`. Raises `PipelineChanged`, also after the run was parked,
        which loses nothing.
        """
        if self.registry.has(self.own_head(document)):
            return self.entry_of(document)
        version = await migrated(self.registry, document, self.backend, self.now)
        return self.entry_of(document) if version is None else self.entry(version)

    def entry_of(self, document: RunDocument) -> RegisteredPipeline:
        """The version that started a stored run. Raises `RunNotFound` when the scope names another one."""
        head = self.own_head(document)
        if self.pipeline_version not in (None, LATEST, head.version):
            raise RunNotFound(
                f"Run {head.run_id} was started by {head.pipeline} {head.version}, not {self.pipeline_version}. "
                "Make a runner for that version."
            )
        return self.entry(head.version)

    def own_head(self, document: RunDocument) -> RunHead:
        """The head of a stored run. Raises `RunNotFound` when it belongs to another pipeline."""
        head = document.head
        assert head is not None  # `load` returns no document without one
        if head.pipeline != self.pipeline_name:
            raise RunNotFound(f"Run {head.run_id} belongs to the pipeline {head.pipeline}, not {self.pipeline_name}.")
        return head

    def terms(self, entry: RegisteredPipeline, *, patient: bool = True) -> transitions.ClaimTerms:
        """The terms under which this process takes a run of `entry`."""
        nodes = entry.pipeline.nodes

        def first_attempt(head: RunHead) -> str | None:
            node = nodes[head.step_index] if head.step_index < len(nodes) else None
            return node.name if isinstance(node, Step) else None

        return transitions.ClaimTerms(
            this_process(), self.lease, entry.fingerprint, first_attempt, patient, entry.max_concurrency
        )
