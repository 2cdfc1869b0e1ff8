"""What a running step may know and say about itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flujo.description import checked
from flujo.errors import FlujoError


class StepNotFinished(FlujoError):
    """No finished step of this name: `output_of` reaches only steps that ran before."""

    code = "step_not_finished"


class StepContext:
    """Handed to a step that asks for it.

    `idempotency_key` is the same for every attempt of this step of this run, through retries, crashes and resumes: give
    it to outside systems so that a repeated call has no second effect. It holds the time the run was created, so that
    a run with the id of a deleted one has keys of its own. `fencing_token` grows with every lease of the run: a system
    that keeps the highest one it saw can refuse a worker that was thought dead. `attempt` counts from 1; `title` is the
    run's, "" when it has none.
    """

    def __init__(
        self,
        *,
        run_id: str,
        created_at: datetime,
        path: str,
        title: str,
        attempt: int,
        fencing_token: int,
        output_of: Callable[[str], Any],
    ) -> None:
        self.run_id = run_id
        self.title = title
        self.path = path
        self.attempt = attempt
        self.fencing_token = fencing_token
        self._created_at = created_at
        self.description: dict[str, Any] = {}
        self._output_of = output_of
        self._cancelled = False

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step of this run, and no other's."""
        return f"{self.run_id}@{self._created_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}/{self.path}"

    @property
    def cancelled(self) -> bool:
        """Whether the step should stop: its run was cancelled, its lease lost or its time is up.

        A step that sees it should raise, or return what it has: what it returns may be saved as its result.
        """
        return self._cancelled

    def cancel(self) -> None:
        """Raise the flag that `cancelled` shows."""
        self._cancelled = True

    def output_of(self, name: str) -> Any:
        """The output of an earlier step, with the type its annotation names. Raises `StepNotFinished`."""
        return self._output_of(name)

    def describe(self, *, title: str | None = None, owner: str | None = None, tags: list[str] | None = None) -> None:
        """Set the run's title, owner or tags; they are saved with this step's checkpoint. Raises `InvalidInput`."""
        given = {"title": title, "owner": owner, "tags": tags}
        self.description |= checked(**{name: value for name, value in given.items() if value is not None})
