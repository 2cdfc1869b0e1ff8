"""What a run says about itself and programs about their calls: texts within what every store can hold."""

from __future__ import annotations

from typing import Any

from flujo import canonical
from flujo.errors import InvalidInput, UnstorableValue

LONGEST = {
    "title": 200,
    "owner": 150,
    "requester": 150,
    "actor": 150,
    "key": 100,
    "idempotency_key": 200,
    "message_id": 200,
}


def checked(**given: Any) -> dict[str, Any]:
    """The same values. Raises `InvalidInput` naming the first that is no text, too long, or cannot be stored."""
    for name, value in given.items():
        try:
            canonical.dump(value, where=name)
        except (TypeError, UnstorableValue) as error:
            raise InvalidInput(f"The run's {name} cannot be stored: {error}") from error
        if name == "tags":
            if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
                raise InvalidInput("The run's tags are a list of texts.")
        elif not isinstance(value, str) or len(value) > LONGEST[name]:
            raise InvalidInput(f"The run's {name} is a text of at most {LONGEST[name]} characters.")
    return given
