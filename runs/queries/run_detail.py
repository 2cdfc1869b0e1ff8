"""The run's own page: header, where it will resume, steps, failure, result."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import flujo
from django.db.models import Case, Count, Min, When
from flujo.lease import parse_holder
from flujo.status import ACTIVE, EventKind, Outcome, RunStatus, TaskStatus, Wait

from runs import access
from runs.display import run_badge
from runs.encryption import Sealed
from runs.models import Attempt, AuditEvent, Checkpoint, HumanTask, Run, RunInput
from runs.queries.payload import ABSENT, HIDDEN_ERROR, Payload, payload
from runs.queries.run_header import MAX_DEPTH, RunHeader, header
from runs.queries.run_steps import Failure, Steps, steps
from runs.queries.waits import WaitLine, open_waits
from runs.secrets import secrets_of

MAX_QUESTIONS = 10
SORTED = 200
DIGITS = re.compile(r"(\d+)")
"""What cuts a path into words and numbers in turn, so that item 10 comes behind item 9."""
MAX_MADE = 10
_WHY = [EventKind.RUN_CANCELLED, EventKind.RUN_CANCEL_REQUESTED, EventKind.RUN_REJECTED]
_WHY_REJECTED = [EventKind.DECISION_RECORDED]  # the last one: a rejection is the end of its run


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom some of the open human tasks ask, and how many do; nobody named is anyone who may decide."""

    names: list[str]
    count: int


@dataclass(frozen=True, slots=True)
class Questions:
    """The open human tasks of a run: the first ones by path, whom all of them ask, since when and until when."""

    tasks: list[HumanTask]
    count: int
    asked: list[Asked]
    since: datetime | None
    due_at: datetime | None

    @property
    def more(self) -> int:
        """How many are not among the first ones."""
        return self.count - len(self.tasks)


@dataclass(frozen=True, slots=True)
class ResumeCard:
    """Where the run stands; `template` draws it. `saved_name` is the last saved step, `next_name` the next one."""

    template: str
    tone: str
    saved_index: int
    saved_name: str
    next_number: int
    next_name: str
    holder: str
    questions: Questions
    waits: list[WaitLine]
    may_signal: bool
    ended_by: str
    ended_why: str
    ended_at: datetime | None

    @property
    def more_waits(self) -> int:
        """How many waits are not named one by one."""
        return max(len(self.waits) - 3, 0)


@dataclass(frozen=True, slots=True)
class ErrorCard:
    """Why a run failed."""

    type: str
    message: str
    path: str
    number: int
    frame: str
    line: str
    traceback: str
    child: Run | None


@dataclass(frozen=True, slots=True)
class Descendant:
    """A run that was made from this one; `step` is "" for a rerun."""

    run_id: str
    step: str


@dataclass(frozen=True, slots=True)
class RunPage:
    """All that the page shows."""

    header: RunHeader
    resume: ResumeCard
    steps: Steps
    error: ErrorCard | None
    result: Payload
    made: list[Descendant]
    children: list[Run]
    below: Run | None


def page(user: access.User, run: Run) -> RunPage:
    """The page of `run` for `user`, who may see it."""
    head = header(user, run)
    shape = shape_of(run)
    listed = steps(run, shape, now=head.now, stalled=head.stalled, shows_values=head.shows_values)
    children = _children(user, run, listed.failed)
    return RunPage(
        header=head,
        resume=_resume(user, run, shape, stalled=head.stalled),
        steps=listed,
        error=_error(run, listed.failed, children, shown=head.shows_values),
        result=_result(run, shown=head.shows_values),
        made=_made(user, run),
        children=children,
        below=_below(user, run),
    )


def _children(user: access.User, run: Run, failed: Failure | None) -> list[Run]:
    """The children that `user` may see: the one that made the run fail, those that are active, then the oldest."""
    first = Case(When(pk=failed.child if failed else "", then=0), When(status__in=ACTIVE, then=1), default=2)
    return list(access.visible_to(user).filter(parent_run_id=run.pk).order_by(first, "created_at")[:MAX_MADE])


def _below(user: access.User, run: Run) -> Run | None:
    """What this run waits for in the end, where that is not its child but one below that, and `user` sees them."""
    found: list[Run] = []
    visible = access.visible_to(user) if run.wait == Wait.CHILD else Run.objects.none()
    while len(found) < MAX_DEPTH:
        names = [wait.name for wait in open_waits([run.pk]).get(run.pk, [])] if run.wait == Wait.CHILD else []
        child = visible.filter(pk=names[0]).first() if len(names) == 1 else None
        if child is None:
            break
        found.append(run := child)
    return found[-1] if len(found) > 1 else None


def _made(user: access.User, run: Run) -> list[Descendant]:
    """The newest runs that come from this one."""
    found = access.visible_to(user).filter(derived_from=run.pk).order_by("-created_at", "-pk")
    return [Descendant(*row) for row in found.values_list("pk", "derived_at")[:MAX_MADE]]


def shape_of(run: Run) -> list[dict[str, Any]]:
    """The top-level steps of the pipeline that started the run, as it was then."""
    text = RunInput.objects.filter(run=run).values_list("shape", flat=True).first()
    shape: list[dict[str, Any]] = json.loads(text or "[]")
    return shape


def _resume(user: access.User, run: Run, shape: list[dict[str, Any]], *, stalled: bool) -> ResumeCard:
    names = [node["name"] for node in shape]
    why = _WHY_REJECTED if run.outcome == Outcome.REJECTED else _WHY
    ended = AuditEvent.objects.filter(run_id=run.pk, kind__in=why).order_by("seq").values_list("actor", "at", "body")
    actor, at, body = _first_with_a_person(list(ended))
    return ResumeCard(
        template=f"run/resume/{_template(run, stalled=stalled)}.html",
        tone="stalled" if stalled else run_badge(run.status, run.wait, run.outcome).tone,
        saved_index=run.step_index,
        saved_name=names[run.step_index - 1] if 0 < run.step_index <= len(names) else "",
        next_number=run.step_index + 1,
        next_name=run.step_name,
        holder=str(parse_holder(run.holder) or "a worker"),
        questions=_questions(run),
        waits=(waits := open_waits([run.pk]).get(run.pk, [])),
        may_signal=any(wait.kind == Wait.SIGNAL for wait in waits) and access.may(user, "signal", run.pipeline),
        ended_by=actor,
        ended_why=json.loads(body)["data"].get("reason", ""),
        ended_at=at,
    )


def _questions(run: Run) -> Questions:
    asking = HumanTask.objects.filter(run=run, status=TaskStatus.OPEN)
    groups = asking.order_by().values_list("candidates").annotate(Count("pk"), Min("raised_at"), Min("due_at"))
    found = sorted(groups, key=lambda group: -group[1])
    tasks = list(asking.defer("evidence", "schema", "message")[:SORTED]) if found else []
    tasks.sort(key=lambda task: [int(part) if part.isdecimal() else part for part in DIGITS.split(task.path)])
    return Questions(
        tasks=tasks[:MAX_QUESTIONS],
        count=sum(count for _, count, _, _ in found),
        asked=[Asked(json.loads(names) if names else [], count) for names, count, _, _ in found],
        since=min((since for _, _, since, _ in found), default=None),
        due_at=min((due_at for _, _, _, due_at in found if due_at), default=None),
    )


def _template(run: Run, *, stalled: bool) -> str:
    if stalled:
        return "stalled"
    if run.status == RunStatus.PAUSED and run.wait != Wait.HUMAN_TASK:
        return "waiting"
    return run.status


def _first_with_a_person(events: list[tuple[str, datetime, str]]) -> tuple[str, datetime | None, str]:
    """The request that a person made; the engine's own event that followed it names nobody."""
    named = [event for event in events if event[0]]
    return (named or events)[-1] if events else ("", None, '{"data":{}}')


def _result(run: Run, *, shown: bool) -> Payload:
    """What a completed run saved last."""
    if run.status != RunStatus.COMPLETED:
        return ABSENT
    last = Checkpoint.objects.filter(run=run).order_by("-seq").values_list("output", "path").first()
    output, path = last or (None, None)
    return payload(output, shown=shown, secrets=secrets_of(run), path=path, source=path)


def _error(run: Run, failed: Failure | None, children: list[Run], *, shown: bool) -> ErrorCard | None:
    if failed is None:
        return None
    attempt = failed.attempt
    traceback = traceback_of(attempt) if attempt else ""
    frame, line = last_own_frame(traceback)
    return ErrorCard(
        type=run.error_type,
        message=run.error_message if shown else HIDDEN_ERROR,
        path=failed.path,
        number=attempt.number if attempt else 0,
        frame=frame,
        line=line,
        traceback=traceback if shown else "",
        child=next((child for child in children if child.pk == failed.child), None),
    )


def traceback_of(attempt: Attempt) -> str:
    """The traceback of an attempt that failed; "" where it is sealed, which its message says already."""
    return "" if isinstance(attempt.traceback, Sealed) else attempt.traceback


def last_own_frame(traceback: str) -> tuple[str, str]:
    """The innermost frame of a traceback that is not library code, and its line of source; else the innermost one."""
    lines = traceback.splitlines()
    frames = [
        (line.strip(), lines[index + 1].strip() if index + 1 < len(lines) else "")
        for index, line in enumerate(lines)
        if line.startswith('  File "')
    ]
    own = [frame for frame in frames if not _is_library(frame[0])]
    return (own or frames)[-1] if frames else ("", "")


_LIBRARIES = ("/site-packages/", "/lib/python", "<frozen ", f'"{Path(flujo.__file__).parent}')


def _is_library(frame: str) -> bool:
    return any(part in frame for part in _LIBRARIES)
