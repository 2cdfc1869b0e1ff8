"""Deadlines through the whole stack: worker, sweeper, service and pages on one clock that the test turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo import PipelineRegistry, Step, step
from flujo.errors import HumanTaskExpired
from flujo.status import DecisionOutcome, Outcome, RunStatus, TaskStatus
from flujo.testing import FakeClock

from runs.models import AuditEvent, Decision, HumanTask, Run, SiteEvent
from runs.services import decide as decide_service
from runs.services import start as start_service
from runs.services.decide import decide
from runs.services.origin import Origin
from runs.sweeper import Sweeper
from runs.worker import Worker
from tests.runs import factories

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


@step
async def chase(order: Any) -> str:
    """Ask somebody else."""
    return f"chased {order}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time of the whole site: Django's own, the worker's and the sweeper's."""
    turned = FakeClock(factories.NOW, auto=False)
    monkeypatch.setattr(timezone, "now", turned.now)
    return turned


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> PipelineRegistry:
    own = PipelineRegistry()
    for service in (start_service, decide_service):
        monkeypatch.setattr(service, "registry", own)
    return own


@pytest.fixture
def ana() -> User:
    return factories.user("ana", can=["view", "start", "decide"])


@pytest.fixture
def sweep(clock: FakeClock) -> Callable[[], None]:
    """Has the sweeper look once."""
    return Sweeper(clock=clock).sweep


@pytest.fixture
def worker(registry: PipelineRegistry, clock: FakeClock) -> Iterator[Worker]:
    running = Worker(registry=registry, clock=clock)
    running.start()
    yield running
    assert running.stop()


@pytest.fixture
def ask(registry: PipelineRegistry, ana: User, clock: FakeClock) -> Callable[..., Run]:
    """Starts a run whose only step asks, for a worker to execute."""

    def start(**options: Any) -> Run:
        gate = Step.human_in_the_loop("approve", input_schema=bool, **{"deadline": 30 * DAY, **options})
        registry.register(gate, name="asked", version="1.0.0")
        return start_service.start(actor=ana, pipeline="asked", version=None, data="lamp", origin=Origin("cli"))

    return start


def paused(run: Run) -> HumanTask:
    """The run's request, once its worker has raised it."""
    return reached(run, RunStatus.PAUSED).human_tasks.get()


def reached(run: Run, status: RunStatus) -> Run:
    give_up = time.monotonic() + 10
    while (now := Run.objects.get(pk=run.pk)).status != status:
        assert time.monotonic() < give_up, f"waited in vain: the run is {now.status}"
        time.sleep(0.01)
    return now


def facts(run: Run) -> list[str]:
    kinds = AuditEvent.objects.filter(run_id=run.pk, kind__startswith="human_task.").order_by("seq")
    return [kind.removeprefix("human_task.") for kind in kinds.values_list("kind", flat=True)]


def answer(actor: User, task: HumanTask, **changes: Any) -> Any:
    given = {
        "generation": task.generation,
        "digest": task.digest,
        "outcome": DecisionOutcome.APPROVED,
        "data": True,
        "reason": "",
        "key": "k",
        "origin": Origin("ui"),
    }
    return decide(actor=actor, task_id=task.pk, **{**given, **changes})


@pytest.mark.usefixtures("worker")
def test_thirty_days_with_two_reminders_and_an_escalation_take_milliseconds(
    ask: Callable[..., Run], sweep: Callable[[], None], clock: FakeClock
) -> None:
    run = ask(
        on_deadline=chase,
        reminders=[10 * DAY, 20 * DAY],
        candidates=["ana"],
        escalate_after=25 * DAY,
        escalate_to=["group:heads"],
    )
    task = paused(run)
    began = time.monotonic()
    seen = {}
    for day in range(1, 30):
        clock.advance(DAY.total_seconds())
        sweep()
        seen[day] = facts(run)
        assert Run.objects.get(pk=run.pk).status == RunStatus.PAUSED, "reminding wakes no worker"
    days = {len(known): day for day, known in reversed(seen.items())}
    assert (facts(run), days) == (["raised", "reminded", "reminded", "escalated"], {1: 1, 2: 10, 3: 20, 4: 25})
    assert HumanTask.objects.get(pk=task.pk).candidates == '["ana","group:heads"]'
    clock.advance(DAY.total_seconds())
    sweep()
    ended = reached(run, RunStatus.COMPLETED)
    assert (ended.outcome, facts(run)[-1]) == (Outcome.EXPIRED, "expired")
    assert time.monotonic() - began < 5
    assert not Decision.objects.filter(run=run.pk).exists()


def test_sweeper_records_a_deadline_though_no_worker_has_the_code(
    ask: Callable[..., Run], sweep: Callable[[], None], clock: FakeClock, registry: PipelineRegistry
) -> None:
    run = ask(on_deadline="reject")
    worker = Worker(registry=registry, clock=clock)
    worker.start()
    paused(run)
    assert worker.stop()
    clock.advance(30 * DAY.total_seconds())
    sweep()
    sweep()
    ended = Run.objects.get(pk=run.pk)
    assert (ended.status, ended.outcome, facts(run)) == (RunStatus.CANCELLED, Outcome.EXPIRED, ["raised", "expired"])


@pytest.fixture
def expired_task(ask: Callable[..., Run], worker: Worker, clock: FakeClock) -> HumanTask:
    """A request whose deadline has passed, though nobody has noticed yet."""
    task = paused(ask(on_deadline="reject"))
    clock.advance(30 * DAY.total_seconds())
    return task


@pytest.mark.parametrize("noticed", [True, False])
def test_late_answer_is_410_with_what_was_applied_and_is_audited(
    expired_task: HumanTask, sweep: Callable[[], None], ana: User, client: Client, *, noticed: bool
) -> None:
    task = expired_task
    client.force_login(ana)
    if noticed:
        sweep()
    form = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}

    page = client.post(f"{task.get_absolute_url()}decide/", form)

    said = "the default “reject” was applied on 1 April 2026 at 09:00 UTC"
    assert page.status_code == 410
    assert said in page.content.decode()
    task.refresh_from_db()
    assert (task.status, task.closed_reason) == (TaskStatus.EXPIRED, said)
    assert list(SiteEvent.objects.filter(kind="decision.refused").values_list("actor", flat=True)) == ["ana"]
    with pytest.raises(HumanTaskExpired):
        answer(ana, task)


@pytest.mark.usefixtures("worker")
def test_answer_in_the_last_second_counts_and_the_deadline_is_over(
    ask: Callable[..., Run], sweep: Callable[[], None], clock: FakeClock, ana: User
) -> None:
    run = ask(on_deadline="reject")
    task = paused(run)
    clock.advance(30 * DAY.total_seconds() - 1)
    assert answer(ana, task).outcome == DecisionOutcome.APPROVED
    reached(run, RunStatus.COMPLETED)
    clock.advance(DAY.total_seconds())
    sweep()
    assert facts(run) == ["raised"]


@pytest.mark.usefixtures("worker")
def test_a_damaged_request_keeps_the_sweeper_from_no_other(
    ask: Callable[..., Run], sweep: Callable[[], None], clock: FakeClock, ana: User
) -> None:
    damaged = ask()
    sound = start_service.start(actor=ana, pipeline="asked", version=None, data="vase", origin=Origin("cli"))
    HumanTask.objects.filter(pk=paused(damaged).pk).update(reminders="{")
    Run.objects.filter(pk=damaged.pk).update(wake_at=clock.now())  # it comes first
    paused(sound)
    clock.advance(31 * DAY.total_seconds())
    with pytest.raises(ExceptionGroup) as told:
        sweep()
    assert len(told.value.exceptions) == 1
    assert Run.objects.get(pk=sound.pk).status == RunStatus.FAILED
    assert Run.objects.get(pk=damaged.pk).status == RunStatus.PAUSED
