"""What stands at the top of every page of a run: its facts, and what the reader may do with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from django.utils import timezone
from flujo.errors import PipelineNotFound
from flujo.status import ACTIVE, RunStatus, Wait

from runs import access
from runs.models import Run
from runs.queries.run_list import is_stalled, state_word
from runs.queries.step_reports import newest_report
from runs.registry import registry
from runs.words import joined

MAX_DEPTH = 5
FOLLOWED = 50
CANCELLING = "Cancelling is under way: the run stops at its next safe point."


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do with the run, for who is granted `verb`; `why_not` says what is in the way of it."""

    label: str
    icon: str
    url_name: str
    verb: str
    why_not: str = ""
    danger: bool = False
    quiet: bool = False
    granted: bool = True

    @property
    def word(self) -> str:
        """What is done, inside a sentence."""
        return self.label.partition(" ")[0].lower()


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
    ancestors: list[Run]

    @property
    def subject(self) -> str:
        """What pages call the run."""
        return self.run.subject

    @property
    def obstacles(self) -> list[str]:
        """What is in the way of actions that the reader is granted, each once."""
        return list(dict.fromkeys(each.why_not for each in self.actions if each.granted and each.why_not))

    @property
    def withheld(self) -> str:
        """What the reader may do and who decides about the rest; "" when they may do everything that is offered."""
        words = {granted: [each.word for each in self.actions if each.granted is granted] for granted in (True, False)}
        if not words[False]:
            return ""
        may, rest = joined(["see", *words[True]], "and"), joined(words[False], "or")
        return f"You may {may} this run; an administrator decides who may {rest} runs of {self.run.pipeline}."


def header(user: access.User, run: Run) -> RunHeader:
    """The header of `run` for `user`."""
    now, granted = timezone.now(), access.verbs_on(user, run.pipeline)
    stalled = is_stalled(run, now)
    end = run.finished_at or now
    return RunHeader(
        run=run,
        now=now,
        rev=rev(user, run),
        word=state_word(run, now),
        stalled=stalled,
        seconds=(end - run.started_at).total_seconds() if run.started_at else None,
        tags=json.loads(run.tags),
        actions=[replace(action, granted=action.verb in granted) for action in _actions(run)],
        shows_values="view_context" in granted,
        known=_known(run),
        ancestors=_ancestors(user, run),
    )


def _ancestors(user: access.User, run: Run) -> list[Run]:
    """The runs that wait for this one, one above the other, as far as `user` sees them; the uppermost first."""
    found: list[Run] = []
    visible = access.visible_to(user) if run.parent_run_id else Run.objects.none()
    while run.parent_run_id and len(found) < MAX_DEPTH:
        parent = visible.filter(pk=run.parent_run_id).first()
        if parent is None:
            break
        found.insert(0, parent)
        run = parent
    return found


def rev(user: access.User, run: Run) -> str:
    """A word that changes whenever what the run's page shows to `user` changes, lengths of time aside."""
    stalled = "s" if is_stalled(run, timezone.now()) else ""
    return f"{run.seq}{newest_report(run)}{stalled}{_moves_below(user, run)}"


def _moves_below(user: access.User, run: Run) -> str:
    """How far the runs have come that this one waits for, and those that these wait for; "" where it waits for none."""
    if run.wait != Wait.CHILD:
        return ""
    visible, above, seqs = access.visible_to(user).filter(status__in=ACTIVE), [run.pk], 0
    for _ in range(MAX_DEPTH):
        below = list(visible.filter(parent_run_id__in=above).values_list("pk", "seq")[:FOLLOWED])
        above, seqs = [pk for pk, _ in below], seqs + sum(seq for _, seq in below)
        if not above:
            break
    return f"-{seqs}"


def _actions(run: Run) -> list[Action]:
    """What can be done with a run in this state, by who is granted it."""
    actions = []
    if run.status == RunStatus.FAILED:
        actions.append(Action("Retry", "arrow-path", "runs:run_retry", "retry"))
    if is_parked(run):
        actions.append(Action("Un-park", "play-circle", "runs:run_unpark", "retry", no_code(run)))
    actions.append(Action("Rerun", "arrow-uturn-left", "runs:run_rerun", "start", no_rerun(run), quiet=True))
    actions.append(Action("Fork", "share", "runs:run_fork", "fork", no_code(run), quiet=True))
    if run.status in ACTIVE:
        actions.append(Action("Cancel run", "x-mark", "runs:run_cancel", "cancel", no_cancel(run), danger=True))
    return actions


def no_rerun(run: Run) -> str:
    """What is in the way of a rerun."""
    return "" if registry.versions(run.pipeline) else f"No version of {run.pipeline} is registered here."


def no_cancel(run: Run) -> str:
    """What is in the way of cancelling an active run."""
    return CANCELLING if run.cancel_requested else ""


def is_parked(run: Run) -> bool:
    """Whether the run is held for an operator."""
    return run.status == RunStatus.PAUSED and run.wait == Wait.OPERATOR


def no_code(run: Run) -> str:
    """What is in the way of a fork, and of un-parking a parked run."""
    if _known(run):
        return ""
    code = f"{run.pipeline} {run.version} with the fingerprint {run.fingerprint[:12]}"
    return f"Only the code that started it can go on with it or fork it: deploy {code}."


def not_granted(user: access.User, verb: str, run: Run) -> str:
    """The sentence for who may not do `verb`; "" for who may."""
    if access.may(user, verb, run.pipeline):
        return ""
    return f"You may not {verb} runs of {run.pipeline}. An administrator can grant your group “{verb}” on it."


def _known(run: Run) -> bool:
    """Whether this process has the code that started the run, so that workers here can go on with it."""
    try:
        return registry.get(run.pipeline, run.version).fingerprint == run.fingerprint
    except PipelineNotFound:
        return False
