"""The answer to an error of the engine: one table from its code to the HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from flujo.errors import FlujoError, InvalidInput

from runs.registry import registry
from runs.services import refusals
from runs.services.origin import origin_of

STATUS = {
    "not_allowed": 403,
    "human_task_not_found": 404,
    "run_not_found": 404,
    "pipeline_not_found": 404,
    "signal_unknown": 404,
    "already_decided": 409,
    "stale_decision": 409,
    "illegal_transition": 409,
    "run_not_paused": 409,
    "run_waits": 409,
    "run_finished": 409,
    "run_failed": 409,
    "run_cancelled": 409,
    "run_active": 409,
    "run_conflict": 409,
    "idempotency_conflict": 422,
    "at_max_concurrency": 409,
    "run_is_leased": 409,
    "fenced": 409,
    "pipeline_changed": 409,
    "migration_refused": 409,
    "human_task_closed": 410,
    "human_task_expired": 410,
    "run_deleted": 410,
    "invalid_answer": 422,
    "invalid_input": 422,
    "invalid_run_id": 422,
    "unstorable_value": 422,
    "ambiguous_answer": 409,
    "key_missing": 409,
    "backend_error": 503,
    "backend_busy": 503,
    "outcome_unknown": 503,
}


def status_of(error: FlujoError) -> int:
    """The HTTP status of an error; one the table doesn't know is the server's own fault."""
    return STATUS.get(error.code, 500)


def hidden(request: HttpRequest, error: FlujoError, **named: str) -> Http404:
    """The 404 for what is not there, or not for this user; whoever tried to act on what is there is recorded."""
    if request.method == "POST" and named.get("pipeline") in (None, *registry.names()):
        record_early(request, error, **named)
    return Http404(error.message)


def incomplete(request: HttpRequest, template: str, context: Mapping[str, Any], **named: str) -> HttpResponse:
    """422 for a form that is not filled in as it must be. It is recorded that, not with what."""
    record_early(request, InvalidInput(), **named)
    return render(request, template, context, status=status_of(InvalidInput()))


def record_early(request: HttpRequest, refusal: FlujoError, **named: str) -> None:
    """Record what a page refuses before it asks a service, under the name of its address."""
    name = request.resolver_match.url_name if request.resolver_match else None
    actor, verb = request.user.get_username(), (name or "").removeprefix("run_").removeprefix("pipeline_")
    refusals.record(verb, refusal, actor=actor, origin=origin_of(request), **named)


def respond(
    request: HttpRequest, error: FlujoError, template: str, context: Mapping[str, Any] | None = None
) -> HttpResponse:
    """`template` with the error in its context as `error`, `error_status` and its own status."""
    status = status_of(error)
    return render(request, template, {**(context or {}), "error": error, "error_status": status}, status=status)
