"""Worker writes of what a running attempt says of itself: its progress and its log. They are no facts of history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from flujo.batch import Batch, Draft, RunView, Transition
from flujo.records import LogChunk, StepReport
from flujo.transitions.rules import keep_lease, mine


@dataclass(frozen=True, slots=True)
class Reports:
    """An attempt's newest report, and those chunks of its log that are not known to be stored."""

    report: StepReport
    chunks: tuple[LogChunk, ...]


def report(reports: Reports, *, fence: int, lease: timedelta, now: datetime) -> Transition:
    """Store what a running attempt says, and extend the lease: a step that says something is alive. No event."""

    def decide(view: RunView) -> Batch:
        mine(view, fence)
        draft = Draft(view, now)
        add_reports(draft, reports)
        keep_lease(draft, lease)
        return draft.batch()

    return decide


def add_reports(draft: Draft, reports: Reports) -> None:
    """Store a report unless a newer one is stored: a write whose outcome was unknown may be told of twice, and late."""
    newest = reports.report
    stored = draft.view.step_report(newest.path, newest.attempt)
    if stored is None:
        draft.insert(newest)
    elif stored.number < newest.number:
        draft.update(newest)
    else:
        return
    for chunk in reports.chunks:
        if stored is None or chunk.number > stored.log_chunks:
            draft.insert(chunk)
