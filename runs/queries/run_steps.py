"""The steps of a run as its page lists them: state, attempts and time of each, in the order of the pipeline."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db.models import Case, IntegerField, Model, QuerySet, Value, When
from flujo.paths import MIGRATION
from flujo.status import AttemptOutcome, DecisionOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait, WaitStatus
from flujo.transitions.lineage import NO_FENCE

from runs.artefacts import beginnings
from runs.encryption import beginning
from runs.models import Attempt, AuditEvent, Checkpoint, Decision, HumanTask, Run, RunWait, StepReport
from runs.queries.step_reports import ProgressLine, progress_of, without_note
from runs.queries.timeline import Bar, Span, Timeline
from runs.queries.waits import WaitLine, line_of
from runs.secrets import secrets_of, shown_beginning

INSIDE = re.compile(r"^([^/\[#]+)/?(.*)$", re.DOTALL)
"""A path's own step of the pipeline, and the rest."""
NOTED = re.compile(r"#(choice|verdict)$")
"""What a branch or a loop decided, saved beside its steps."""
NUMBERED = re.compile(r"^[^/\[#]+[\[#](\d+)")
"""A path inside a map or a loop, with the number of its item or iteration."""
M = TypeVar("M", bound=Model)
PREVIEW = 140
BOUND = 500
"""The most rows of each kind: those of the pipeline's own steps first, then the newest ones inside them."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step; `number` is its place in the pipeline, None for a step inside another one."""

    path: str
    name: str
    number: int | None
    kind: str
    state: str
    is_next: bool
    attempts: int
    started_at: datetime | None
    seconds: float | None
    preview: str
    note: str
    until: WaitLine | None
    progress: ProgressLine | None
    error: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Steps:
    """All steps, and the idle time that their bars leave out."""

    rows: list[StepRow]
    folded_seconds: float
    cut: bool
    failed: Failure | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Where a failed run stopped, with the attempt that failed there; `child` is the run that failed in its stead."""

    path: str
    attempt: Attempt | None
    child: str


@dataclass(slots=True)
class _Traces:
    """What a run left at one path."""

    checkpoint: Checkpoint | None = None
    attempts: list[Attempt] = field(default_factory=list)
    task: HumanTask | None = None
    decision: Decision | None = None
    wait: RunWait | None = None
    retries: list[RunWait] = field(default_factory=list)
    reports: dict[int, StepReport] = field(default_factory=dict)

    @property
    def report(self) -> StepReport | None:
        """What the newest attempt says of itself, until it has its checkpoint."""
        return self.reports.get(self.attempts[-1].number) if self.attempts and self.checkpoint is None else None

    @property
    def open_wait(self) -> RunWait | None:
        """What is waited for now, if anything is."""
        newest = self.retries[-1] if self.retries else self.wait
        return newest if newest is not None and newest.status == WaitStatus.OPEN else None

    @property
    def kind(self) -> str:
        """The kind of step that leaves such traces."""
        return self.wait.kind if self.wait else "human_task" if self.task else "step"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands: its path, its number unless it is inside a step, whether something inside it has `begun`."""

    path: str
    number: int | None
    kind: str
    begun: bool = False


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all rows of one page share."""

    run: Run
    now: datetime
    stalled: bool
    failed_at: str


def steps(run: Run, shape: list[dict[str, Any]], *, now: datetime, stalled: bool, shows_values: bool) -> Steps:
    """The rows of `run`, whose pipeline has `shape`, in six queries, and one more if it failed."""
    scene, traces, cut = _Scene(run, now, stalled, _failed_at(run)), *_collect(run, [node["name"] for node in shape])
    spans, secrets = {path: _spans(trace, now) for path, trace in traces.items()}, secrets_of(run)
    line = _timeline(run, spans)
    rows = []
    for place in _places(shape, traces):
        bars = [line.bar(since, until, tone) for (since, until), tone in spans.get(place.path, [])]
        row = replace(_row(scene, place, traces.get(place.path, _Traces())), bars=bars)
        shown = replace(row, preview=shown_beginning(row.preview, secrets, row.path))
        rows.append(shown if shows_values else _without_values(row))
    folded = sum((until - since).total_seconds() for since, until in line.folded)
    return Steps(rows, folded, cut, _failure(scene, traces))


def _without_values(row: StepRow) -> StepRow:
    return replace(row, preview="", error=row.error.partition(":")[0], progress=without_note(row.progress))


def _timeline(run: Run, spans: dict[str, list[tuple[Span, str]]]) -> Timeline:
    """The scale of all rows; waiting is idle time."""
    every = [span for each in spans.values() for span, _ in each]
    busy = [span for each in spans.values() for span, tone in each if tone not in {"wait", "waiting", "whole"}]
    start = min((since for since, _ in every), default=run.created_at)
    return Timeline(busy, start=start, end=max((until for _, until in every), default=start))


def _collect(run: Run, tops: list[str]) -> tuple[dict[str, _Traces], bool]:
    """What is stored at each path, and whether some of what happened inside steps was left out."""
    traces: dict[str, _Traces] = defaultdict(_Traces)
    outputs = Checkpoint.objects.filter(run=run).exclude(path__startswith=MIGRATION).defer("output", "context_changes")
    checkpoints: list[Any] = _newest(outputs.annotate(preview=beginning("output", PREVIEW + 1)), tops, "seq")
    large = beginnings([checkpoint.preview for checkpoint in checkpoints], PREVIEW + 1)
    attempts = _newest(Attempt.objects.filter(run=run), tops, "started_at", "number")
    tasks = _newest(HumanTask.objects.filter(run=run).defer("evidence", "schema"), tops, "generation")
    decisions = _newest(Decision.objects.filter(run=run), tops, "generation")
    waits = _newest(RunWait.objects.filter(run=run), tops, "generation")
    for checkpoint in checkpoints:
        checkpoint.preview = large.get(checkpoint.preview, checkpoint.preview)
        traces[checkpoint.path].checkpoint = checkpoint
    for attempt in attempts:
        traces[attempt.path].attempts.append(attempt)
    for task in tasks:
        traces[task.path].task = task
    for decision in decisions:
        traces[decision.path].decision = decision
    for wait in waits:
        if wait.kind == Wait.RETRY:
            traces[wait.path].retries.append(wait)
        else:
            traces[wait.path].wait = wait
    for report in _newest(StepReport.objects.filter(run=run), tops, "reported_at"):
        if report.path in traces:
            traces[report.path].reports[report.attempt] = report
    return traces, BOUND in (len(checkpoints), len(attempts), len(tasks), len(waits))


def _newest(rows: QuerySet[M], tops: list[str], *order: str) -> list[M]:
    """The rows at the pipeline's own steps and the newest inside them, oldest first."""
    inside = Case(When(path__in=tops, then=Value(0)), default=Value(1), output_field=IntegerField())
    return list(rows.order_by(inside, *(f"-{field}" for field in order))[:BOUND])[::-1]


def _places(shape: list[dict[str, Any]], traces: dict[str, _Traces]) -> list[_Place]:
    """Paths in the pipeline's order; paths inside a step follow it by item or iteration, then as they happened."""
    inner = defaultdict(list)
    tops = {node["name"] for node in shape}
    for path, trace in sorted(traces.items(), key=_order):
        if path not in tops:
            inner[INSIDE.sub(r"\1", path)].append(_Place(path, None, trace.kind))
    places = []
    for number, node in enumerate(shape, start=1):
        inside = inner.pop(node["name"], [])
        places += [_Place(node["name"], number, node["kind"], begun=bool(inside)), *inside]
    return places + [place for left_over in inner.values() for place in left_over]


def _order(found: tuple[str, _Traces]) -> tuple[int, datetime, str]:
    """Items of a map and iterations of a loop by their number; what holds others before what it holds."""
    path, trace = found
    numbered = NUMBERED.match(path)
    started = trace.checkpoint.started_at if trace.checkpoint else _started(trace)
    return int(numbered[1]) if numbered else -1, started or datetime.max.replace(tzinfo=UTC), path


def _row(scene: _Scene, place: _Place, trace: _Traces) -> StepRow:
    saved = trace.checkpoint
    started = _started(trace)
    return StepRow(
        path=place.path,
        name=place.path if place.number else NOTED.sub(r" \1", INSIDE.sub(r"\2", place.path)).strip(),
        number=place.number,
        kind=place.kind,
        state=_state(scene, place, trace),
        is_next=place.number == scene.run.step_index + 1 and scene.run.active,
        attempts=len(trace.attempts),
        started_at=started,
        seconds=(_end(trace, scene.now) - started).total_seconds() if started else None,
        preview=_preview(saved),
        note=_note(place, trace),
        until=line_of(waits) if (waits := trace.open_wait) else None,
        progress=progress_of(trace.report, shown=True),
        error=_error(scene, place, trace),
        bars=[],
    )


def _started(trace: _Traces) -> datetime | None:
    if trace.task:
        return trace.task.raised_at
    if trace.wait:
        return trace.wait.began_at
    if trace.attempts:
        return trace.attempts[0].started_at
    return trace.checkpoint.started_at if trace.checkpoint else None


def _error(scene: _Scene, place: _Place, trace: _Traces) -> str:
    """What the newest attempt failed of; where none was made, what the run failed of here."""
    last = trace.attempts[-1] if trace.attempts else None
    if last is not None:
        return f"{last.error_type}: {last.error_message}" if last.error_type and not trace.checkpoint else ""
    run = scene.run
    return f"{run.error_type}: {run.error_message}" if place.path == scene.failed_at and run.error_type else ""


def _note(place: _Place, trace: _Traces) -> str:
    """Who decided, that nobody had to, that it came from another run, or how often it was tried."""
    if _taken_over(trace):
        return "taken over"
    if trace.decision is not None:
        return f"by {trace.decision.actor or 'a program'}"
    if place.kind == "human_task" and trace.checkpoint is not None and trace.task is None:
        return "nobody was asked"
    return f"{len(trace.attempts)} attempts" if len(trace.attempts) > 1 else ""


def _taken_over(trace: _Traces) -> bool:
    """Whether a fork got the checkpoint from the run it comes from: no worker of its own made it."""
    return trace.checkpoint is not None and trace.checkpoint.fence == NO_FENCE


def _preview(saved: Checkpoint | None) -> str:
    text: str = getattr(saved, "preview", "") if saved else ""
    return text if len(text) <= PREVIEW else text[:PREVIEW] + "…"


def _end(trace: _Traces, now: datetime) -> datetime:
    if trace.task:
        return trace.task.closed_at or now
    if trace.wait:
        return trace.wait.ended_at or now
    if trace.checkpoint:
        return trace.checkpoint.finished_at
    return (trace.attempts[-1].finished_at if trace.attempts else None) or now


def _state(scene: _Scene, place: _Place, trace: _Traces) -> str:
    """The word of `display.STATE_BADGES` that says how the step stands."""
    if trace.task is not None:
        return _state_of_question(trace.task, trace.decision)
    if trace.checkpoint is not None:
        return RunStatus.COMPLETED
    if trace.wait is not None:
        closed = trace.wait.status == WaitStatus.CLOSED
        return RunStatus.FAILED if closed and place.path == scene.failed_at else _STATES_OF_WAITS[trace.wait.status]
    if trace.open_wait is not None:
        return "retrying"
    if not trace.attempts:
        return _state_of_the_run(scene) if place.begun else "not_started"
    last = trace.attempts[-1]
    if last.outcome is not None:
        return str(last.outcome)
    if scene.run.status == RunStatus.RUNNING:
        return "stalled" if scene.stalled else RunStatus.RUNNING
    return RunStatus.CANCELLED if scene.run.status == RunStatus.CANCELLED else AttemptOutcome.LOST


def _state_of_the_run(scene: _Scene) -> str:
    """How a step stands that holds others, some of which have begun: as its run does."""
    if scene.stalled:
        return "stalled"
    return _STATES_OF_PAUSES.get(scene.run.wait or "", str(scene.run.status))


_STATES_OF_PAUSES: dict[str, str] = {
    Wait.HUMAN_TASK: "needs_person",
    Wait.TIMER: "waiting",
    Wait.SIGNAL: "waiting",
    Wait.CHILD: "waiting",
    Wait.RETRY: "retrying",
    Wait.OPERATOR: Outcome.NEEDS_ATTENTION,
}


_STATES_OF_WAITS: dict[str, str] = {
    WaitStatus.OPEN: "waiting",
    WaitStatus.OVER: RunStatus.COMPLETED,
    WaitStatus.EXPIRED: Outcome.EXPIRED,
    WaitStatus.CLOSED: TaskStatus.CLOSED,
}


def _state_of_question(task: HumanTask, decision: Decision | None) -> str:
    if decision is None or task.status != TaskStatus.DECIDED:
        return str(task.status)
    if decision.outcome == DecisionOutcome.REJECTED:
        return str(decision.outcome)
    if task.kind == "bool":
        return DecisionOutcome.APPROVED if decision.data != "false" else "answered"
    return "answered"


def _spans(trace: _Traces, now: datetime) -> list[tuple[Span, str]]:
    """When something happened at the path, and in which tone it is drawn."""
    if _taken_over(trace):
        return []  # it happened in another run
    if trace.task is not None:
        return [((trace.task.raised_at, trace.task.closed_at or now), "wait")]
    if trace.wait is not None:
        return [((trace.wait.began_at, trace.wait.ended_at or now), "waiting")]
    if trace.checkpoint is not None and not trace.attempts:
        return [((trace.checkpoint.started_at, trace.checkpoint.finished_at), "whole")]
    done = trace.checkpoint.attempt if trace.checkpoint else None
    spans = [((wait.began_at, wait.ended_at or now), "waiting") for wait in trace.retries]
    for attempt in trace.attempts:
        saved = trace.checkpoint if attempt.number == done else None
        until = saved.finished_at if saved else attempt.finished_at or now
        tone = "done" if saved else attempt.outcome or "running"
        spans.append(((attempt.started_at, max(until, attempt.started_at)), str(tone)))
    return spans


def _failed_at(run: Run) -> str:
    """The path at which a failed run stopped, by its history; "" for any other."""
    if run.status != RunStatus.FAILED:
        return ""
    ends = AuditEvent.objects.filter(run_id=run.pk, kind=EventKind.RUN_FAILED).order_by("-seq")
    return ends.values_list("path", flat=True).first() or run.step_name


def _failure(scene: _Scene, traces: dict[str, _Traces]) -> Failure | None:
    if scene.run.status != RunStatus.FAILED:
        return None
    trace = traces.get(scene.failed_at, _Traces())
    child = trace.wait.name if trace.wait is not None and trace.wait.kind == Wait.CHILD else ""
    return Failure(scene.failed_at, trace.attempts[-1] if trace.attempts else None, child)
