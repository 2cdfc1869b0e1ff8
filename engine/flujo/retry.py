"""Retry policies: which error of a step is tried again, how often, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flujo.definition import check_length
from flujo.errors import FlujoError, PipelineDefinitionError, StepInputError, UnstorableValue

LONGEST_WAIT = timedelta(days=365)
SHORT_WAIT = timedelta(seconds=2)
"""A longer wait for a retry holds no worker."""

ErrorTypes = type[BaseException] | tuple[type[BaseException], ...]


class NonRetryable(FlujoError):
    """Trying again cannot help. Correct what the message names, then retry the run."""

    code = "non_retryable"


class RetryAfter(FlujoError):
    """The step asked to be tried again later.

    `delay` is a number of seconds, a `timedelta`, or an aware `datetime`; at most a year is waited. It takes the place
    of the policy's backoff; how often the step is tried stays the policy's.
    """

    code = "retry_after"

    def __init__(self, delay: float | timedelta | datetime = 60.0, message: str | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        if isinstance(delay, datetime):
            if delay.tzinfo is None:
                raise ValueError(f"RetryAfter: {delay} has no time zone.")
            delay = delay.astimezone(UTC)
        elif not isinstance(delay, timedelta):
            delay = timedelta(seconds=delay)
        self.delay = delay

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay, self.message)  # it may come from another process

    def seconds(self, now: datetime) -> float:
        """How long that is from `now`."""
        wait = self.delay - now if isinstance(self.delay, datetime) else self.delay
        return min(max(wait, timedelta(0)), LONGEST_WAIT).total_seconds()


FINAL: tuple[type[BaseException], ...] = (NonRetryable, UnstorableValue, StepInputError)
"""The step's code or its annotations must change first."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed step is tried again, and after which errors.

    `retries` counts tries after the first. Before retry *k* the runner waits a random time between half and all of
    `backoff` × 2^(k-1), at most `longest`, so that many runs that fail together don't come back together. `retry_on`
    names the errors (one class or a tuple) that the policy is for, `no_retry_on` those of them that end the step.
    """

    retries: int = 0
    backoff: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=5)
    retry_on: ErrorTypes = Exception
    no_retry_on: ErrorTypes = ()

    def __post_init__(self) -> None:
        check_length(self.backoff, "backoff")
        check_length(self.longest, "longest")
        if not isinstance(self.retries, int):
            raise PipelineDefinitionError(f"retries is a whole number, not {self.retries!r}.")
        if self.retries < 0 or self.backoff < timedelta(0) or self.longest < timedelta(0):
            raise PipelineDefinitionError("retries, backoff and longest cannot be negative.")
        for name in ("retry_on", "no_retry_on"):
            given = getattr(self, name)
            kinds = given if isinstance(given, tuple) else (given,)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
                raise PipelineDefinitionError(f"{name} is a class of errors or a tuple of them, not {given!r}.")

    def delay(self, failures: int, randomness: float) -> float | None:
        """Seconds to wait after this many failures, `randomness` in [0, 1); None when retries are used up."""
        if failures > self.retries:
            return None
        whole: float = min(self.backoff.total_seconds() * 2 ** min(failures - 1, 100), self.longest.total_seconds())
        return whole * (0.5 + randomness / 2)


@dataclass(frozen=True, slots=True)
class Retry:
    """That a failed step is tried again: after so many seconds, as attempt `attempt` of at most `max_attempts`."""

    seconds: float
    attempt: int
    max_attempts: int


def policies_of(given: object) -> tuple[RetryPolicy, ...]:
    """The policies of a step; without any it is tried once."""
    if given is None or isinstance(given, RetryPolicy):
        return (given or RetryPolicy(),)
    if not isinstance(given, Sequence) or not all(isinstance(policy, RetryPolicy) for policy in given):
        raise PipelineDefinitionError(f"retry is a RetryPolicy or a list of them, not {given!r}.")
    return tuple(given)


def retry_after(
    policies: Sequence[RetryPolicy], error: Exception, *, failures: int, randomness: float, now: datetime
) -> Retry | None:
    """What follows from the step's error, its `failures`-th; None when it is not tried again.

    The first policy that is for this error decides. All failures of the step count, whatever their errors were.
    """
    policy = next((policy for policy in policies if isinstance(error, policy.retry_on)), None)
    if policy is None or isinstance(error, (FINAL, policy.no_retry_on)):
        return None
    seconds = policy.delay(failures, randomness)
    if seconds is None:
        return None
    if isinstance(error, RetryAfter):
        seconds = error.seconds(now)
    return Retry(seconds, failures + 1, policy.retries + 1)
