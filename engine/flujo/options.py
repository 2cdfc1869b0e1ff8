"""The options of the runner's blocking calls, which are those of their asynchronous twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Required, TypedDict

from flujo.status import OnChange


class StartOptions(TypedDict, total=False):
    """Those of `Flujo.run_async`."""

    initial_context_data: dict[str, Any] | None
    run_id: str | None
    title: str
    owner: str
    requester: str
    tags: Sequence[str]
    idempotency_key: str | None
    priority: int | None
    on_change: OnChange | str | None


class ActOptions(TypedDict, total=False):
    """Those of `Flujo.retry_async`, `cancel_async` and `unpark_async`: who acts, and why."""

    actor: str
    reason: str


class RerunOptions(ActOptions, total=False):
    """Those of `Flujo.rerun_async`."""

    version: str | None
    new_run_id: str | None


class ForkOptions(ActOptions, total=False):
    """Those of `Flujo.fork_async`."""

    from_step: Required[str]
    context: dict[str, Any] | None
    new_run_id: str | None


class AnswerOptions(ActOptions, total=False):
    """Those of `Flujo.resume_async`."""

    step: str | None


class SignalOptions(TypedDict, total=False):
    """Those of `Flujo.signal_async`."""

    message_id: str | None
    actor: str
