"""One step of a run: what went in, what came out, and each attempt at it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.http import Http404
from flujo.errors import PipelineNotFound
from flujo.redaction import given
from flujo.status import Wait, WaitStatus
from flujo.transitions.lineage import NO_FENCE

from runs import access
from runs.models import Attempt, Checkpoint, Decision, HumanTask, Run, RunInput, RunWait, StepReport
from runs.queries import step_reports
from runs.queries.payload import HIDDEN_ERROR, Payload, payload
from runs.queries.run_detail import last_own_frame, shape_of, traceback_of
from runs.queries.run_header import RunHeader, header
from runs.queries.step_reports import Log, ProgressLine, progress_of
from runs.queries.waits import WaitLine, line_of
from runs.registry import registry
from runs.secrets import secrets_of, shown_text


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try; `state` is a word of `display.STATE_BADGES`."""

    number: int
    state: str
    started_at: datetime
    seconds: float | None
    error_type: str
    error_message: str
    frame: str
    traceback: str
    progress: ProgressLine | None


@dataclass(frozen=True, slots=True)
class Question:
    """One generation of the human task at this step, and the decision that closed it."""

    task: HumanTask
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class StepPage:
    """All that the step's page shows; `earlier` and `later` are the neighbours' paths."""

    header: RunHeader
    path: str
    number: int | None
    count: int
    description: str
    kind: str
    waits: list[RunWait]
    retry: WaitLine | None
    saved: Checkpoint | None
    seconds: float | None
    given: Payload
    output: Payload
    attempts: list[AttemptRow]
    questions: list[Question]
    log: Log | None
    earlier: str
    later: str

    @property
    def taken_over(self) -> bool:
        """Whether the checkpoint came with the fork, from another run."""
        return self.saved is not None and self.saved.fence == NO_FENCE

    @property
    def why_no_input(self) -> str:
        """What stands in place of an input that is not stored by itself."""
        return "Known once the step before it is saved." if self.number else "The step around it passes it on."


def page(user: access.User, run: Run, path: str, *, attempt: int = 0) -> StepPage:
    """The page of the step at `path`, with the log of one attempt, the newest if none is named.

    Raises `Http404` when the run has no such step.
    """
    head = header(user, run)
    shape = shape_of(run)
    names = [node["name"] for node in shape]
    saved = Checkpoint.objects.filter(run=run, path=path).first()
    attempts = list(Attempt.objects.filter(run=run, path=path).order_by("number"))
    tasks = list(HumanTask.objects.filter(run=run, path=path).defer("schema").order_by("generation"))
    decisions = {answer.generation: answer for answer in Decision.objects.filter(run=run, path=path)}
    every_wait = list(RunWait.objects.filter(run=run, path=path).order_by("generation"))
    waits = [wait for wait in every_wait if wait.kind != Wait.RETRY]
    retry = [wait for wait in every_wait if wait.kind == Wait.RETRY and wait.status == WaitStatus.OPEN]
    if path not in names and not (saved or attempts or tasks or waits):
        raise Http404("This run has no such step.")
    reports = step_reports.reports_of(run, path)
    place = names.index(path) if path in names else None
    received = tasks[-1].evidence if tasks else _input(run, names, place)
    before = "" if place == 0 else names[place - 1] if place else None
    secrets = secrets_of(run)
    return StepPage(
        header=head,
        path=path,
        number=None if place is None else place + 1,
        count=len(names),
        description=_description(run, path),
        kind=shape[place]["kind"] if place is not None else _kind(tasks, waits),
        waits=waits,
        retry=line_of(retry[0]) if retry else None,
        saved=saved,
        seconds=(saved.finished_at - saved.started_at).total_seconds() if saved else None,
        given=payload(
            received,
            shown=head.shows_values,
            secrets=secrets,
            path=given(path) if tasks else before,
            source=before,
        ),
        output=payload(
            saved.output if saved else None, shown=head.shows_values, secrets=secrets, path=path, source=path
        ),
        attempts=[_attempt(run, row, saved, head, reports.get(row.number)) for row in attempts],
        questions=[Question(task, decisions.get(task.generation)) for task in tasks],
        log=step_reports.log(run, path, attempts, saved, reports, attempt=attempt, shown=head.shows_values),
        earlier=names[place - 1] if place else "",
        later=names[place + 1] if place is not None and place + 1 < len(names) else "",
    )


def output_of(run: Run, path: str) -> str | None:
    """The output of a step as JSON, without what is secret, or that it is `Sealed`; None when none is saved."""
    saved = Checkpoint.objects.filter(run=run, path=path).first()
    return None if saved is None else shown_text(saved.output, secrets_of(run), path)


def input_of(run: Run) -> str | None:
    """What the run was started on as JSON, without what is secret, or that it is `Sealed`."""
    text = RunInput.objects.filter(run=run).values_list("input", flat=True).first()
    return None if text is None else shown_text(text, secrets_of(run), "")


def log_of(run: Run, path: str, *, attempt: int, after: int, shown: bool) -> Log | None:
    """The log of an attempt behind the chunk `after`; None when the step has none."""
    saved = Checkpoint.objects.filter(run=run, path=path).first()
    attempts = list(Attempt.objects.filter(run=run, path=path).order_by("number"))
    reports = step_reports.reports_of(run, path)
    return step_reports.log(run, path, attempts, saved, reports, attempt=attempt, after=after, shown=shown)


def _kind(tasks: list[HumanTask], waits: list[RunWait]) -> str:
    """The kind of a step inside another one, by what it left."""
    return waits[-1].kind if waits else "human_task" if tasks else "step"


def _input(run: Run, names: list[str], place: int | None) -> str | None:
    """The output of the step before, or the run's input; None for a step inside another one, whose input is its own."""
    if place is None:
        return None
    if place == 0:
        return RunInput.objects.filter(run=run).values_list("input", flat=True).first()
    return Checkpoint.objects.filter(run=run, path=names[place - 1]).values_list("output", flat=True).first()


def _attempt(
    run: Run, attempt: Attempt, saved: Checkpoint | None, head: RunHeader, report: StepReport | None
) -> AttemptRow:
    made_it = saved is not None and saved.attempt == attempt.number
    finished = saved.finished_at if saved and made_it else attempt.finished_at
    traceback = traceback_of(attempt)
    in_progress = "stalled" if head.stalled else run.status if run.active else "lost"
    return AttemptRow(
        number=attempt.number,
        state="completed" if made_it else attempt.outcome or in_progress,
        started_at=attempt.started_at,
        seconds=((finished or head.now) - attempt.started_at).total_seconds(),
        error_type=attempt.error_type,
        error_message=attempt.error_message if head.shows_values else HIDDEN_ERROR,
        frame=last_own_frame(traceback)[0],
        traceback=traceback if head.shows_values else "",
        progress=progress_of(report, shown=head.shows_values),
    )


def _description(run: Run, path: str) -> str:
    """What the step's code says of itself, where this process has the run's code."""
    try:
        entry = registry.get(run.pipeline, run.version)
    except PipelineNotFound:
        return ""
    if entry.fingerprint != run.fingerprint:
        return ""
    return node.description if (node := entry.pipeline.find(path)) else ""
