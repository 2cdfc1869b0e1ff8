"""What a running step may know and say about itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from flujo.description import checked
from flujo.step_log import StepLog, capturing

if TYPE_CHECKING:
    from flujo.reporter import Reporter


_making = Lock()


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
        make_reporter: Callable[[], Reporter],
        now: Callable[[], datetime],
    ) -> None:
        self.run_id = run_id
        self.title = title
        self.path = path
        self.attempt = attempt
        self.fencing_token = fencing_token
        self._created_at = created_at
        self.description: dict[str, Any] = {}
        self._output_of = output_of
        self._make_reporter = make_reporter
        self._now = now
        self.reporter: Reporter | None = None
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

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the step has come: `done`, of `total` if that is known, and a word about it.

        It may be called often and from any thread: at most one report a second is stored, the newest, and the last one
        with the step's result. The console shows it live. It also extends the lease. Raises `ValueError` for a number
        that is negative or not finite.
        """
        self._said().progress(done, total, note)

    @property
    def log(self) -> StepLog:
        """The log of this attempt, stored with the run: `ctx.log.info("charged %s", order, amount=20)`."""
        return StepLog(self._said, self._now)

    def capturing(self, level: int | None) -> AbstractContextManager[None]:
        """A block whose records of the standard `logging`, from this level on, go to the log; None captures none."""
        return nullcontext() if level is None else capturing(self._said, level)

    def _said(self) -> Reporter:
        with _making:  # the step may use several threads
            if self.reporter is None:
                self.reporter = self._make_reporter()
            return self.reporter

    def output_of(self, name: str) -> Any:
        """The output of an earlier step, with the type its annotation names. Raises `StepNotFinished`."""
        return self._output_of(name)

    def describe(self, *, title: str | None = None, owner: str | None = None, tags: list[str] | None = None) -> None:
        """Set the run's title, owner or tags; they are saved with this step's checkpoint. Raises `InvalidInput`."""
        given = {"title": title, "owner": owner, "tags": tags}
        self.description |= checked(**{name: value for name, value in given.items() if value is not None})
