"""Apps hear of requests that are raised, repeated, escalated or expired: what is committed, and at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from flujo import PipelineRegistry, Step, transitions
from flujo.runner import Flujo
from flujo.testing import FakeClock

from runs import notices
from runs.models import HumanTask, Notice
from runs.notices import deliver, human_task_noticed
from runs.state_backend import DjangoBackend
from runs.sweeper import Sweeper
from tests.runs import factories

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


class Letters:
    """An app that writes a letter for each notice; the first `failures` times the post is closed."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sent: list[tuple[str, str, int]] = []

    def write(self, *, kind: str, task: HumanTask, seq: int, **_: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("The post is closed.")
        self.sent.append((str(kind), task.run.title, seq))

    @property
    def kinds(self) -> list[str]:
        return [kind.removeprefix("human_task.") for kind, _, _ in self.sent]


@pytest.fixture
def letters() -> Iterator[Letters]:
    app = Letters()
    human_task_noticed.connect(app.write)
    yield app
    human_task_noticed.disconnect(app.write)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(factories.NOW)


async def ask(clock: FakeClock, run_id: str = "r") -> Flujo:
    gate = Step.human_in_the_loop(
        "approve",
        deadline=9 * DAY,
        on_deadline="reject",
        reminders=[DAY, 2 * DAY],
        candidates=["ana"],
        escalate_after=3 * DAY,
        escalate_to=["ben"],
    )
    registry = PipelineRegistry()
    registry.register(gate, name="asked", version="1.0.0")
    flujo = Flujo(registry=registry, pipeline_name="asked", state_backend=DjangoBackend(), clock=clock)
    await flujo.run_async("lamp", run_id=run_id, title="Steel")
    return flujo


def test_app_hears_of_each_fact_once_through_the_sweeper(letters: Letters, clock: FakeClock) -> None:
    asyncio.run(ask(clock))
    sweeper = Sweeper(clock=clock)
    for _ in range(10):
        sweeper.sweep()
        clock.advance(DAY.total_seconds())
    assert letters.kinds == ["raised", "reminded", "reminded", "escalated", "expired"]
    assert {title for _, title, _ in letters.sent} == {"Steel"}
    assert not Notice.objects.exists()


def test_what_a_receiver_failed_on_is_told_again_later(letters: Letters, clock: FakeClock) -> None:
    letters.failures = 2
    asyncio.run(ask(clock))
    for minutes, told in ((0, []), (0.5, []), (0.6, []), (1, []), (1.5, ["raised"]), (60, ["raised"])):
        clock.advance(minutes * 60)
        deliver(clock.now())
        assert letters.kinds == told
    assert not Notice.objects.exists()


def test_process_that_dies_while_telling_leaves_it_to_be_told_again(
    letters: Letters, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(ask(clock))

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(human_task_noticed, "send_robust", killed)
        with pytest.raises(Killed):
            deliver(clock.now())
    clock.advance(61)
    deliver(clock.now())
    assert letters.kinds == ["raised"]


def test_two_sweepers_tell_it_once(letters: Letters, clock: FakeClock) -> None:
    asyncio.run(ask(clock))
    (seen,) = Notice.objects.all()
    deliver(clock.now())
    assert not notices._taken(seen, clock.now()), "another process that read it at the same time leaves it alone"
    assert letters.kinds == ["raised"]


def test_what_was_not_committed_is_not_told(letters: Letters, clock: FakeClock) -> None:
    asyncio.run(ask(clock))
    Notice.objects.all().delete()
    clock.advance(DAY.total_seconds())
    with transaction.atomic():
        assert DjangoBackend().transact_now("r", transitions.ring(now=clock.now())).writes
        assert Notice.objects.count() == 1
        transaction.set_rollback(True)
    assert not Notice.objects.exists()


def test_nothing_is_noted_where_nobody_listens(clock: FakeClock) -> None:
    asyncio.run(ask(clock))
    assert HumanTask.objects.exists()
    assert not Notice.objects.exists()


def test_notice_of_a_deleted_run_is_forgotten(letters: Letters, clock: FakeClock) -> None:
    async def gone() -> None:
        flujo = await ask(clock)
        await flujo.cancel_async("r")
        await flujo.backend.delete_state("r")

    asyncio.run(gone())
    deliver(clock.now())
    assert letters.kinds == []
    assert not Notice.objects.exists()
