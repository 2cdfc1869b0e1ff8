"""The calls of pipelines' steps, counted by run and path, which is by idempotency key, while a test watches."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flujo.pipeline import Pipeline
from flujo.step import Step
from flujo.step_context import StepContext

_CONTEXT = "step_context_for_the_watcher"


class Calls:
    """How often each step of each run was called, by path; `asked` holds the runs and paths that read their key."""

    def __init__(self) -> None:
        self.of_run: dict[str, Counter[str]] = defaultdict(Counter)
        self.asked: set[tuple[str, str]] = set()

    @contextmanager
    def watching(self, pipelines: Iterable[Pipeline]) -> Iterator[None]:
        """Count the calls of these pipelines' steps until the block is left."""
        nodes = (node for pipeline in pipelines for node in pipeline.every_node())
        kept = {node: (node.function, node.signature) for node in nodes if isinstance(node, Step)}
        for step in kept:
            self._watch(step)
        try:
            yield
        finally:
            for step, (function, signature) in kept.items():
                step.function, step.signature = function, signature

    def _watch(self, step: Step) -> None:
        """Every step is handed its step context meanwhile; one that did not ask for it never sees it."""
        function, asks_for = step.function, step.signature.step_context_parameter

        def arguments(given: dict[str, Any]) -> dict[str, Any]:
            control = given.pop(asks_for or _CONTEXT)
            self.of_run[control.run_id][control.path] += 1
            return {**given, asks_for: _Watched(control, self.asked.add)} if asks_for else given

        async def watched(*values: Any, **given: Any) -> Any:
            return await function(*values, **arguments(given))

        def watched_in_thread(*values: Any, **given: Any) -> Any:
            return function(*values, **arguments(given))

        step.function = watched if step.is_async else watched_in_thread
        step.signature = dataclasses.replace(step.signature, step_context_parameter=asks_for or _CONTEXT)


class _Watched(StepContext):
    """The step context, which tells when the key is read."""

    def __init__(self, control: StepContext, tell: Callable[[tuple[str, str]], None]) -> None:
        self.__dict__ = control.__dict__  # one state: a cancellation reaches both
        self._tell = tell

    def __getattribute__(self, name: str) -> Any:
        if name == "idempotency_key":
            self._tell((self.run_id, self.path))
        return super().__getattribute__(name)
