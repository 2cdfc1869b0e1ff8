"""The steps of a run as its page lists them: state, attempts and time of each, in the order of the pipeline."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.db.models.functions import Substr
from flujo.status import AttemptOutcome, DecisionOutcome, RunStatus, TaskStatus

from runs.models import Attempt, Checkpoint, Decision, HumanTask, Run
from runs.queries.timeline import Bar, Span, Timeline

PREVIEW = 140


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step; `number` is its place in the pipeline, None for a step inside another one."""

    path: str
    name: str
    number: int | None
    is_human: bool
    state: str
    is_next: bool
    attempts: int
    started_at: datetime | None
    seconds: float | None
    preview: str
    actor: str
    task_id: int | None
    error: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Steps:
    """All steps, and the idle time that their bars leave out."""

    rows: list[StepRow]
    folded_seconds: float
    failed: Attempt | None


@dataclass(slots=True)
class _Traces:
    """What a run left at one path."""

    checkpoint: Checkpoint | None = None
    attempts: list[Attempt] = field(default_factory=list)
    task: HumanTask | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands: its path, and its number in the pipeline unless it is inside a step."""

    path: str
    number: int | None
    is_human: bool


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all rows of one page share."""

    run: Run
    now: datetime
    stalled: bool


def steps(run: Run, shape: list[dict[str, Any]], *, now: datetime, stalled: bool, shows_values: bool) -> Steps:
    """The rows of `run`, whose pipeline has `shape`, in four queries."""
    scene, traces = _Scene(run, now, stalled), _collect(run)
    spans = {path: _spans(trace, now) for path, trace in traces.items()}
    line = _timeline(run, traces, spans)
    rows = []
    for place in _places(shape, traces):
        bars = [line.bar(since, until, tone) for (since, until), tone in spans.get(place.path, [])]
        row = replace(_row(scene, place, traces.get(place.path, _Traces())), bars=bars)
        rows.append(row if shows_values else replace(row, preview=""))
    folded = sum((until - since).total_seconds() for since, until in line.folded)
    return Steps(rows, folded, _failed(run, traces))


def _timeline(run: Run, traces: dict[str, _Traces], spans: dict[str, list[tuple[Span, str]]]) -> Timeline:
    """The scale of all rows; waiting for a person is idle time."""
    every = [span for each in spans.values() for span, _ in each]
    busy = [span for path, each in spans.items() if traces[path].task is None for span, _ in each]
    start = min((since for since, _ in every), default=run.created_at)
    return Timeline(busy, start=start, end=max((until for _, until in every), default=start))


def _collect(run: Run) -> dict[str, _Traces]:
    traces: dict[str, _Traces] = defaultdict(_Traces)
    outputs = Checkpoint.objects.filter(run=run).defer("output", "context_changes")
    for checkpoint in outputs.annotate(preview=Substr("output", 1, PREVIEW + 1)).order_by("seq"):
        traces[checkpoint.path].checkpoint = checkpoint
    for attempt in Attempt.objects.filter(run=run).order_by("number"):
        traces[attempt.path].attempts.append(attempt)
    for task in HumanTask.objects.filter(run=run).defer("evidence", "schema").order_by("generation"):
        traces[task.path].task = task
    for decision in Decision.objects.filter(run=run).order_by("generation"):
        traces[decision.path].decision = decision
    return traces


def _places(shape: list[dict[str, Any]], traces: dict[str, _Traces]) -> list[_Place]:
    """Paths in the pipeline's order; paths inside a step follow it in the order in which they happened."""
    inner = defaultdict(list)
    tops = {node["name"] for node in shape}
    for path, trace in traces.items():
        if path not in tops:
            inner[re.split(r"[/[#]", path)[0]].append(_Place(path, None, trace.task is not None))
    places = []
    for number, node in enumerate(shape, start=1):
        places.append(_Place(node["name"], number, node["kind"] == "human_task"))
        places += inner.pop(node["name"], [])
    return places + [place for left_over in inner.values() for place in left_over]


def _row(scene: _Scene, place: _Place, trace: _Traces) -> StepRow:
    saved, task, last = trace.checkpoint, trace.task, trace.attempts[-1] if trace.attempts else None
    started = _started(trace)
    return StepRow(
        path=place.path,
        name=saved.name if saved else place.path.rpartition("/")[2],
        number=place.number,
        is_human=place.is_human,
        state=_state(scene, trace),
        is_next=place.number == scene.run.step_index + 1 and scene.run.active,
        attempts=len(trace.attempts),
        started_at=started,
        seconds=(_end(trace, scene.now) - started).total_seconds() if started else None,
        preview=_preview(saved),
        actor=trace.decision.actor if trace.decision else "",
        task_id=task.pk if task else None,
        error=f"{last.error_type}: {last.error_message}" if last and last.error_type and not saved else "",
        bars=[],
    )


def _started(trace: _Traces) -> datetime | None:
    if trace.task:
        return trace.task.raised_at
    if trace.attempts:
        return trace.attempts[0].started_at
    return trace.checkpoint.started_at if trace.checkpoint else None


def _preview(saved: Checkpoint | None) -> str:
    text: str = getattr(saved, "preview", "") if saved else ""
    return text if len(text) <= PREVIEW else text[:PREVIEW] + "…"


def _end(trace: _Traces, now: datetime) -> datetime:
    if trace.task:
        return trace.task.closed_at or now
    if trace.checkpoint:
        return trace.checkpoint.finished_at
    return (trace.attempts[-1].finished_at if trace.attempts else None) or now


def _state(scene: _Scene, trace: _Traces) -> str:
    """The word of `display.STATE_BADGES` that says how the step stands."""
    if trace.task is not None:
        return _state_of_question(trace.task, trace.decision)
    if trace.checkpoint is not None:
        return RunStatus.COMPLETED
    if not trace.attempts:
        return "not_started"
    last = trace.attempts[-1]
    if last.outcome is not None:
        return str(last.outcome)
    if scene.run.status == RunStatus.RUNNING:
        return "stalled" if scene.stalled else RunStatus.RUNNING
    return RunStatus.CANCELLED if scene.run.status == RunStatus.CANCELLED else AttemptOutcome.LOST


def _state_of_question(task: HumanTask, decision: Decision | None) -> str:
    if decision is None or task.status != TaskStatus.DECIDED:
        return str(task.status)
    if decision.outcome == DecisionOutcome.REJECTED:
        return str(decision.outcome)
    if task.kind == "bool":
        return DecisionOutcome.APPROVED if json.loads(decision.data) is not False else "answered"
    return "answered"


def _spans(trace: _Traces, now: datetime) -> list[tuple[Span, str]]:
    """When something happened at the path, and in which tone it is drawn."""
    if trace.task is not None:
        return [((trace.task.raised_at, trace.task.closed_at or now), "wait")]
    done = trace.checkpoint.attempt if trace.checkpoint else None
    spans = []
    for attempt in trace.attempts:
        saved = trace.checkpoint if attempt.number == done else None
        until = saved.finished_at if saved else attempt.finished_at or now
        tone = "done" if saved else attempt.outcome or "running"
        spans.append(((attempt.started_at, max(until, attempt.started_at)), str(tone)))
    return spans


def _failed(run: Run, traces: dict[str, _Traces]) -> Attempt | None:
    """The attempt that ended the run."""
    if run.status != RunStatus.FAILED:
        return None
    bad = [a for trace in traces.values() if not trace.checkpoint for a in trace.attempts if a.outcome is not None]
    return max(bad, key=lambda attempt: (attempt.started_at, attempt.number), default=None)
