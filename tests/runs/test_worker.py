"""The worker, the sweeper and the dispatcher between them: ready runs are executed, whatever is lost or broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Lock

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from flujo import Pipeline, PipelineRegistry, Step, StepContext, step, watch
from flujo.status import RunStatus

from runs import dispatch
from runs.models import AuditEvent, Run, RunWait
from runs.services import start as start_service
from runs.services.cancel import cancel
from runs.services.origin import Origin
from runs.sweeper import Sweeper
from runs.worker import Worker
from tests.runs import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

Start = Callable[..., Run]


def eventually(condition: Callable[[], object], patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> PipelineRegistry:
    """The registry that the start service and the workers of a test share."""
    own = PipelineRegistry()
    monkeypatch.setattr(start_service, "registry", own)
    return own


@pytest.fixture
def starter() -> User:
    return factories.user("starter", can=["view", "start"])


@pytest.fixture
def queue(registry: PipelineRegistry, starter: User) -> Start:
    """Queues a run of a pipeline, which it registers at first."""

    def queueing(pipeline: Pipeline | Step, name: str = "counted") -> Run:
        if name not in registry.names():
            registry.register(pipeline, name=name, version="1.0.0")
        return start_service.start(actor=starter, pipeline=name, version=None, data=None, origin=Origin("cli"))

    return queueing


@contextmanager
def working(registry: PipelineRegistry, *, concurrency: int = 2) -> Iterator[Worker]:
    """A worker that has started; it ends with the block."""
    running = Worker(registry=registry, concurrency=concurrency)
    running.start()
    try:
        yield running
    finally:
        assert running.stop()


def status(run: Run) -> str:
    return Run.objects.values_list("status", flat=True).get(pk=run.pk)


@step
def done(ctx: StepContext) -> str:
    """End at once."""
    return "done"


def test_worker_executes_what_was_queued_before_it_started(registry: PipelineRegistry, queue: Start) -> None:
    runs = [queue(done) for _ in range(5)]
    with working(registry):
        eventually(lambda: {status(run) for run in runs} == {RunStatus.COMPLETED})


def test_worker_is_woken_by_the_commit_of_a_start(registry: PipelineRegistry, queue: Start) -> None:
    with working(registry):
        time.sleep(0.3)  # it has looked, and would look again only in five seconds
        run = queue(done)
        eventually(lambda: status(run) == RunStatus.COMPLETED, patience=4)


def test_worker_passes_over_any_number_of_runs_it_cannot_execute(
    registry: PipelineRegistry, queue: Start, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        factories.run(pipeline="of another process", created_at=factories.NOW + timedelta(seconds=number))
    run = queue(done)
    with working(registry, concurrency=1):
        eventually(lambda: status(run) == RunStatus.COMPLETED)
    assert Run.objects.filter(pipeline="of another process", status=RunStatus.QUEUED).count() == 40


def test_worker_leaves_a_run_of_another_shape_and_says_so_at_most_once(
    registry: PipelineRegistry, queue: Start, caplog: pytest.LogCaptureFixture
) -> None:
    ours = queue(done)
    Run.objects.filter(pk=ours.pk).update(pipeline="renamed")  # a registered shape under a name that is not
    other = queue(done)
    with working(registry):
        eventually(lambda: status(other) == RunStatus.COMPLETED)
        for _ in range(20):
            dispatch.hint(ours.pk)
            time.sleep(0.02)
    assert status(ours) == RunStatus.QUEUED
    assert len([line for line in caplog.messages if ours.pk in line]) == 1


def test_worker_keeps_to_its_number_of_runs_at_once(registry: PipelineRegistry, queue: Start) -> None:
    lock, at_once, most = Lock(), [0], [0]

    @step
    def counted(ctx: StepContext) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        with lock:
            at_once[0] -= 1

    runs = [queue(counted) for _ in range(8)]
    with working(registry, concurrency=3):
        eventually(lambda: {status(run) for run in runs} == {RunStatus.COMPLETED})
    assert most[0] == 3


def test_workers_together_keep_to_the_bound_of_a_pipeline_and_go_on_with_others(
    registry: PipelineRegistry, queue: Start
) -> None:
    lock, at_once, most = Lock(), [0], [0]

    @step
    def counted(ctx: StepContext) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.03)
        with lock:
            at_once[0] -= 1

    registry.register(counted, name="bounded", version="1.0.0", max_concurrency=2)
    runs = [queue(counted, "bounded") for _ in range(6)]
    others = [queue(done, "unbounded") for _ in range(2)]
    with working(registry, concurrency=3), working(registry, concurrency=3):
        eventually(lambda: {status(run) for run in others} == {RunStatus.COMPLETED})
        eventually(lambda: {status(run) for run in runs} == {RunStatus.COMPLETED})
    assert most[0] == 2


def test_workers_take_the_runs_of_one_bound_by_their_priority(registry: PipelineRegistry, starter: User) -> None:
    order: list[int] = []

    @step
    async def noted(value: int) -> int:
        order.append(value)
        return value

    registry.register(noted, name="bounded", version="1.0.0", max_concurrency=1)
    for number in range(12):
        start_service.start(
            actor=starter, pipeline="bounded", version=None, data=number, priority=number, origin=Origin("cli")
        )
    with working(registry, concurrency=4), working(registry, concurrency=4):
        eventually(lambda: len(order) == 12, patience=60)
    assert order == sorted(order, reverse=True)


def test_worker_survives_a_step_that_fails_and_executes_the_others(registry: PipelineRegistry, queue: Start) -> None:
    @step
    def broken(ctx: StepContext) -> None:
        raise ValueError("The total is wrong.")

    failing, fine = queue(broken, "broken"), queue(done)
    with working(registry):
        eventually(lambda: (status(failing), status(fine)) == (RunStatus.FAILED, RunStatus.COMPLETED))


def test_stopped_worker_finishes_its_step_and_gives_the_run_back(registry: PipelineRegistry, queue: Start) -> None:
    began, may_end = Event(), Event()

    @step
    def held(ctx: StepContext) -> None:
        began.set()
        may_end.wait(10)

    run = queue(held >> done, "held")
    running = Worker(registry=registry)
    running.start()
    assert began.wait(10)
    running._ready.result().call(running._ready.result().drain.set)
    may_end.set()
    assert running.stop()
    assert status(run) == RunStatus.QUEUED
    assert list(run.checkpoints.values_list("path", flat=True)) == ["held"]
    with working(registry):
        eventually(lambda: status(run) == RunStatus.COMPLETED)


def test_worker_leaves_a_damaged_run_alone_and_executes_the_others(
    registry: PipelineRegistry, queue: Start, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, fine = queue(done), queue(done)
    damaged.start.delete()
    with working(registry):
        eventually(lambda: status(fine) == RunStatus.COMPLETED)
        for _ in range(30):
            dispatch.hint(damaged.pk)
            time.sleep(0.05)
    assert damaged.checkpoints.count() == 0
    assert len([line for line in caplog.messages if damaged.pk in line]) == 1


def test_damaged_run_keeps_no_other_one_from_what_a_deploy_means_for_it(
    registry: PipelineRegistry, queue: Start
) -> None:
    damaged, fine = queue(done), queue(done)
    damaged.start.delete()
    after = PipelineRegistry()
    after.register(done, name="counted", version="2.0.0", on_change="migrate")
    after.migration("counted", "1.0.0", "2.0.0")(lambda run: None)
    with working(after):
        eventually(lambda: status(fine) == RunStatus.COMPLETED)
    assert status(damaged) == RunStatus.QUEUED


def test_sweeper_hints_again_at_what_was_lost(registry: PipelineRegistry, queue: Start) -> None:
    run = queue(done)
    heard: list[str] = []
    dispatch.listen(heard.append)
    sweeper = Sweeper()
    sweeper.start()
    try:
        eventually(lambda: heard.count(run.pk) >= 2)
    finally:
        sweeper.stop(5)
        dispatch.unlisten(heard.append)
    assert AuditEvent.objects.filter(run_id=run.pk).count() == 1


def test_hint_is_told_to_every_listener_and_a_broken_one_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def broken(run_id: str) -> None:
        raise RuntimeError("No ears.")

    for listener in (broken, heard.append):
        dispatch.listen(listener)
    try:
        dispatch.hint("one")
        dispatch.hint("later", not_before=timezone.now() + timedelta(hours=1))
    finally:
        for listener in (broken, heard.append):
            dispatch.unlisten(listener)
    dispatch.hint("after")
    assert heard == ["one"]
    assert "No ears." in caplog.text


def test_cancelling_on_the_console_interrupts_a_step_of_the_worker_beside_it(
    registry: PipelineRegistry, queue: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 60)
    begun = Event()

    @step
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    run = queue(long)
    boss = factories.user("boss", can=["view", "cancel"])
    with working(registry):
        assert begun.wait(5)
        cancel(actor=boss, run_id=run.pk, reason="enough", origin=Origin("ui"))
        eventually(lambda: status(run) == RunStatus.CANCELLED, patience=4)
    assert run.attempts.get().outcome == "cancelled"


def test_worker_leaves_a_long_retry_wait_and_goes_on_when_it_is_due(registry: PipelineRegistry, queue: Start) -> None:
    @step(retries=1, backoff=timedelta(minutes=4))
    def once_away(ctx: StepContext) -> int:
        if ctx.attempt == 1:
            raise ConnectionError("away")
        return ctx.attempt

    with working(registry):
        run = queue(once_away)
        eventually(lambda: status(run) == RunStatus.PAUSED)
        paused = Run.objects.get(pk=run.pk)
        assert (paused.wait, paused.holder) == ("retry", None)
        assert paused.wake_at is not None
        assert paused.wake_at > timezone.now() + timedelta(minutes=1)
        RunWait.objects.filter(run=run).update(due_at=timezone.now())  # the time has come
        Run.objects.filter(pk=run.pk).update(wake_at=timezone.now())
        dispatch.hint(run.pk)
        eventually(lambda: status(run) == RunStatus.COMPLETED)
