"""What a page says before it cancels, retries or signals a run: the consequences, or why it can't be done."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone
from flujo.status import ACTIVE, RunStatus, TaskStatus, WaitStatus

from runs import access
from runs.models import HumanTask, Run, RunWait
from runs.queries.run_header import RunHeader, header, is_parked, no_cancel, no_code, no_rerun, not_granted
from runs.queries.run_list import is_stalled


@dataclass(frozen=True, slots=True)
class ActionPage:
    """`consequences` are sentences; with `why_not` there is nothing to confirm."""

    header: RunHeader
    consequences: list[str]
    why_not: str


def cancelling(user: access.User, run: Run) -> ActionPage:
    """What cancelling `run` does."""
    if run.status not in ACTIVE:
        why_not = f"The run is {run.status} already: there is nothing to cancel."
    else:
        why_not = not_granted(user, "cancel", run) or no_cancel(run)
    return ActionPage(header(user, run), _on_cancel(run), why_not)


def _on_cancel(run: Run) -> list[str]:
    said = ["Cancelling is final. To do the work after all, start a new run."]
    if run.status == RunStatus.RUNNING and not is_stalled(run, timezone.now()):
        said.insert(0, f"The worker is told to stop. It interrupts step {run.step_name} where that can be done.")
    else:
        said.insert(0, "The run ends at once." + (f" Step {run.step_name} is not done." if run.step_name else ""))
    open_tasks = HumanTask.objects.filter(run=run, status=TaskStatus.OPEN).values_list("name", flat=True)
    said += [f"The open request {name} is closed; nobody can answer it any more." for name in open_tasks]
    saved = (
        f"The {run.step_index} saved steps stay readable" if run.step_index != 1 else "The saved step stays readable"
    )
    return [*said, f"{saved}; what they did outside this site is not undone."]


def retrying(user: access.User, run: Run) -> ActionPage:
    """What retrying `run` does."""
    if run.status != RunStatus.FAILED:
        why_not = f"The run is {run.status}: only a failed run can be retried."
    else:
        why_not = not_granted(user, "retry", run)
    said = [
        f"Step {run.step_name} is tried again, with all its retries and the same idempotency key.",
        _kept(run.step_index),
        "The run is queued at once; a worker takes it up.",
    ]
    return ActionPage(header(user, run), said, why_not)


def rerunning(user: access.User, run: Run) -> ActionPage:
    """What rerunning `run` does."""
    said = [
        "A new run begins with the first step, on the same input and initial context. This one stays as it is.",
        "All steps run, under new idempotency keys: what they did outside this site is done again.",
    ]
    if run.status in ACTIVE:
        said.append(f"This run is {run.status}: it goes on beside the new one, unless you cancel it.")
    return ActionPage(header(user, run), said, not_granted(user, "start", run) or no_rerun(run))


def unparking(user: access.User, run: Run) -> ActionPage:
    """What un-parking `run` does."""
    if is_parked(run):
        why_not = not_granted(user, "retry", run) or no_code(run)
    else:
        why_not = f"The run is {run.status}: only a parked run can be un-parked."
    said = [
        f"The run is queued at once and goes on before step {run.step_name} under {run.pipeline} {run.version}."
        if run.step_name
        else "The run is queued at once; all its steps are saved.",
        "Questions that are still open stay open; answers and signals that came meanwhile are taken.",
        _kept(run.step_index),
    ]
    return ActionPage(header(user, run), said, why_not)


def _kept(count: int) -> str:
    if not count:
        return "No step was saved yet, so the run starts from its first step."
    return f"The {count} saved step{'' if count == 1 else 's'} before it do{'es' if count == 1 else ''} not run again."


def signalling(user: access.User, run: Run, name: str) -> ActionPage:
    """What sending `run` the signal `name` does."""
    if run.status not in ACTIVE:
        why_not = f"The run is {run.status}: it takes no more signals."
    else:
        why_not = not_granted(user, "signal", run)
    waits = RunWait.objects.filter(run=run, name=name, status=WaitStatus.OPEN).values_list("path", flat=True)
    said = [f"Step {path} takes the signal, and the run goes on." for path in waits[:1]] or [
        "No step waits for this signal now: it is kept, and the first step that waits for it takes it."
    ]
    return ActionPage(header(user, run), [*said, "Its data is that step’s output. It cannot be taken back."], why_not)
