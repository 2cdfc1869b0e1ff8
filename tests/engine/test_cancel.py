"""Cancelling is a request that is stored, reaches every step under way, takes effect at a safe point, and is final."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from flujo import Flujo, Step, StepContext, attempts, step, transitions, watch
from flujo.clock import SystemClock
from flujo.errors import IllegalTransition, RunCancelled
from flujo.pipeline import Node, Pipeline
from flujo.result import PipelineResult
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus
from flujo.testing import crash_points

from tests.engine.making import Crash, Ledger, bury_holder, document_of, head_of, kinds_of, runner_of
from tests.engine.stores import Store

SOON = 10.0  # seconds after which a test gives up; the lease of 30 s is never waited for


class Steps:
    """Steps that last until they are stopped, and tell the test where they are."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.ledger = Ledger()
        self.loop = asyncio.get_running_loop()

        @step
        async def long(value: Any) -> Any:
            self.begun.release()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ledger.add("interrupted")
                raise

        @step
        def threaded(value: Any, ctx: StepContext) -> str:
            self.loop.call_soon_threadsafe(self.begun.release)
            while not ctx.cancelled:
                threading.Event().wait(0.002)
            self.ledger.add("told")
            return "what was done so far"

        @step
        async def after(value: Any) -> Any:
            self.ledger.add("after")
            return value

        self.long, self.threaded, self.after = long, threaded, after


async def cancelled(runner: Flujo, steps: Steps, value: Any = 1, *, begun: int = 1) -> PipelineResult:
    """Run until `begun` steps have begun, cancel, and give what the run came to."""
    async with asyncio.timeout(SOON):
        work = asyncio.ensure_future(_awaited(runner.run_async(value, run_id="r")))
        for _ in range(begun):
            await steps.begun.acquire()
        await runner.cancel_async("r", actor="ana", reason="enough")
        return await work


async def _awaited(handle: Any) -> PipelineResult:
    result: PipelineResult = await handle
    return result


async def outcomes(backend: StateBackend) -> dict[str, AttemptOutcome | None]:
    return {attempt.path: attempt.outcome for attempt in (await document_of(backend, "r")).attempts()}


async def test_cancel_interrupts_an_async_step_at_once(backend: StateBackend) -> None:
    steps = Steps()
    result = await cancelled(runner_of(steps.long >> steps.after, backend), steps)

    assert (result.status, steps.ledger) == (RunStatus.CANCELLED, {"interrupted": 1})
    assert await outcomes(backend) == {"long": AttemptOutcome.CANCELLED}
    assert (await kinds_of(backend, "r"))[-2:] == ["run.cancel_requested", "run.cancelled"]
    with pytest.raises(RunCancelled):
        await runner_of(steps.long >> steps.after, backend).continue_async("r")


async def test_cancel_tells_a_sync_step_and_saves_what_it_returns(backend: StateBackend) -> None:
    steps = Steps()
    result = await cancelled(runner_of(steps.threaded >> steps.after, backend), steps)

    assert (result.status, steps.ledger) == (RunStatus.CANCELLED, {"told": 1})
    assert [(done.name, done.output) for done in result.step_history] == [("threaded", "what was done so far")]


async def test_step_that_raises_because_it_was_told_to_stop_is_cancelled(backend: StateBackend) -> None:
    steps = Steps()

    @step
    def obedient(value: Any, ctx: StepContext) -> str:
        steps.loop.call_soon_threadsafe(steps.begun.release)
        while not ctx.cancelled:
            threading.Event().wait(0.002)
        raise RuntimeError("stopped")

    @step(retries=5)
    async def tidy(value: Any) -> str:
        steps.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("gone")

    both = Step.parallel("both", {"one": obedient, "two": tidy})
    result = await cancelled(runner_of(both, backend), steps, begun=2)

    assert result.status is RunStatus.CANCELLED
    assert await outcomes(backend) == dict.fromkeys(("both/one", "both/two"), AttemptOutcome.CANCELLED)
    assert "step.failed" not in await kinds_of(backend, "r")


async def test_cancel_does_not_wait_for_ever_for_a_sync_step(
    backend: StateBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "GRACE_SECONDS", 0.02)
    steps, go_on = Steps(), threading.Event()

    @step
    def deaf(value: int) -> int:
        steps.loop.call_soon_threadsafe(steps.begun.release)
        go_on.wait(SOON)
        return value

    result = await cancelled(runner_of(deaf, backend), steps)
    go_on.set()

    assert (result.status, result.output) == (RunStatus.CANCELLED, None)
    assert await outcomes(backend) == {"deaf": AttemptOutcome.CANCELLED}
    assert (await document_of(backend, "r")).checkpoints() == []


def _parallel(steps: Steps) -> Node | Pipeline:
    return Step.parallel("both", {"a": steps.long >> steps.after, "b": steps.threaded >> steps.after})


def _collecting_map(steps: Steps) -> Node | Pipeline:
    return Step.map_over("each", steps.long >> steps.after, max_parallel=2, on_error="collect")


def _deep(steps: Steps) -> Node | Pipeline:
    inner = Step.parallel("inner", [Step.map_over("each", steps.long, max_parallel=2)])
    return Step.fallback("try", (inner >> steps.after).as_step("whole"), steps.after) >> steps.after


@pytest.mark.parametrize("build", [_parallel, _collecting_map, _deep])
async def test_cancel_reaches_all_that_runs_inside_constructs(
    backend: StateBackend, build: Callable[[Steps], Node | Pipeline]
) -> None:
    steps = Steps()
    result = await cancelled(runner_of(build(steps), backend), steps, [1, 2], begun=2)

    assert result.status is RunStatus.CANCELLED
    assert sum(steps.ledger.values()) == 2, "both branches stop, nothing after them runs, no fallback, no third item"
    assert "after" not in steps.ledger
    last = await outcomes(backend)
    assert set(last.values()) <= {AttemptOutcome.CANCELLED, None}
    assert all(outcome for path, outcome in last.items() if "long" in path)


async def test_cancel_does_not_begin_the_items_that_wait_for_a_place(backend: StateBackend) -> None:
    steps = Steps()
    await cancelled(runner_of(Step.map_over("each", steps.long, max_parallel=1), backend), steps, [1, 2, 3])
    assert list(await outcomes(backend)) == ["each[0]/long"]


async def test_cancel_ends_the_wait_between_two_attempts(backend: StateBackend) -> None:
    steps = Steps()

    @step(retries=1, backoff=timedelta(minutes=1))
    async def flaky(value: int) -> int:
        steps.loop.call_later(0.02, steps.begun.release)
        raise ConnectionError("no answer")

    assert (await cancelled(runner_of(flaky, backend), steps)).status is RunStatus.CANCELLED


async def test_cancel_saves_what_a_step_finishes_in_spite_of_it(backend: StateBackend) -> None:
    steps = Steps()

    @step
    async def stubborn(value: int) -> int:
        steps.begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7
        return 0

    left: list[int] = []

    async def run_and_look() -> PipelineResult:
        result = await runner_of(stubborn >> steps.after, backend).run_async(1, run_id="r")
        task = asyncio.current_task()
        assert task is not None
        left.append(task.cancelling())
        return result

    async with asyncio.timeout(SOON):
        work = asyncio.ensure_future(run_and_look())
        await steps.begun.acquire()
        await runner_of(stubborn >> steps.after, backend).cancel_async("r")
        result = await work

    assert (result.status, [done.output for done in result.step_history]) == (RunStatus.CANCELLED, [7])
    assert (left, steps.ledger) == ([0], {}), "the caller's task is not left half cancelled"


async def test_cancelled_run_whose_step_then_fails_is_cancelled_all_the_same(backend: StateBackend) -> None:
    @step
    async def broken(value: int) -> int:
        await backend.transact("r", _request())
        raise RuntimeError("broken")

    runner = runner_of(broken, backend)
    assert (await runner.run_async(1, run_id="r")).status is RunStatus.CANCELLED
    assert await outcomes(backend) == {"broken": AttemptOutcome.FAILED}
    with pytest.raises(IllegalTransition):
        await runner.retry_async("r")


def _request() -> Any:
    """A request that comes from elsewhere: nobody in this process hears of it."""
    return transitions.cancel(actor="ana", reason="enough", now=SystemClock().now(), facts={})


async def test_cancel_from_elsewhere_is_noticed_without_a_hint(durable: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    steps = Steps()
    async with asyncio.timeout(SOON):
        work = asyncio.ensure_future(_awaited(runner_of(steps.long, durable.backend).run_async(1, run_id="r")))
        await steps.begun.acquire()
        await durable.reopen().transact("r", _request())
        assert (await work).status is RunStatus.CANCELLED
    assert steps.ledger == {"interrupted": 1}


async def _crash(backend: StateBackend, *, after_request: bool) -> Flujo:
    """A runner whose process died in the first step of run `r`."""

    @step
    async def dies(value: int) -> int:
        if after_request:
            await backend.transact("r", _request())
        raise Crash

    runner = runner_of(dies, backend)
    with pytest.raises(Crash):
        await runner.run_async(1, run_id="r")
    await bury_holder(backend, "r")
    return runner


async def test_requested_cancellation_survives_the_death_of_the_worker(backend: StateBackend) -> None:
    runner = await _crash(backend, after_request=True)
    assert (await head_of(backend, "r")).status is RunStatus.RUNNING
    assert (await runner.continue_async("r")).status is RunStatus.CANCELLED
    assert await outcomes(backend) == {"dies": AttemptOutcome.LOST}


@pytest.mark.parametrize("requested", [False, True])
async def test_cancel_ends_a_run_at_once_whose_worker_is_gone(backend: StateBackend, requested: bool) -> None:
    runner = await _crash(backend, after_request=requested)
    assert (await runner.cancel_async("r")).status is RunStatus.CANCELLED
    assert await outcomes(backend) == {"dies": AttemptOutcome.LOST}
    assert (await kinds_of(backend, "r"))[-2:] == ["lease.lost", "run.cancelled"]


async def test_cancel_requested_of_a_worker_that_stops_ends_the_run(backend: StateBackend) -> None:
    steps = Steps()
    work = asyncio.ensure_future(_awaited(runner_of(steps.long, backend).run_async(1, run_id="r")))
    await steps.begun.acquire()
    await backend.transact("r", _request())
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await head_of(backend, "r")).status is RunStatus.CANCELLED


async def test_crash_anywhere_in_a_cancellation_leaves_it_to_be_carried_out() -> None:
    async def scenario(backend: StateBackend) -> Any:
        @step
        async def first(value: int) -> int:
            return value

        @step
        async def second(value: int) -> int:
            await backend.transact("r", _request())
            await asyncio.sleep(0)
            return value

        @step
        async def third(value: int) -> int:
            raise AssertionError("a cancelled run goes no further")

        with suppress(RunCancelled):
            await runner_of(first >> second >> third, backend).run_async(1, run_id="r")
        return (await head_of(backend, "r")).status

    points = [point async for point in crash_points(InMemoryBackend, scenario)]
    assert len(points) >= 8
    assert {str(point): point.result for point in points} == {str(point): RunStatus.CANCELLED for point in points}


@pytest.mark.slow
async def test_lease_is_kept_while_an_interrupted_step_tidies_up(backend: StateBackend) -> None:
    steps = Steps()
    held: list[Any] = []

    @step
    async def tidy(value: int) -> int:
        steps.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            held.append((await head_of(backend, "r")).lease_expires_at)
            await asyncio.sleep(0.3)
            held.append((await head_of(backend, "r")).lease_expires_at)
        return value

    runner = runner_of(tidy, backend, lease=timedelta(seconds=0.3))
    assert (await cancelled(runner, steps)).status is RunStatus.CANCELLED
    assert held[1] > held[0]
    assert await outcomes(backend) == {"tidy": AttemptOutcome.CANCELLED}
