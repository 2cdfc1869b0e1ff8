"""The nodes that wait for time or for a signal; a waiting run holds no process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from flujo import canonical
from flujo.definition import check_length, no_coroutine
from flujo.errors import InvalidInput, PipelineDefinitionError
from flujo.pipeline import Node
from flujo.stored_type import external, said


class Timer(Node):
    """Waits until an instant, then passes its input on."""

    kind = "timer"

    def __init__(self, name: str, due: timedelta | Callable[[Any], datetime]) -> None:
        super().__init__(name)
        if not callable(due):
            check_length(due, f"Timer {name!r}: the duration")
        if isinstance(due, timedelta) and due < timedelta(0):
            raise PipelineDefinitionError(f"Timer {name!r}: {due} is in the past.")
        no_coroutine(due, f"Timer {name!r}: when")
        self.due = due

    def due_at(self, value: Any, now: datetime) -> datetime:
        """The instant, for this input."""
        if isinstance(self.due, timedelta):
            return now + self.due
        moment = self.due(value)
        if not isinstance(moment, datetime):
            raise InvalidInput(f"Timer {self.name!r}: {moment!r} is no datetime.")
        if moment.tzinfo is None:
            raise InvalidInput(f"Timer {self.name!r}: {moment} has no time zone.")
        return moment


class SignalStep(Node):
    """Waits for a message; its validated data is the output."""

    kind = "signal"

    def __init__(self, name: str, input_schema: Any, timeout: timedelta | None) -> None:
        super().__init__(name)
        self.data_type = Any if input_schema is None else input_schema
        if timeout is not None:
            check_length(timeout, f"Signal {name!r}: the timeout")
        if timeout is not None and timeout <= timedelta(0):
            raise PipelineDefinitionError(f"Signal {name!r}: a timeout is longer than zero, not {timeout}.")
        self.timeout = timeout

    @property
    def output(self) -> Any:
        return self.data_type

    def data_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the message's data; None when it may be anything."""
        return None if self.data_type is Any else external(self.data_type).json_schema(mode="validation")

    def due_at(self, now: datetime) -> datetime | None:
        """When the signal is too late."""
        return None if self.timeout is None else now + self.timeout

    def validate(self, data: Any) -> str:
        """The canonical JSON of a valid message. Raises `InvalidInput` with pydantic's `errors` in its details."""
        try:
            return canonical.take(data, self.data_type, where="signal")
        except ValidationError as error:
            errors = json.loads(error.json(include_url=False, include_input=False, include_context=False))
            raise InvalidInput(
                f"The signal {self.name!r} does not fit: {said(error, 'data')}", errors=errors
            ) from error
