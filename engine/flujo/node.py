"""A named place in a pipeline."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from flujo.errors import PipelineDefinitionError

if TYPE_CHECKING:
    from flujo.pipeline import Pipeline

MAX_NAME = 200


def no_coroutine(function: object, what: str) -> None:
    """Raise `PipelineDefinitionError` for an async function: its coroutine would count as true and never run."""
    if inspect.iscoroutinefunction(function):
        raise PipelineDefinitionError(f"{what} is a plain function. Ask what must be awaited in a step before it.")


def check_length(value: object, what: str) -> None:
    """Raise `PipelineDefinitionError` unless it is a length of time: a number would not say of what."""
    if not isinstance(value, timedelta):
        raise PipelineDefinitionError(f"{what} is a timedelta, such as timedelta(seconds=5), not {value!r}.")


class Node:
    """What `>>` chains: it has a name, unique among its siblings, and a shape that the fingerprint covers."""

    kind: ClassVar[str]

    def __init__(self, name: str, *, description: str = "") -> None:
        self.check_name(name)
        self.name = name
        self.description = description

    @staticmethod
    def check_name(name: str) -> None:
        """Raise `PipelineDefinitionError` unless `name` can be part of a path."""
        if not name or len(name) > MAX_NAME or name != name.strip() or not name.isprintable():
            raise PipelineDefinitionError(f"A step's name is 1 to {MAX_NAME} printable characters, not {name!r}.")
        if any(letter in name for letter in "[]#/"):
            raise PipelineDefinitionError(f"The step name {name!r} holds one of [ ] # /, which paths are made of.")

    @property
    def output(self) -> Any:
        """The annotation of what the node gives; `Any` when unknown."""
        return Any

    def inner(self, path: str) -> Node | None:
        """The node at `path` inside this one; None for a node that holds no others."""
        return None

    def reach(self) -> int:
        """How much longer than the node's own path the paths inside it can get."""
        return 0

    def shape(self) -> dict[str, Any]:
        """What the fingerprint covers of this node."""
        return {"name": self.name, "kind": self.kind}

    def __rshift__(self, other: Node | Pipeline) -> Pipeline:
        from flujo.pipeline import Pipeline

        return Pipeline([self]) >> other

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"
