"""What a step promises: retries, backoff, timeouts, the step context, and how a run is followed and interrupted."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from flujo import Step, StepContext, StepResult, step
from flujo.errors import Fenced, PipelineDefinitionError, StepNotFinished, UnstorableValue
from flujo.retry import RetryPolicy
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus
from flujo.testing import FakeClock

from tests.engine.making import Ledger, document_of, expire_lease, head_of, kinds_of, runner_of
from tests.engine.stores import Store

AT_ONCE = timedelta(0)


async def test_failed_attempt_is_tried_again(backend: StateBackend, ledger: Ledger) -> None:
    keys: set[str] = set()

    @step(retries=3, backoff=AT_ONCE)
    async def flaky(value: int, ctx: StepContext) -> int:
        ledger.add(f"attempt {ctx.attempt}")
        keys.add(ctx.idempotency_key)
        if ctx.attempt < 3:
            raise ConnectionError(f"try {ctx.attempt}")
        return value

    result = await runner_of(flaky, backend).run_async(1, run_id="r")

    assert (result.status, result.step_history[0].attempts) == (RunStatus.COMPLETED, 3)
    assert ledger == {f"attempt {k}": 1 for k in (1, 2, 3)}
    assert len(keys) == 1, "the idempotency key is the same for every attempt"
    attempts = (await document_of(backend, "r")).attempts_of("flaky")
    assert [(a.number, a.outcome, a.error_message) for a in attempts] == [
        (1, AttemptOutcome.FAILED, "try 1"),
        (2, AttemptOutcome.FAILED, "try 2"),
        (3, None, ""),
    ]
    assert "ConnectionError: try 1" in attempts[0].traceback
    assert f'File "{__file__}"' in attempts[0].traceback.splitlines()[1]  # not the engine's way to the step


async def test_retries_are_used_up_and_a_retry_of_the_run_gives_them_anew(
    backend: StateBackend, ledger: Ledger
) -> None:
    @step(retries=2, backoff=AT_ONCE)
    def broken(value: int) -> int:
        ledger.add("broken")
        raise ValueError("never")

    runner = runner_of(broken, backend)
    failed = await runner.run_async(1, run_id="r")
    assert (failed.status, failed.error, ledger["broken"]) == (RunStatus.FAILED, "ValueError: never", 3)

    again = await runner.retry_async("r")

    assert (again.status, ledger["broken"]) == (RunStatus.FAILED, 6)
    assert [a.round for a in (await document_of(backend, "r")).attempts_of("broken")] == [0, 0, 0, 1, 1, 1]


async def test_backoff_doubles_with_jitter_and_has_a_bound(backend: StateBackend) -> None:
    clock = FakeClock()
    moments: list[float] = []

    @step(retries=4, backoff=timedelta(seconds=10))
    async def broken(value: int) -> int:
        moments.append(clock.now().timestamp())
        raise ValueError

    await runner_of(broken, backend, clock=clock).run_async(1, run_id="r")

    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert all(base / 2 <= wait <= base for wait, base in zip(waits, (10, 20, 40, 80), strict=True))
    policy = RetryPolicy(retries=10_000, backoff=timedelta(seconds=1))
    assert all((policy.delay(k, 0.999) or 999) <= 300 for k in (20, 2_000, 10_000))
    assert policy.delay(10_001, 0.5) is None


async def test_sync_step_leaves_the_loop_free(backend: StateBackend) -> None:
    go_on, threads = threading.Event(), set()

    @step
    def wait(value: int) -> int:
        threads.add(threading.current_thread() is threading.main_thread())
        assert go_on.wait(10)
        return value

    work = asyncio.ensure_future(_awaited(runner_of(wait, backend).run_async(1)))
    await asyncio.sleep(0.05)
    assert not work.done()
    go_on.set()

    assert (await work).output == 1
    assert threads == {False}


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_output_of_reaches_any_earlier_step_with_its_type(backend: StateBackend) -> None:
    @dataclasses.dataclass
    class Price:
        cents: int

    @step
    async def price(order: str) -> Price:
        return Price(len(order))

    @step
    async def tax(price: Price) -> int:
        return price.cents * 2

    @step
    async def total(tax: int, ctx: StepContext) -> int:
        earlier = ctx.output_of("price")
        assert earlier == Price(4)
        for unknown in ("total", "nobody"):
            with pytest.raises(StepNotFinished, match=unknown):
                ctx.output_of(unknown)
        return int(earlier.cents + tax)

    assert (await runner_of(price >> tax >> total, backend).run_async("lamp")).output == 12


async def test_step_describes_its_run(backend: StateBackend) -> None:
    @step
    async def first(value: int, ctx: StepContext) -> int:
        ctx.describe(title="Order 7", tags=["eu", "new"])
        return value

    @step
    async def second(value: int, ctx: StepContext) -> int:
        ctx.describe(owner="ana")
        return value

    runner = runner_of(first >> second, backend)
    await runner.run_async(1, run_id="r", title="?", owner="ben", requester="eva", tags=["old"])

    head = await head_of(backend, "r")
    assert (head.title, head.owner, head.requester, head.tags) == ("Order 7", "ana", "eva", '["eu","new"]')
    assert (await kinds_of(backend, "r")).count("run.described") == 2


async def test_description_that_no_store_can_hold_fails_the_step(backend: StateBackend) -> None:
    for number, wrong in enumerate(
        ({"title": "a\0b"}, {"title": "x" * 201}, {"tags": ["\ud800"]}, {"tags": [object()]})
    ):

        @step
        async def first(value: int, ctx: StepContext, wrong: Any = wrong) -> int:
            ctx.describe(**wrong)
            return value

        failed = await runner_of(first, backend).run_async(1, run_id=f"r{number}")

        assert failed.status is RunStatus.FAILED
        assert (await document_of(backend, f"r{number}")).checkpoints() == []


async def test_value_that_cannot_be_stored_fails_the_step_and_writes_nothing(
    backend: StateBackend, ledger: Ledger
) -> None:
    @step(retries=5, backoff=AT_ONCE)
    async def make(value: int) -> Any:
        ledger.add("make")
        return {"lines": [1, {"price": float("nan")}]}

    failed = await runner_of(make, backend).run_async(1, run_id="r")

    assert failed.status is RunStatus.FAILED
    assert failed.error is not None
    assert failed.error.startswith("UnstorableValue: the output of step 'make'.lines[1].price is nan")
    assert ledger["make"] == 1, "trying again cannot help"
    assert (await document_of(backend, "r")).checkpoints() == []


async def test_step_receives_stored_bytes_never_the_live_object(backend: StateBackend) -> None:
    given: list[Any] = []

    @step
    async def make(value: int) -> Any:
        given.append({"tuple": (1, 2), "list": []})
        return given[0]

    @step
    async def take(value: Any) -> Any:
        assert value is not given[0]
        assert value == {"tuple": [1, 2], "list": []}
        value["list"].append("changed")
        return value["list"]

    @step
    async def look(value: Any, ctx: StepContext) -> Any:
        return ctx.output_of("make")["list"]

    assert (await runner_of(make >> take >> look, backend).run_async(1)).output == []


async def test_steps_are_followed_as_they_finish(backend: StateBackend) -> None:
    @step
    async def one(value: int) -> int:
        return value + 1

    @step
    async def two(value: int) -> int:
        return value + 1

    handle = runner_of(one >> two, backend).run_async(1, run_id="r")
    seen: list[StepResult] = []
    async for finished in handle:
        seen.append(finished)
        assert (await document_of(backend, "r")).checkpoint(finished.path) is not None
    result = await handle

    assert [(s.name, s.output) for s in seen] == [("one", 2), ("two", 3)]
    assert (result.output, result.step_history) == (3, seen)


async def test_error_of_a_run_reaches_who_follows_it(backend: StateBackend) -> None:
    runner = runner_of(Step.human_in_the_loop("approve"), backend)
    await runner.run_async(run_id="r")
    await runner.cancel_async("r")
    handle = runner.run_async(run_id="r")

    with pytest.raises(Exception, match="cancelled"):
        async for _ in handle:
            pass
    with pytest.raises(Exception, match="cancelled"):
        await handle


@pytest.mark.parametrize("sync", [False, True])
async def test_interrupted_run_gives_its_lease_back(backend: StateBackend, ledger: Ledger, *, sync: bool) -> None:
    started, told = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @step(name="work")
    async def work(value: int) -> int:
        ledger.add("work")
        started.set()
        if ledger["work"] == 1:
            await asyncio.sleep(30)
        return value

    @step(name="work")
    def work_in_a_thread(value: int, ctx: StepContext) -> int:
        ledger.add("work")
        loop.call_soon_threadsafe(started.set)
        if ledger["work"] == 1:
            while not ctx.cancelled:
                time.sleep(0.005)
            told.set()
        return value

    runner = runner_of(work_in_a_thread if sync else work, backend)
    task = asyncio.ensure_future(_awaited(runner.run_async(1, run_id="r")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    head = await head_of(backend, "r")
    assert (head.status, head.holder, head.lease_expires_at) == (RunStatus.QUEUED, None, None)
    assert (await document_of(backend, "r")).attempts_of("work")[0].outcome is AttemptOutcome.RELEASED
    if sync:
        assert told.wait(5)
    assert (await runner.run_async(1, run_id="r")).status is RunStatus.COMPLETED


async def test_worker_that_lost_its_lease_writes_nothing_more(backend: StateBackend) -> None:
    tokens: list[int] = []

    @step
    async def work(value: int, ctx: StepContext) -> int:
        tokens.append(ctx.fencing_token)
        if len(tokens) == 1:
            await expire_lease(backend, "r")
            other = runner_of(work, backend)
            assert (await other.continue_async("r")).output == tokens[1]
        return ctx.fencing_token

    with pytest.raises(Fenced):
        await runner_of(work, backend).run_async(1, run_id="r")

    document = await document_of(backend, "r")
    (checkpoint,) = document.checkpoints()
    assert (checkpoint.output, checkpoint.fence) == (str(tokens[1]), tokens[1])
    assert tokens == sorted(set(tokens))


@pytest.mark.slow
async def test_heartbeat_keeps_the_lease_of_a_long_step(backend: StateBackend) -> None:
    lease = timedelta(seconds=0.3)

    @step
    async def long(value: int, ctx: StepContext) -> int:
        started = (await head_of(backend, "r")).lease_expires_at
        await asyncio.sleep(0.5)
        now = (await head_of(backend, "r")).lease_expires_at
        assert started is not None
        assert now is not None
        assert now - started > timedelta(seconds=0.25)
        return value

    assert (await runner_of(long, backend, lease=lease).run_async(1, run_id="r")).status is RunStatus.COMPLETED


async def test_cancelling_a_running_run_stops_it_at_a_safe_point(backend: StateBackend, ledger: Ledger) -> None:
    @step
    async def first(value: int, ctx: StepContext) -> int:
        await runner.cancel_async("r", actor="ana", reason="enough")
        return value

    @step
    async def second(value: int) -> int:
        ledger.add("second")
        return value

    runner = runner_of(first >> second, backend)
    result = await runner.run_async(1, run_id="r")

    assert (result.status, ledger) == (RunStatus.CANCELLED, {})
    assert [s.name for s in result.step_history] == ["first"]
    assert "run.cancel_requested" in await kinds_of(backend, "r")


async def test_cancelling_reaches_into_a_long_step(backend: StateBackend) -> None:
    @step
    async def long(value: int) -> int:
        await runner.cancel_async("r")
        await asyncio.sleep(30)
        return value

    runner = runner_of(long, backend, lease=timedelta(seconds=0.15))

    assert (await runner.run_async(1, run_id="r")).status is RunStatus.CANCELLED


async def test_drained_worker_stops_between_two_steps(backend: StateBackend, ledger: Ledger) -> None:
    drain = asyncio.Event()

    @step
    async def first(value: int) -> int:
        ledger.add("first")
        drain.set()
        return value

    @step
    async def second(value: int) -> int:
        ledger.add("second")
        return value

    runner = runner_of(first >> second, backend)
    with pytest.raises(asyncio.CancelledError):
        await _interrupted_start(runner, backend)
    await runner.continue_async("r", drain=drain)

    assert (await head_of(backend, "r")).status is RunStatus.QUEUED
    assert ledger == {"first": 1}
    assert (await runner.continue_async("r")).status is RunStatus.COMPLETED
    assert ledger == {"first": 1, "second": 1}


async def _interrupted_start(runner: Any, backend: StateBackend) -> None:
    """Leave the run queued, as a worker would find it."""
    from flujo.start import new_run
    from flujo.transitions import start

    entry = runner.registry.get("demo")
    new = new_run(entry, 1, {"run_id": "r"})
    await backend.transact("r", start(new, now=runner.clock.now(), claim=None, facts={}))
    raise asyncio.CancelledError


async def test_swallowing_exceptions_does_not_swallow_an_interruption(backend: StateBackend) -> None:
    started = asyncio.Event()

    @step
    async def careless(value: int) -> int:
        try:
            started.set()
            await asyncio.sleep(30)
        except Exception:  # what users write
            return -1
        return value

    task = asyncio.ensure_future(_awaited(runner_of(careless, backend).run_async(1, run_id="r")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await document_of(backend, "r")).checkpoints() == []


async def test_unstorable_error_text_is_stored_readably(backend: StateBackend) -> None:
    @step
    async def broken(value: int) -> int:
        raise ValueError("NUL \0 and half a pair \ud800")

    failed = await runner_of(broken, backend).run_async(1, run_id="r")

    assert failed.error == "ValueError: NUL \\0 and half a pair \\ud800"


async def test_every_run_knows_who_asked_for_what(built_in: Store) -> None:
    runner = runner_of(Step.human_in_the_loop("approve"), built_in.backend)
    await runner.run_async(run_id="a", title="A", owner="ana", requester="eva", tags=["x"])
    await runner.run_async(run_id="b")

    heads = await built_in.backend.heads()

    assert [(h.run_id, h.title, h.owner, h.requester, h.tags) for h in heads] == [
        ("a", "A", "ana", "eva", '["x"]'),
        ("b", "", "", "", "[]"),
    ]
    assert [h.run_id for h in await built_in.backend.heads(limit=1, after="a")] == ["b"]


@pytest.mark.parametrize(
    "wrong",
    [{"retries": -1}, {"backoff": timedelta(seconds=-1)}, {"timeout": timedelta(0)}, {"name": "a/b"}, {"name": " "}],
)
def test_step_that_makes_no_sense_is_refused_when_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(PipelineDefinitionError):

        @step(**wrong)
        async def some(value: int) -> int:
            return value


def test_unstorable_value_names_the_path() -> None:
    error = UnstorableValue("x", path="a.b")
    assert (error.code, error.details["path"]) == ("unstorable_value", "a.b")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


NASTY_ERRORS = {
    "mute": (Mute(), "Mute: (its message failed with RuntimeError)"),
    "long name": (type("N" * 300, (Exception,), {})("x"), f"{'N' * 200}: x"),
    "text that no store holds": (ValueError("a\0b \ud800"), "ValueError: a\\0b \\ud800"),
}


@pytest.mark.parametrize("name", NASTY_ERRORS)
async def test_error_is_kept_whatever_it_says_of_itself(backend: StateBackend, name: str) -> None:
    error, kept = NASTY_ERRORS[name]

    @step
    async def raises(value: int) -> int:
        raise error

    failed = await runner_of(raises, backend).run_async(1, run_id="r")
    assert (failed.status, failed.error) == (RunStatus.FAILED, kept)
