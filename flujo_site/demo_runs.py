"""The demo's runs: started, executed and decided through the same services as anybody's."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from flujo import Flujo
from flujo.errors import IllegalTransition, RunIsLeased
from flujo.status import DecisionOutcome, TaskStatus

from runs.models import HumanTask, Run, Tombstone
from runs.registry import registry
from runs.services.decide import decide
from runs.services.origin import Origin
from runs.services.start import start
from runs.state_backend import DjangoBackend

ORIGIN = Origin(channel="cli")


@dataclass(frozen=True)
class Answer:
    """What one person decides on the next open human task of a run."""

    actor: str
    data: Any
    outcome: DecisionOutcome = DecisionOutcome.APPROVED
    reason: str = ""


@dataclass(frozen=True)
class DemoRun:
    """A run of the demo, and how far it is taken."""

    run_id: str
    pipeline: str
    data: Mapping[str, Any]
    answers: tuple[Answer, ...] = ()


_REVIEWED = {"approved_total": "400000.00", "over_limit": "post", "note": "Large ones agreed with purchasing."}
_PRIVACY = {
    "lawful_basis": "right of access (Art. 15)",
    "identity_check": "called back on the known number",
    "answer_by": "2026-12-31",
    "note": "Second request this year.",
}
RUNS = (
    DemoRun("demo-invoices-clean", "invoice-intake", {"sample": "invoices-clean.csv"}),
    DemoRun("demo-invoices-q2", "invoice-intake", {"sample": "invoices-2026-q2.csv"}, (Answer("approver", _REVIEWED),)),
    DemoRun(
        "demo-invoices-low-limit",
        "invoice-intake",
        {"sample": "invoices-clean.csv", "limit": "3000.00"},
        (Answer("approver", None, DecisionOutcome.REJECTED, "The limit is 10,000: start again with that."),),
    ),
    DemoRun("demo-export-unknown", "data-export-request", {"email": "nobody@mail.example"}),
    DemoRun(
        "demo-export-second-question",
        "data-export-request",
        {"email": "yusuf.kowalski2@mail.example"},
        (Answer("operator", _PRIVACY),),
    ),
    DemoRun("demo-export-first-question", "data-export-request", {"email": "elif.peters1@mail.example"}),
    DemoRun("demo-statement", "bank-statement", {"day": "2026-09-30"}),
    DemoRun("demo-release", "release-checklist", {"version": "0.1.0"}, (Answer("approver", data=True),)),
    DemoRun("demo-invoices-q3", "invoice-intake", {"sample": "invoices-2026-q3.csv"}),
)


def create() -> int:
    """Make the runs that were never made; returns how many. One that was deleted stays deleted."""
    known = {*Run.objects.values_list("pk", flat=True), *Tombstone.objects.values_list("pk", flat=True)}
    missing = [run for run in RUNS if run.run_id not in known]
    for run in missing:
        _make(run)
    return len(missing)


def _make(run: DemoRun) -> None:
    start(
        actor=User.objects.get(username="operator"),
        pipeline=run.pipeline,
        version="1.0.0",
        data=dict(run.data),
        run_id=run.run_id,
        origin=ORIGIN,
    )
    _execute(run)
    for answer in run.answers:
        task = HumanTask.objects.filter(run_id=run.run_id, status=TaskStatus.OPEN).first()
        if task is None:  # a server works beside us and took the run: its worker goes on with it
            return
        _decide(task, answer)
        _execute(run)


def _execute(run: DemoRun) -> None:
    runner = Flujo(registry=registry, pipeline_name=run.pipeline, state_backend=DjangoBackend())
    try:
        asyncio.run(runner.continue_async(run.run_id))
    except (RunIsLeased, IllegalTransition):  # nothing left to do, or a server beside us took the run
        return


def _decide(task: HumanTask, answer: Answer) -> None:
    decide(
        actor=User.objects.get(username=answer.actor),
        task_id=task.pk,
        generation=task.generation,
        digest=task.digest,
        outcome=answer.outcome,
        data=answer.data,
        reason=answer.reason,
        key=f"{task.run_id}/{task.path}",
        origin=ORIGIN,
    )
