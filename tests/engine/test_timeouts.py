"""Timeouts: what they stop, and what they say of the threads that they cannot stop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from datetime import timedelta

import pytest
from flujo import PipelineContext, StepContext, step
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus
from flujo.threads import left_running

from tests.engine.making import Ledger, document_of, head_of, runner_of

AT_ONCE = timedelta(0)


class Marked(PipelineContext):
    mark: str = "on time"


@pytest.mark.parametrize("sync", [False, True])
async def test_timeout_fails_the_attempt_and_tells_the_step(
    backend: StateBackend, ledger: Ledger, *, sync: bool
) -> None:
    told = threading.Event()

    @step(name="slow", timeout=timedelta(seconds=0.05), retries=1, backoff=AT_ONCE)
    async def slow(value: int, ctx: StepContext) -> int:
        ledger.add("slow")
        if ctx.attempt == 1:
            try:
                await asyncio.sleep(30)
            finally:
                told.set()
        return value

    @step(name="slow", timeout=timedelta(seconds=0.05), retries=1, backoff=AT_ONCE)
    def slow_in_a_thread(value: int, ctx: StepContext) -> int:
        ledger.add("slow")
        while ctx.attempt == 1:
            time.sleep(0.005)
            if ctx.cancelled:
                told.set()
                return -1
        return value

    result = await runner_of(slow_in_a_thread if sync else slow, backend).run_async(5, run_id="r")

    assert (result.status, result.output, ledger["slow"]) == (RunStatus.COMPLETED, 5, 2)
    assert told.wait(5)
    first = (await document_of(backend, "r")).attempts_of("slow")[0]
    assert (first.outcome, first.error_type) == (AttemptOutcome.FAILED, "StepTimeout")


async def test_step_that_returns_though_its_time_is_up_has_failed(backend: StateBackend) -> None:
    @step(timeout=timedelta(seconds=0.05))
    async def stubborn(value: int) -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return value

    failed = await runner_of(stubborn, backend).run_async(1)

    assert failed.error == "StepTimeout: Step 'stubborn' did not finish within 0:00:00.050000."


async def test_timeout_error_of_the_step_itself_is_its_own(backend: StateBackend) -> None:
    @step(timeout=timedelta(seconds=30))
    async def calls(value: int) -> int:
        raise TimeoutError("the bank did not answer")

    failed = await runner_of(calls, backend).run_async(1)

    assert failed.error == "TimeoutError: the bank did not answer"


async def test_thread_that_goes_on_after_its_time_is_told_of_and_its_late_result_never_recorded(
    backend: StateBackend, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, over = threading.Event(), threading.Event()

    @step(timeout=timedelta(seconds=0.02), retries=50, backoff=AT_ONCE)  # a busy machine may miss the second one too
    def slow(value: int, context: Marked, ctx: StepContext) -> int:
        if ctx.attempt > 1:
            return value
        assert go_on.wait(10)
        context.mark = "late"
        ctx.describe(title="late")
        over.set()
        return -1

    @step
    async def after(value: int, context: Marked) -> str:
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        return f"{value} {context.mark}"

    result = await runner_of(slow >> after, backend).run_async(5, run_id="r")

    assert (result.output, (await head_of(backend, "r")).title) == ("5 on time", "")
    assert "Step 'slow' of run r is no longer waited for, but its thread cannot be stopped" in caplog.text
    told = re.search(r"go on like that: (\d+)\.", caplog.text)
    assert told is not None
    await asyncio.to_thread(_fewer_go_on_than, int(told[1]))


def _fewer_go_on_than(number: int) -> None:
    while left_running() >= number:
        time.sleep(0.001)
