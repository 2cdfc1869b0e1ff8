"""One run: its page, its context, its history, its steps; a deleted run's address answers with its tombstone."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from flujo.errors import RunDeleted, RunNotFound

from runs import access
from runs.models import Run
from runs.queries import run_context, run_detail, run_header, run_history, run_step
from runs.views.errors import hidden, record_early

P = ParamSpec("P")
NOT_CHANGED = 204


def with_run(view: Callable[Concatenate[HttpRequest, Run, P], HttpResponse]) -> Callable[..., HttpResponse]:
    """Hand `view` the run that the address names, or answer 410 where it was deleted, else 404."""

    @wraps(view)
    def found(request: HttpRequest, run_id: str, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        run = access.visible_to(request.user).filter(pk=run_id).first()
        return _gone(request, run_id) if run is None else view(request, run, *args, **kwargs)

    return found


def _gone(request: HttpRequest, run_id: str) -> HttpResponse:
    tombstone = access.visible_tombstones(request.user).filter(pk=run_id).first()
    if tombstone is None:
        raise hidden(request, RunNotFound("No such run."), run_id=run_id)
    if request.method == "POST":
        record_early(request, RunDeleted(f"Run {run_id} was deleted."), run_id=run_id)
    return render(request, "run/tombstone.html", {"nav": "runs", "tombstone": tombstone}, status=410)


@require_safe
@cache_control(no_store=True)
@with_run
def detail(request: HttpRequest, run: Run) -> HttpResponse:
    page = run_detail.page(request.user, run)
    return render(request, "run/detail.html", {"nav": "runs", "page": page, "header": page.header, "tab": "steps"})


@require_safe
@cache_control(no_store=True)
@with_run
def fragment(request: HttpRequest, run: Run) -> HttpResponse:
    if run_header.rev(request.user, run) == request.GET.get("rev"):
        return HttpResponse(status=NOT_CHANGED)
    page = run_detail.page(request.user, run)
    return render(request, "run/_fragment.html", {"page": page, "header": page.header})


@require_safe
@cache_control(no_store=True)
@with_run
def context(request: HttpRequest, run: Run) -> HttpResponse:
    page = run_context.page(request.user, run, request.GET.get("at", ""))
    return _page(request, "run/context.html", page, "context")


@require_safe
@cache_control(no_store=True)
@with_run
def history(request: HttpRequest, run: Run) -> HttpResponse:
    page = run_history.page(request.user, run, request.GET.get("before", ""))
    return _page(request, "run/history.html", page, "history")


@require_safe
@cache_control(no_store=True)
@with_run
def step(request: HttpRequest, run: Run, step_path: str) -> HttpResponse:
    page = run_step.page(request.user, run, step_path, attempt=count(request.GET.get("attempt", "")))
    return _page(request, "run/step.html", page, "steps")


def count(text: str) -> int:
    """A number in an address; 0 for what is none."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


AnyPage = run_context.ContextPage | run_history.HistoryPage | run_step.StepPage


def _page(request: HttpRequest, template: str, page: AnyPage, tab: str) -> HttpResponse:
    status = 422 if getattr(page, "problem", "") else 200
    return render(request, template, {"nav": "runs", "page": page, "header": page.header, "tab": tab}, status=status)
