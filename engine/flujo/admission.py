"""How runs are let in: the run that an idempotency key stands for, which goes first, and how many go at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flujo import canonical
from flujo.clock import Clock
from flujo.definition import no_coroutine
from flujo.description import checked
from flujo.errors import InvalidInput, PipelineDefinitionError

MAX_PRIORITY = 1000
MAX_CONCURRENCY_KEY = 200
_ID_LETTERS = 32


def run_id_for(pipeline: str, key: str | None, given: str | None, clock: Clock) -> str:
    """The id of a run to be started: the one that is given, the one that an idempotency key stands for, or a new one.

    The same key of the same pipeline gives the same id in every process and on every backend. Raises `InvalidInput` for
    both an id and a key, and for a key that is empty, or no text of at most 200 characters.
    """
    if key is None:
        return given or clock.new_id()
    if given:
        raise InvalidInput("Give a run id or an idempotency key, not both: the key stands for an id.")
    if not checked(idempotency_key=key)["idempotency_key"]:
        raise InvalidInput("An idempotency key is not empty.")
    return canonical.digest(canonical.dump(["idempotency key", pipeline, key]))[:_ID_LETTERS]


def check_bound(pipeline: str, max_concurrency: int | None, key: Callable[[Any], str] | None) -> None:
    """Raise `PipelineDefinitionError` unless the bound of a pipeline's runs makes sense."""
    if max_concurrency is None and key is not None:
        raise PipelineDefinitionError(f"{pipeline!r} has a concurrency key, but no max_concurrency.")
    if max_concurrency is not None and (type(max_concurrency) is not int or max_concurrency < 1):
        raise PipelineDefinitionError(f"{pipeline!r}: max_concurrency is at least 1, not {max_concurrency!r}.")
    no_coroutine(key, f"{pipeline!r}: the concurrency key")


def key_in_bounds(pipeline: str, key: object) -> str:
    """A concurrency key as runs hold it: keys of two pipelines never meet. Raises `InvalidInput` for what is none."""
    if not isinstance(key, str) or not key or len(key) > MAX_CONCURRENCY_KEY or not key.isprintable():
        raise InvalidInput(
            f"A concurrency key is a text of 1 to {MAX_CONCURRENCY_KEY} printable characters; that of {pipeline} "
            f"gave {key!r}."
        )
    return f"{pipeline}/{key}"


def checked_priority(priority: int) -> int:
    """The same number. Raises `InvalidInput` when it is none from -1000 to 1000."""
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise InvalidInput(f"A priority is a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {priority!r}.")
    return priority
