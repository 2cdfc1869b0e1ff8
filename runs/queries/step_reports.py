"""What attempts say of themselves, as pages show it: how far they have come, and the lines of their log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import Max
from flujo.status import RunStatus

from runs.encryption import Sealed
from runs.models import Attempt, Checkpoint, LogChunk, Run, StepReport

TONES = {"WARNING": "stalled", "ERROR": "failed", "CRITICAL": "failed"}


@dataclass(frozen=True, slots=True)
class ProgressLine:
    """How far an attempt has come: numbers as they are written, `total` "" when it is not known."""

    done: str
    total: str
    note: str

    @property
    def words(self) -> str:
        """`40 of 200`, or `40`."""
        return f"{self.done} of {self.total}" if self.total else self.done


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line; `tone` is a token where the level is worth a colour."""

    at: datetime
    level: str
    tone: str
    logger: str
    message: str
    fields: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one attempt from some line on; `after` and `number` say how much of it is here.

    `follows` is true while more may come, `newest` the number of the step's newest attempt, `others` those of the
    attempts that have a log too.
    """

    path: str
    attempt: int
    lines: list[LogLine]
    dropped: int
    hidden: bool
    follows: bool
    newest: int
    others: list[int]
    after: int
    number: int
    progress: ProgressLine | None


def progress_of(report: StepReport | None, *, shown: bool) -> ProgressLine | None:
    """The progress of an attempt; its note is a value of the run, and left out where values are hidden."""
    if report is None or report.done is None:
        return None
    total = "" if report.total is None else _number(report.total)
    return ProgressLine(_number(report.done), total, report.note if shown else "")


def without_note(progress: ProgressLine | None) -> ProgressLine | None:
    """The same for whoever may not see values."""
    return None if progress is None else replace(progress, note="")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.2f}"


def newest_report(run: Run) -> str:
    """A word that changes when a step of a running run says something; all else that changes has an event."""
    if run.status != RunStatus.RUNNING:
        return ""
    newest = StepReport.objects.filter(run=run).aggregate(newest=Max("reported_at"))["newest"]
    return f"-{newest:%H%M%S%f}" if newest else ""


def reports_of(run: Run, path: str) -> dict[int, StepReport]:
    """The report of each attempt of a step that said something."""
    return {report.attempt: report for report in StepReport.objects.filter(run=run, path=path)}


def log(
    run: Run,
    path: str,
    attempts: Sequence[Attempt],
    saved: Checkpoint | None,
    reports: Mapping[int, StepReport],
    *,
    attempt: int = 0,
    after: int = 0,
    shown: bool,
) -> Log | None:
    """The log of one attempt, the newest unless another is asked for; None when there is nothing to show."""
    if not attempts:
        return None
    newest = attempts[-1]
    logged = [number for number, report in sorted(reports.items()) if report.log_lines]
    chosen = attempt if any(attempt == known.number for known in attempts) else newest.number
    works = newest.outcome is None and saved is None and run.status == RunStatus.RUNNING
    if not works and not logged:
        return None
    report = reports.get(chosen)
    chunks = LogChunk.objects.filter(run=run, path=path, attempt=chosen, number__gt=after) if shown and report else []
    return Log(
        path=path,
        attempt=chosen,
        lines=[line for chunk in chunks for line in _lines(chunk)],
        dropped=report.log_dropped if report else 0,
        hidden=not shown,
        follows=works and chosen == newest.number,
        newest=newest.number,
        others=[number for number in logged if number != chosen],
        after=report.log_chunks if report else 0,
        number=report.number if report else 0,
        progress=progress_of(report, shown=shown),
    )


def _lines(chunk: LogChunk) -> list[LogLine]:
    if isinstance(chunk.lines, Sealed):
        return [LogLine(chunk.written_at, "", "", "", chunk.lines, [])]
    return [_line(line) for line in json.loads(chunk.lines)]


def _line(stored: dict[str, Any]) -> LogLine:
    return LogLine(
        at=datetime.fromisoformat(stored["at"]),
        level=stored["level"],
        tone=TONES.get(stored["level"], ""),
        logger=stored["logger"],
        message=stored["message"],
        fields=[(name, _shown(value)) for name, value in stored["fields"].items()],
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
