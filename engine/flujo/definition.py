"""Checks of what a pipeline is declared with."""

from __future__ import annotations

import inspect
from datetime import timedelta

from flujo.errors import PipelineDefinitionError


def no_coroutine(function: object, what: str) -> None:
    """Raise `PipelineDefinitionError` for an async function: its coroutine would count as true and never run."""
    if inspect.iscoroutinefunction(function):
        raise PipelineDefinitionError(f"{what} is a plain function. Ask what must be awaited in a step before it.")


def check_length(value: object, what: str) -> None:
    """Raise `PipelineDefinitionError` unless it is a length of time: a number would not say of what."""
    if not isinstance(value, timedelta):
        raise PipelineDefinitionError(f"{what} is a timedelta, such as timedelta(seconds=5), not {value!r}.")
