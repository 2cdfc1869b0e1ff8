"""Downloads of single values, of which the pages show only the beginning when they are large."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.http import content_disposition_header
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from runs import access
from runs.encryption import Sealed
from runs.models import Run
from runs.queries import human_task, run_context, run_step
from runs.views.run import with_run


@require_safe
@cache_control(no_store=True)
@with_run
def output(request: HttpRequest, run: Run, step_path: str) -> HttpResponse:
    """What a step gave."""
    text = run_step.output_of(run, step_path) if access.may(request.user, "view_context", run.pipeline) else None
    if text is None:
        raise Http404("No such output.")
    return _file(f"{run.run_id}-{step_path}", text)


@require_safe
@cache_control(no_store=True)
@with_run
def start(request: HttpRequest, run: Run) -> HttpResponse:
    """What a run was started on."""
    text = run_step.input_of(run) if access.may(request.user, "view_context", run.pipeline) else None
    if text is None:
        raise Http404("No such input.")
    return _file(f"{run.run_id}-input", text)


@require_safe
@cache_control(no_store=True)
@with_run
def context_field(request: HttpRequest, run: Run, field: str) -> HttpResponse:
    """One field of the context, as it was when the step index `at` was saved; now, without one."""
    may_see = access.may(request.user, "view_context", run.pipeline)
    text = run_context.field_of(run, request.GET.get("at", ""), field) if may_see else None
    if text is None:
        raise Http404("No such field.")
    return _file(f"{run.run_id}-{field}", text)


@require_safe
@cache_control(no_store=True)
def answer(request: HttpRequest, task_id: int) -> HttpResponse:
    """What was answered to a request: by the one whose vote is asked for, else as it was decided."""
    task = access.get_task_or_404(request.user, task_id)
    may_see = human_task.sees_values(request.user, task)
    text = human_task.answer_of(task, request.GET.get("by", "")) if may_see else None
    if text is None:
        raise Http404("No such answer.")
    return _file(f"{task.run_id}-{task.path}-answer", text)


@require_safe
@cache_control(no_store=True)
def evidence(request: HttpRequest, task_id: int) -> HttpResponse:
    """What a request is about."""
    task = access.get_task_or_404(request.user, task_id)
    text = human_task.evidence_of(task) if human_task.sees_values(request.user, task) else None
    if text is None:
        raise Http404("No such evidence.")
    return _file(f"{task.run_id}-{task.path}-evidence", text)


def _file(name: str, text: str) -> HttpResponse:
    """JSON as a file that no browser opens as a page; where it is sealed, 409 and the sentence that says so."""
    if isinstance(text, Sealed):
        return HttpResponse(text, status=409, content_type="text/plain; charset=utf-8")
    disposition = content_disposition_header(as_attachment=True, filename=f"{name.replace('/', '-')}.json")
    headers = {
        "Content-Disposition": disposition or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    return HttpResponse(text, content_type="application/json", headers=headers)
