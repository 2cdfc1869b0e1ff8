"""The node that starts a run of another pipeline, a child, and waits for its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo.definition import no_coroutine
from flujo.errors import PipelineDefinitionError
from flujo.pipeline import Node


class ChildStep(Node):
    """Its output is that of the child's last step; a child that failed or was cancelled is this step's failure."""

    kind = "child"

    def __init__(
        self, name: str, pipeline: str, version: str | None, start_on: Callable[[Any], Any] | None, max_levels: int
    ) -> None:
        super().__init__(name)
        if not pipeline:
            raise PipelineDefinitionError(f"{name!r} names no pipeline.")
        if max_levels < 1:
            raise PipelineDefinitionError(f"{name!r}: max_levels is at least 1, not {max_levels}.")
        no_coroutine(start_on, f"{name!r}: start_on")
        self.pipeline = pipeline
        self.version = version
        self.start_on = start_on
        self.max_levels = max_levels

    def input_for(self, value: Any) -> Any:
        """What the child is started on, for this step's input."""
        return value if self.start_on is None else self.start_on(value)

    def shape(self) -> dict[str, Any]:
        return {**super().shape(), "pipeline": self.pipeline, "version": self.version}
