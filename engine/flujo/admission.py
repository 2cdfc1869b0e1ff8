"""How runs are let in: the run that an idempotency key stands for, and which of those that wait goes first."""

from __future__ import annotations

from flujo import canonical
from flujo.clock import Clock
from flujo.description import checked
from flujo.errors import InvalidInput

MAX_PRIORITY = 1000
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


def checked_priority(priority: int) -> int:
    """The same number. Raises `InvalidInput` when it is none from -1000 to 1000."""
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise InvalidInput(f"A priority is a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {priority!r}.")
    return priority
