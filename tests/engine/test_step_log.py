"""The log lines of a step: stored with level, fields and time, bounded, and never what makes a step fail."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from flujo import Step, StepContext, step
from flujo.reporter import MAX_LINES, RESERVE
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock

from tests.engine.making import runner_of
from tests.engine.reporting import NO_BACKOFF, lines_of, reports_of
from tests.engine.stores import Store


def asks_the_bank(value: int, attempt: int) -> int:
    if attempt == 1:
        raise ConnectionError("away")
    return value


async def test_lines_are_stored_with_level_message_fields_and_time(store: Store) -> None:
    clock = FakeClock()

    @step(retries=1, backoff=NO_BACKOFF)
    async def charge(value: int, ctx: StepContext) -> int:
        ctx.log.info("charging %s, attempt %d", "lamp", ctx.attempt, amount=20, parts=["a", {"b": 1}])
        try:
            return asks_the_bank(value, ctx.attempt)
        except ConnectionError:
            ctx.log.exception("the bank is away")
            raise

    await runner_of(charge, store.backend, clock=clock).run_async(1, run_id="r")
    backend = store.reopen()

    first, second = await lines_of(backend, "charge"), await lines_of(backend, "charge", 2)
    assert first[0] == {
        "at": "2030-01-01T00:00:00.000000+00:00",
        "level": "INFO",
        "logger": "",
        "message": "charging lamp, attempt 1",
        "fields": {"amount": 20, "parts": ["a", {"b": 1}]},
    }
    assert (first[1]["level"], "ConnectionError: away" in first[1]["fields"]["exception"]) == ("ERROR", True)
    assert [line["message"] for line in second] == ["charging lamp, attempt 2"]
    assert [row.log_lines for row in await reports_of(backend, "charge")] == [2, 1]


async def test_log_is_bounded_and_says_what_was_dropped(backend: StateBackend) -> None:
    @step
    async def chatters(value: int, ctx: StepContext) -> int:
        for number in range(MAX_LINES + 7):
            ctx.log.info("line %d", number)
        for number in range(RESERVE + 2):
            ctx.log.error("trouble %d", number)
        return value

    await runner_of(chatters, backend).run_async(1, run_id="r")

    lines = await lines_of(backend, "chatters")
    [row] = await reports_of(backend, "chatters")
    assert (len(lines), row.log_lines, row.log_dropped) == (MAX_LINES + RESERVE, MAX_LINES + RESERVE, 9)
    assert (lines[-1]["message"], lines[MAX_LINES - 1]["message"]) == (
        f"trouble {RESERVE - 1}",
        f"line {MAX_LINES - 1}",
    )


async def test_line_never_fails_its_step_and_is_cut(backend: StateBackend) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    @step
    async def logs(value: int, ctx: StepContext) -> int:
        ctx.log.info("%d apples", "no number")
        ctx.log.info("odd \0 \ud800", odd=Odd(), endless=float("nan"), long="x" * 5_000, many=list(range(5_000)))
        ctx.log.info("y" * 5_000, **{f"f{number}": number for number in range(50)})
        return value

    done = await runner_of(logs, backend).run_async(1, run_id="r")

    assert done.status is RunStatus.COMPLETED
    first, second, third = await lines_of(backend, "logs")
    assert first["message"] == "'%d apples' % ('no number',)"
    assert (second["message"], second["fields"]["odd"], second["fields"]["endless"]) == (
        "odd \\0 \\ud800",
        "<a Odd that cannot be shown>",
        "nan",
    )
    assert (len(second["fields"]["long"]), len(second["fields"]["many"])) == (1_000, 1_001)
    assert (len(third["message"]), len(third["fields"])) == (2_000, 20)


async def test_standard_logging_of_a_step_is_captured_when_asked_and_no_other_steps(backend: StateBackend) -> None:
    library = logging.getLogger("tests.some_library")
    library.setLevel(logging.INFO)

    def talk(name: str) -> None:
        library.info("%s reads", name, extra={"rows": 3})
        library.debug("not let through")

    @step(capture_log=logging.INFO)
    async def told(value: int) -> int:
        talk("told")
        await asyncio.gather(asyncio.to_thread(talk, "its thread"), asyncio.sleep(0))
        return value

    @step(capture_log=logging.WARNING)
    def sync(value: int) -> int:
        talk("sync")
        library.warning("sync warns")
        return value

    @step
    async def private(value: int) -> int:
        talk("private")
        return value

    handlers = list(logging.root.handlers)
    both = Step.parallel("both", [told, sync, private])
    await runner_of(both, backend).run_async(1, run_id="r")

    lines = await lines_of(backend, "both/told")
    assert [(line["logger"], line["message"], line["fields"]) for line in lines] == [
        ("tests.some_library", "told reads", {"rows": 3}),
        ("tests.some_library", "its thread reads", {"rows": 3}),
    ]
    assert [line["message"] for line in await lines_of(backend, "both/sync")] == ["sync warns"]
    assert await reports_of(backend, "both/private") == []
    assert logging.root.handlers == handlers


@pytest.mark.slow
async def test_late_thread_adds_nothing_to_the_log_of_an_attempt_that_is_over(backend: StateBackend) -> None:
    go_on, over = threading.Event(), threading.Event()

    @step(timeout=timedelta(seconds=0.25))
    def slow(value: int, ctx: StepContext) -> int:
        ctx.log.info("in time")
        assert go_on.wait(10)
        ctx.log.info("late")
        ctx.progress(1)
        over.set()
        return value

    await runner_of(slow, backend).run_async(1, run_id="r")
    go_on.set()
    await asyncio.to_thread(over.wait, 10)

    assert [line["message"] for line in await lines_of(backend, "slow")] == ["in time"]
    assert [row.done for row in await reports_of(backend, "slow")] == [None]


async def test_log_of_a_cancelled_step_is_kept(backend: StateBackend) -> None:
    begun = asyncio.Event()

    @step
    async def waits(value: int, ctx: StepContext) -> int:
        ctx.log.info("waiting")
        begun.set()
        await asyncio.sleep(60)
        return value

    runner = runner_of(waits, backend)
    running = asyncio.ensure_future(_awaited(runner.run_async(1, run_id="r")))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert [line["message"] for line in await lines_of(backend, "waits")] == ["waiting"]


async def _awaited(handle: Any) -> Any:
    return await handle
