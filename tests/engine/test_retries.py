"""Retries: which errors are tried again and when; a long wait for the next attempt is durable and holds nothing."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from flujo import Flujo, NonRetryable, RetryAfter, RetryPolicy, Step, StepContext, step
from flujo.errors import PipelineDefinitionError, RunWaits
from flujo.pipeline import Node
from flujo.retry import LONGEST_WAIT, Retry, retry_after
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus, Wait, WaitStatus
from flujo.testing import Crashed, FakeClock, Fault, FaultyBackend, crash_points, let_lease_expire

from tests.engine.making import Ledger, document_of, head_of, kinds_of, runner_of
from tests.engine.stores import Store

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def failing(ledger: Ledger, clock: FakeClock, moments: list[datetime], *, times: int, policy: RetryPolicy) -> Step:
    """A step that fails so many times, and notes when it was tried."""

    @step(retry=policy)
    async def charge(value: int, ctx: StepContext) -> int:
        ledger.add("charge")
        moments.append(clock.now())
        if len(moments) <= times:
            raise ConnectionError("the bank is away")
        return value + 1

    return charge


HOURLY = RetryPolicy(4, HOUR, HOUR)


# Which error, when


def decided(*policies: RetryPolicy, error: Exception, failures: int = 1) -> Retry | None:
    return retry_after(policies, error, failures=failures, randomness=0.0, now=NOW)


def test_retry_is_for_the_errors_that_the_policy_names() -> None:
    network = RetryPolicy(3, retry_on=(ConnectionError, TimeoutError), no_retry_on=ConnectionRefusedError)

    assert decided(network, error=ConnectionResetError()) == Retry(0.5, 2, 4)
    assert decided(network, error=TimeoutError()) == Retry(0.5, 2, 4)
    assert decided(network, error=ConnectionRefusedError()) is None
    assert decided(network, error=ValueError()) is None


def test_first_policy_that_is_for_the_error_decides_and_all_failures_count() -> None:
    policies = RetryPolicy(5, retry_on=ConnectionError), RetryPolicy(2, MINUTE)

    assert decided(*policies, error=ConnectionError(), failures=5) == Retry(8.0, 6, 6)
    assert decided(*policies, error=KeyError(), failures=2) == Retry(60.0, 3, 3)
    assert decided(*policies, error=KeyError(), failures=3) is None


def test_non_retryable_error_ends_the_step_under_any_policy() -> None:
    class CardDeclined(NonRetryable):
        """The card was declined."""

        code = "card_declined"

    assert decided(RetryPolicy(9), error=CardDeclined()) is None


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(90, 90.0), (MINUTE, 60.0), (NOW + HOUR, 3600.0), (NOW - HOUR, 0.0), (-5, 0.0), (timedelta.max, 31_536_000.0)],
)
def test_retry_after_says_when_and_the_policy_how_often(delay: Any, seconds: float) -> None:
    error = pickle.loads(pickle.dumps(RetryAfter(delay, "slow down")))

    assert decided(RetryPolicy(1), error=error) == Retry(seconds, 2, 2)
    assert decided(RetryPolicy(1), error=error, failures=2) is None
    assert (str(error), LONGEST_WAIT.days) == ("slow down", 365)


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"backoff": timedelta(seconds=-1)},
        {"retry_on": "ConnectionError"},
        {"retry_on": (ConnectionError, 3)},
        {"no_retry_on": int},
        {"retries": 2, "retry": RetryPolicy(3)},
    ],
)
def test_retry_policy_that_makes_no_sense_is_refused_when_the_step_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineDefinitionError):
        step(**options)(lambda value: value)


# The wait


async def test_long_wait_for_a_retry_holds_nothing(store: Store, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    runner = worker(failing(ledger, clock, moments, times=1, policy=HOURLY), store.backend, clock)
    with pytest.raises(Crashed):
        await start_only(runner, store.backend)
    await let_lease_expire(store.backend, "r")

    waiting = await runner.continue_async("r")

    head = await head_of(store.reopen(), "r")
    due = head.wake_at
    assert due is not None
    assert timedelta(minutes=30) <= due - moments[-1] <= HOUR
    assert (waiting.status, head.wait, head.holder, head.lease_expires_at) == (RunStatus.PAUSED, Wait.RETRY, None, None)
    clock.advance((due - clock.now()).total_seconds() - 1)
    if store.backend.lists_runs:
        assert await store.backend.ready(clock.now()) == []
    with pytest.raises(RunWaits):
        await worker_again(runner, store.backend, clock).continue_async("r")
    clock.advance(1)
    if store.backend.lists_runs:
        assert [head.run_id for head in await store.backend.ready(clock.now())] == ["r"]

    done = await worker_again(runner, store.backend, clock).continue_async("r")

    assert (done.status, done.output, moments[-1]) == (RunStatus.COMPLETED, 2, due)
    [wait] = (await document_of(store.backend, "r")).waits()
    assert (wait.kind, wait.status, wait.attempt, wait.max_attempts) == (Wait.RETRY, WaitStatus.OVER, 2, 5)


def worker(charge: Node, backend: StateBackend, clock: FakeClock) -> Flujo:
    return runner_of(charge, backend, clock=clock)


def worker_again(runner: Flujo, backend: StateBackend, clock: FakeClock) -> Flujo:
    """A runner of the same pipeline in another process: it has nothing of the first one but the store."""
    return Flujo(registry=runner.registry, pipeline_name="demo", state_backend=backend, clock=clock)


async def start_only(runner: Flujo, backend: StateBackend) -> None:
    """Start a run whose process dies before its first step ends."""
    crashing = FaultyBackend(backend, Fault(1, "after"))
    await Flujo(registry=runner.registry, pipeline_name="demo", state_backend=crashing).run_async(1, run_id="r")


async def test_run_sits_its_retries_out_and_gives_the_end_result(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    charge = failing(ledger, clock, moments, times=3, policy=HOURLY)

    done = await runner_of(charge, backend, clock=clock).run_async(1, run_id="r")

    assert (done.status, done.output, ledger["charge"]) == (RunStatus.COMPLETED, 2, 4)
    assert all(later - earlier >= HOUR / 2 for earlier, later in pairwise(moments))
    assert "run.paused" not in await kinds_of(backend, "r")


async def test_run_takes_up_a_retry_that_a_worker_left_and_waits_for_it(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    runner = worker(failing(ledger, clock, moments, times=1, policy=HOURLY), backend, clock)
    with pytest.raises(Crashed):
        await start_only(runner, backend)
    await let_lease_expire(backend, "r")
    await runner.continue_async("r")
    due = (await head_of(backend, "r")).wake_at

    done = await runner.run_async(1, run_id="r")

    assert (done.output, moments[-1]) == (2, due)


@pytest.mark.parametrize("backoff", [timedelta(seconds=1), HOUR])
async def test_crash_in_a_retry_wait_keeps_its_instant(store: Store, ledger: Ledger, backoff: timedelta) -> None:
    clock, moments = FakeClock(), list[datetime]()
    policy = RetryPolicy(2, backoff, backoff)
    runner = worker(failing(ledger, clock, moments, times=1, policy=policy), store.backend, clock)
    dying = FaultyBackend(store.backend, Fault(2, "after"))  # the failure and the instant are written, then it dies
    with pytest.raises(Crashed):
        await worker_again(runner, dying, clock).run_async(1, run_id="r")
    [wait] = (await document_of(store.backend, "r")).open_waits()
    await let_lease_expire(store.reopen(), "r")

    await worker_again(runner, store.backend, clock).continue_async("r")
    if backoff == HOUR:  # the worker leaves a long wait, and stays for a short one
        assert len(moments) == 1
        assert wait.due_at is not None
        clock.advance((wait.due_at - clock.now()).total_seconds())
        await worker_again(runner, store.backend, clock).continue_async("r")

    assert moments[1] == wait.due_at
    attempts = (await document_of(store.backend, "r")).attempts_of("charge")
    assert [a.outcome for a in attempts] == [AttemptOutcome.FAILED, None]


@pytest.mark.parametrize("backoff", [timedelta(seconds=1), HOUR])
async def test_crash_anywhere_around_a_retry_wait_changes_nothing(backoff: timedelta) -> None:
    clock = FakeClock()

    async def scenario(backend: StateBackend) -> Any:
        @step(retry=RetryPolicy(2, backoff, backoff))
        async def charge(value: int) -> int:
            waits = (await document_of(backend, "r")).waits()
            if not waits:
                raise ConnectionError
            assert all(wait.due_at and wait.due_at <= clock.now() for wait in waits), "it is tried too early"
            return value + 1

        return (await runner_of(charge, backend, clock=clock, lease=timedelta(days=1)).run_async(1, run_id="r")).output

    points = [point async for point in crash_points(InMemoryBackend, scenario)]

    assert len(points) == 8  # start, failure, second attempt, checkpoint: before and after each
    assert all(point.result == point.expected == 2 for point in points), [str(point) for point in points]


async def test_retry_of_a_branch_does_not_wait_for_its_siblings(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    charge = failing(ledger, clock, moments, times=1, policy=HOURLY)

    @step
    async def count(value: int) -> int:
        for _ in range(5_000):
            await clock.sleep(60)
            await asyncio.sleep(0.001)  # the others write meanwhile
            if len(moments) == 2:
                return value
        raise AssertionError("the other branch waits for this one")

    done = await runner_of(Step.parallel("both", [charge, count]), backend, clock=clock).run_async(1, run_id="r")

    assert done.output == {"charge": 2, "count": 1}
    assert len(moments) == 2


async def test_run_pauses_once_all_its_branches_wait(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    charge = failing(ledger, clock, moments, times=1, policy=HOURLY)
    ask = Step.human_in_the_loop("ask", message_for_user="Well?")
    runner = worker(Step.parallel("both", [charge, ask]), backend, clock)
    with pytest.raises(Crashed):
        await start_only(runner, backend)
    await let_lease_expire(backend, "r")

    paused = await runner.continue_async("r")
    head = await head_of(backend, "r")
    assert (paused.status, head.wait, head.wake_at is not None) == (RunStatus.PAUSED, Wait.HUMAN_TASK, True)

    clock.advance(HOUR.total_seconds())
    still = await runner.continue_async("r")  # the retry is due though nobody has answered
    assert (still.status, len(moments)) == (RunStatus.PAUSED, 2)
    assert (await runner.resume_async(still, "yes")).output == {"ask": "yes", "charge": 2}


async def test_cancel_ends_a_wait_for_a_retry(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    runner = worker(failing(ledger, clock, moments, times=9, policy=HOURLY), backend, clock)
    with pytest.raises(Crashed):
        await start_only(runner, backend)
    await let_lease_expire(backend, "r")
    await runner.continue_async("r")

    assert (await runner.cancel_async("r")).status is RunStatus.CANCELLED
    [wait] = (await document_of(backend, "r")).waits()
    assert (wait.status, ledger["charge"]) == (WaitStatus.CLOSED, 1)


async def test_cancel_reaches_a_run_that_sits_a_retry_out(backend: StateBackend, ledger: Ledger) -> None:
    clock = FakeClock(auto=False)
    failed = asyncio.Event()

    @step(retry=HOURLY)
    async def charge(value: int) -> int:
        ledger.add("charge")
        failed.set()
        raise ConnectionError

    runner = runner_of(charge, backend, clock=clock, lease=timedelta(seconds=30))
    running = asyncio.ensure_future(_awaited(runner.run_async(1, run_id="r")))
    await failed.wait()
    await runner.cancel_async("r")
    while not running.done():
        clock.advance(11)
        await asyncio.sleep(0.001)

    assert (await running).status is RunStatus.CANCELLED
    assert ledger["charge"] == 1


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_retry_by_a_person_does_not_wait_for_an_old_delay(backend: StateBackend, ledger: Ledger) -> None:
    clock, moments = FakeClock(), list[datetime]()
    charge = failing(ledger, clock, moments, times=2, policy=RetryPolicy(1, HOUR, HOUR))
    runner = runner_of(charge, backend, clock=clock)
    assert (await runner.run_async(1, run_id="r")).status is RunStatus.FAILED
    before = clock.now()

    done = await runner.retry_async("r")

    assert (done.output, moments[2]) == (2, before)


async def test_attempt_is_recorded_though_the_clock_goes_back_when_it_is_due(backend: StateBackend) -> None:
    class Turned(FakeClock):
        looks: int | None = None

        def random(self) -> float:
            return 0.0

        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if seconds == pause:
                self.looks = 0

        def now(self) -> datetime:
            if self.looks is None:
                return super().now()
            self.looks += 1
            return super().now() - (timedelta(0) if self.looks == 1 else timedelta(seconds=10))

    pause, tries = 0.5, []

    @step(retry=RetryPolicy(1, timedelta(seconds=1)))
    async def charge(value: int, ctx: StepContext) -> int:
        tries.append(ctx.attempt)
        raise ConnectionError("the bank is away")

    clock = Turned()
    ended = await runner_of(charge, backend, clock=clock).run_async(1, run_id="r")
    assert ended.status is RunStatus.FAILED
    assert [row.number for row in (await document_of(backend, "r")).attempts_of("charge")] == tries == [1, 2]
