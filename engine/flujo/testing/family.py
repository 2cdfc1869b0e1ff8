"""The runs that a test drives together: the one that it started, that one's children, and theirs."""

from __future__ import annotations

from dataclasses import dataclass

from flujo.child import ChildStep
from flujo.document import RunDocument
from flujo.errors import PipelineNotFound
from flujo.records import RunHead
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.state.base import StateBackend


@dataclass(frozen=True, slots=True)
class Relative:
    """A run of a family. `place` is the path of the step that started it, behind its parent's; "" for the first."""

    place: str
    entry: RegisteredPipeline
    document: RunDocument

    @property
    def run_id(self) -> str:
        return self.document.run_id

    @property
    def head(self) -> RunHead:
        assert self.document.head is not None  # nobody deletes a run that is driven
        return self.document.head

    def at(self, path: str) -> str:
        """The path of one of its steps, as a test names it."""
        return f"{self.place}/{path}" if self.place else path

    def __str__(self) -> str:
        return f"the child {self.place} ({self.entry.name})" if self.place else "the run"


class Family:
    """The runs of these ids that `backend` has; more may be added to the ids."""

    def __init__(self, backend: StateBackend, registry: PipelineRegistry, run_ids: set[str]) -> None:
        self.backend = backend
        self.registry = registry
        self.run_ids = run_ids
        self._over: dict[str, RunDocument] = {}

    async def look(self) -> list[Relative]:
        """The runs as they are now: parents before their children, siblings in the order of their places."""
        found: dict[str, RunDocument] = {}
        for run_id in sorted(self.run_ids):
            document = self._over.get(run_id) or await self.backend.load(run_id)
            if document is None or document.head is None:
                continue  # its start was not kept
            found[run_id] = document
            if not document.head.active and not document.head.untold:
                self._over[run_id] = document
        return sorted((self._relative(document, found) for document in found.values()), key=lambda it: it.place)

    def _relative(self, document: RunDocument, found: dict[str, RunDocument]) -> Relative:
        head = document.head
        assert head is not None  # `found` has no others
        entry = self.registry.get(head.pipeline, head.version)
        if head.parent_run_id not in found:
            return Relative(head.parent_path, entry, document)
        parent = self._relative(found[head.parent_run_id], found)
        return Relative(parent.at(head.parent_path), entry, document)


def programs(registry: PipelineRegistry, name: str) -> list[RegisteredPipeline]:
    """The newest pipeline of a name, and all whose runs it may start, at any depth. Raises `PipelineNotFound`."""
    found: dict[tuple[str, str], RegisteredPipeline] = {}
    waiting = [registry.get(name)]
    while waiting:
        entry = waiting.pop()
        if (entry.name, entry.version) in found:
            continue
        found[entry.name, entry.version] = entry
        starts = [node for node in entry.pipeline.every_node() if isinstance(node, ChildStep)]
        waiting += [_started_by(node, registry) for node in starts]
    return list(found.values())


def _started_by(node: ChildStep, registry: PipelineRegistry) -> RegisteredPipeline:
    try:
        return registry.get(node.pipeline, node.version)
    except PipelineNotFound as error:
        raise PipelineNotFound(
            f"The step {node.name!r} starts a child run. {error} Give assert_crash_safe a registry that has what it "
            "starts (registry=)."
        ) from error
