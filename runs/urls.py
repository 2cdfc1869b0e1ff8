"""The console's addresses, grouped by resource."""

from collections.abc import Sequence

from django.contrib.auth.decorators import login_required
from django.urls import URLPattern, path

from runs.views import (
    audit,
    downloads,
    home,
    human_tasks,
    inbox,
    pipelines,
    run,
    run_cancel,
    run_fork,
    run_log,
    run_rerun,
    run_retry,
    run_signal,
    run_unpark,
    runs,
    schedules,
    session,
    state,
)

app_name = "runs"

_inbox = [
    path("inbox/", inbox.index, name="inbox"),
    path("inbox/next/", inbox.next_open, name="inbox_next"),
    path("inbox/<int:task_id>/", human_tasks.detail, name="human_task"),
    path("inbox/<int:task_id>/evidence.json", downloads.evidence, name="human_task_evidence"),
    path("inbox/<int:task_id>/answer.json", downloads.answer, name="human_task_answer"),
    path("inbox/<int:task_id>/decide/", human_tasks.decide, name="human_task_decide"),
    path("_f/inbox/", inbox.fragment, name="f_inbox"),
    path("_f/inbox/<int:task_id>/", human_tasks.fragment, name="f_human_task"),
]

_runs = [
    path("runs/", runs.index, name="runs"),
    path("runs/<str:run_id>/", run.detail, name="run"),
    path("runs/<str:run_id>/input.json", downloads.start, name="run_input"),
    path("runs/<str:run_id>/context/", run.context, name="run_context"),
    path("runs/<str:run_id>/context/<path:field>.json", downloads.context_field, name="run_context_field"),
    path("runs/<str:run_id>/history/", run.history, name="run_history"),
    path("runs/<str:run_id>/cancel/", run_cancel.cancel, name="run_cancel"),
    path("runs/<str:run_id>/retry/", run_retry.retry, name="run_retry"),
    path("runs/<str:run_id>/rerun/", run_rerun.rerun, name="run_rerun"),
    path("runs/<str:run_id>/fork/", run_fork.fork, name="run_fork"),
    path("runs/<str:run_id>/unpark/", run_unpark.unpark, name="run_unpark"),
    path("runs/<str:run_id>/signals/<str:signal_name>/", run_signal.signal, name="run_signal"),
    path("runs/<str:run_id>/steps/<path:step_path>/output.json", downloads.output, name="run_step_output"),
    path("runs/<str:run_id>/steps/<path:step_path>/", run.step, name="run_step"),
    path("_f/runs/", runs.fragment, name="f_runs"),
    path("_f/runs/<str:run_id>/", run.fragment, name="f_run"),
    path("_f/runs/<str:run_id>/log/<path:step_path>/", run_log.tail, name="f_run_log"),
]

_pipelines = [
    path("pipelines/", pipelines.index, name="pipelines"),
    path("pipelines/<str:name>/", pipelines.detail, name="pipeline"),
    path("pipelines/<str:name>/start/", pipelines.start, name="pipeline_start"),
    path("pipelines/<str:name>/schedules/new/", schedules.new, name="schedule_new"),
    path("pipelines/<str:name>/schedules/<int:schedule_id>/", schedules.change, name="schedule"),
    path(
        "pipelines/<str:name>/schedules/<int:schedule_id>/off/",
        schedules.switch,
        {"enabled": False},
        name="schedule_off",
    ),
    path(
        "pipelines/<str:name>/schedules/<int:schedule_id>/on/",
        schedules.switch,
        {"enabled": True},
        name="schedule_on",
    ),
    path("pipelines/<str:name>/schedules/<int:schedule_id>/delete/", schedules.delete, name="schedule_delete"),
]

_audit = [
    path("audit/", audit.index, name="audit"),
    path("audit/export.csv", audit.export, name="audit_export"),
    path("audit/verify/", audit.verify, name="audit_verify"),
]

_state = [
    path("state/", state.index, name="state"),
    path("state/cleanup/", state.cleanup, name="state_cleanup"),
]

_session = [
    path("healthz", session.healthz, name="healthz"),
    path("_f/session/", session.fragment, name="f_session"),
    path("_f/nav/", session.nav, name="f_nav"),
]


def _signed_in(patterns: Sequence[URLPattern]) -> list[URLPattern]:
    """Every page needs a sign-in unless its view says otherwise, whatever middleware the project has."""
    for pattern in patterns:
        if getattr(pattern.callback, "login_required", True):
            pattern.callback = login_required(pattern.callback)
    return list(patterns)


urlpatterns = _signed_in([path("", home.home, name="home"), *_inbox, *_runs, *_pipelines, *_audit, *_state, *_session])
