"""What stands at the top of every page of a run: its facts, and what the reader may do with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from flujo.errors import PipelineNotFound
from flujo.status import ACTIVE, RunStatus, Wait

from runs import access
from runs.models import Run
from runs.queries.run_list import is_stalled, state_word
from runs.queries.step_reports import newest_report
from runs.registry import registry

CANCELLING = "Cancelling is under way: the run stops at its next safe point."


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do with the run; `why_not` is the sentence that stands where it can't be done."""

    label: str
    icon: str
    url_name: str
    danger: bool = False
    quiet: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class RunHeader:
    """The run's facts as the header shows them; `rev` changes whenever they do."""

    run: Run
    now: datetime
    rev: str
    word: str
    stalled: bool
    seconds: float | None
    tags: list[str]
    actions: list[Action]
    shows_values: bool
    known: bool

    @property
    def subject(self) -> str:
        """What people call the run: its title, else its id."""
        return self.run.title or self.run.run_id


def header(user: access.User, run: Run) -> RunHeader:
    """The header of `run` for `user`."""
    now = timezone.now()
    stalled = is_stalled(run, now)
    end = run.finished_at or now
    return RunHeader(
        run=run,
        now=now,
        rev=rev(run),
        word=state_word(run, now),
        stalled=stalled,
        seconds=(end - run.started_at).total_seconds() if run.started_at else None,
        tags=json.loads(run.tags),
        actions=_actions(user, run),
        shows_values=access.may(user, "view_context", run.pipeline),
        known=_known(run),
    )


def rev(run: Run) -> str:
    """A word that changes whenever what the run's page shows changes, lengths of time aside."""
    return f"{run.seq}{newest_report(run)}{'s' if is_stalled(run, timezone.now()) else ''}"


def _actions(user: access.User, run: Run) -> list[Action]:
    actions = []
    if run.status == RunStatus.FAILED:
        why_not = "" if access.may(user, "retry", run.pipeline) else not_granted("retry", run)
        actions.append(Action("Retry", "arrow-path", "runs:run_retry", why_not=why_not))
    if is_parked(run):
        actions.append(Action("Un-park", "play-circle", "runs:run_unpark", why_not=no_unpark(user, run)))
    actions.append(Action("Rerun", "arrow-uturn-left", "runs:run_rerun", quiet=True, why_not=no_rerun(user, run)))
    actions.append(Action("Fork", "share", "runs:run_fork", quiet=True, why_not=no_fork(user, run)))
    if run.status in ACTIVE:
        actions.append(Action("Cancel run", "x-mark", "runs:run_cancel", danger=True, why_not=_no_cancel(user, run)))
    return actions


def no_rerun(user: access.User, run: Run) -> str:
    """Why a run cannot be rerun; "" when it can."""
    if not access.may(user, "start", run.pipeline):
        return not_granted("start", run)
    return "" if registry.versions(run.pipeline) else f"No version of {run.pipeline} is registered here."


def no_fork(user: access.User, run: Run) -> str:
    """Why a run cannot be forked; "" when it can."""
    if not access.may(user, "fork", run.pipeline):
        return not_granted("fork", run)
    if not _known(run):
        return f"Only the code that started a run can fork it, and {run.pipeline} {run.version} is not here as it was."
    return ""


def _no_cancel(user: access.User, run: Run) -> str:
    if not access.may(user, "cancel", run.pipeline):
        return not_granted("cancel", run)
    return CANCELLING if run.cancel_requested else ""


def is_parked(run: Run) -> bool:
    """Whether the run is held for an operator."""
    return run.status == RunStatus.PAUSED and run.wait == Wait.OPERATOR


def no_unpark(user: access.User, run: Run) -> str:
    """Why a parked run cannot go on yet; "" when it can."""
    if not access.may(user, "retry", run.pipeline):
        return not_granted("retry", run)
    if not _known(run):
        return f"To un-park it, first deploy {run.pipeline} {run.version} with the fingerprint {run.fingerprint[:12]}."
    return ""


def not_granted(verb: str, run: Run) -> str:
    """Why an action is not offered."""
    return f"You may not {verb} runs of {run.pipeline}. An administrator can grant your group “{verb}” on it."


def _known(run: Run) -> bool:
    """Whether this process has the code that started the run, so that workers here can go on with it."""
    try:
        return registry.get(run.pipeline, run.version).fingerprint == run.fingerprint
    except PipelineNotFound:
        return False
