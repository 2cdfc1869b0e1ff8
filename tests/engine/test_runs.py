"""What `run` does with an id, by the status that is stored under it."""

from __future__ import annotations

import asyncio
import inspect
from datetime import timedelta
from typing import Any, get_args, get_type_hints

import pytest
from flujo import PipelineRegistry, StepContext, step
from flujo.errors import (
    InvalidInput,
    InvalidRunId,
    PipelineNotFound,
    RunCancelled,
    RunConflict,
    RunDeleted,
    RunFailed,
    RunIsLeased,
    RunNotFound,
)
from flujo.retry import RetryPolicy
from flujo.runner import Flujo
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus

from tests.engine.making import (
    Crash,
    Ledger,
    bury_holder,
    document_of,
    expire_lease,
    head_of,
    hold_elsewhere,
    kinds_of,
    order_pipeline,
    runner_of,
)
from tests.engine.stores import Store


async def paused(backend: StateBackend, ledger: Ledger) -> Flujo:
    runner = runner_of(order_pipeline(ledger), backend)
    result = await runner.run_async("lamp", run_id="r")
    assert result.status is RunStatus.PAUSED
    return runner


async def crashed(backend: StateBackend, ledger: Ledger, crash_in: str = "ship") -> Flujo:
    """A run whose process died inside a step, after the step's effect."""
    runner = runner_of(order_pipeline(ledger, crash_in=crash_in), backend)
    with pytest.raises(Crash):
        await _run_and_answer(runner)
    return runner_of(order_pipeline(ledger), backend)


async def _run_and_answer(runner: Flujo) -> None:
    paused = await runner.run_async("lamp", run_id="r")
    await runner.resume_async(paused, "yes")


async def test_run_gives_the_result_of_each_step(backend: StateBackend) -> None:
    @step
    async def double(number: int) -> int:
        return number * 2

    @step
    def tell(number: int) -> str:
        return f"{number} lamps"

    result = await runner_of(double >> tell, backend).run_async(4, run_id="r")

    assert (result.status, result.output, result.run_id) == (RunStatus.COMPLETED, "8 lamps", "r")
    assert [(s.name, s.path, s.success, s.output, s.attempts) for s in result.step_history] == [
        ("double", "double", True, 8, 1),
        ("tell", "tell", True, "8 lamps", 1),
    ]
    assert result.final_pipeline_context.run_id == "r"
    assert all(s.finished_at is not None and s.started_at <= s.finished_at for s in result.step_history)


async def test_run_without_an_id_makes_a_new_one_each_time(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)

    first, second = await runner.run_async("lamp"), await runner.run_async("lamp")

    assert first.run_id != second.run_id
    assert ledger["price"] == 2


async def test_run_takes_its_id_from_the_initial_context(backend: StateBackend, ledger: Ledger) -> None:
    result = await runner_of(order_pipeline(ledger), backend).run_async("a", initial_context_data={"run_id": "mine"})

    assert (result.run_id, result.final_pipeline_context.run_id) == ("mine", "mine")


@pytest.mark.parametrize("run_id", ["../escape", "a/b", ".hidden", "a b", "x" * 129, "ü", "a\n", "-a"])
async def test_run_refuses_an_id_that_is_no_name(backend: StateBackend, ledger: Ledger, run_id: str) -> None:
    with pytest.raises(InvalidRunId):
        await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id=run_id)
    assert not ledger


async def test_crashed_run_resumes_from_the_saved_step(store: Store, ledger: Ledger) -> None:
    await crashed(store.backend, ledger)
    await bury_holder(store.backend, "r")
    backend = store.reopen()

    result = await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")

    assert (result.status, result.output) == (RunStatus.COMPLETED, "SHIPPED: YES")
    assert ledger == {"price": 1, "ship": 2, "tell": 1}
    assert "lease.lost" in await kinds_of(backend, "r")
    attempts = (await document_of(backend, "r")).attempts_of("ship")
    assert [(a.number, a.outcome) for a in attempts] == [(1, AttemptOutcome.LOST), (2, None)]


async def test_crashed_run_resumes_once_its_lease_has_expired(backend: StateBackend, ledger: Ledger) -> None:
    runner = await crashed(backend, ledger)
    await hold_elsewhere(backend, "r")
    with pytest.raises(RunIsLeased):
        await runner.run_async("lamp", run_id="r")
    await expire_lease(backend, "r")

    assert (await runner.run_async("lamp", run_id="r")).status is RunStatus.COMPLETED


async def test_paused_run_is_returned_as_often_as_it_is_asked(store: Store, ledger: Ledger) -> None:
    await paused(store.backend, ledger)
    events = await kinds_of(store.backend, "r")

    for _ in range(3):
        result = await runner_of(order_pipeline(ledger), store.reopen()).run_async("lamp", run_id="r")
        assert result.status is RunStatus.PAUSED
        assert result.pause is not None
        assert (result.pause.path, result.pause.message) == ("approve", "Ship it?")

    assert ledger == {"price": 1}
    assert await kinds_of(store.backend, "r") == events


async def test_completed_run_is_returned_and_nothing_runs(store: Store, ledger: Ledger) -> None:
    runner = await paused(store.backend, ledger)
    done = await runner.resume_async("r", "yes")
    backend = store.reopen()

    again = await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")

    assert again == done
    assert ledger == {"price": 1, "ship": 1, "tell": 1}


async def test_failed_run_asks_for_a_retry(backend: StateBackend, ledger: Ledger) -> None:
    broken = runner_of(order_pipeline(ledger, fail_in="ship"), backend)
    await broken.run_async("lamp", run_id="r")
    failed = await broken.resume_async("r", "yes")
    assert (failed.status, failed.error) == (RunStatus.FAILED, "RuntimeError: ship is broken")
    assert failed.step_history[-1].error == "RuntimeError: ship is broken"
    mended = runner_of(order_pipeline(ledger), backend)

    with pytest.raises(RunFailed, match="retry"):
        await mended.run_async("lamp", run_id="r")
    done = await mended.retry_async("r", actor="ana", reason="mended")

    assert (done.status, done.error) == (RunStatus.COMPLETED, None)
    assert ledger == {"price": 1, "ship": 2, "tell": 1}
    assert "run.retried" in await kinds_of(backend, "r")


async def test_cancelled_run_is_final(backend: StateBackend, ledger: Ledger) -> None:
    runner = await paused(backend, ledger)
    cancelled = await runner.cancel_async("r", actor="ana", reason="no money")
    assert cancelled.status is RunStatus.CANCELLED

    for again in (runner.run_async("lamp", run_id="r"), runner.continue_async("r"), runner.cancel_async("r")):
        with pytest.raises(RunCancelled):
            await again
    assert ledger == {"price": 1}
    assert (await kinds_of(backend, "r"))[-2:] == ["human_task.closed", "run.cancelled"]


async def test_run_under_a_live_lease_names_its_holder(backend: StateBackend, ledger: Ledger) -> None:
    runner = await crashed(backend, ledger)
    await hold_elsewhere(backend, "r")

    with pytest.raises(RunIsLeased, match="process 4711 on elsewhere"):
        await runner.run_async("lamp", run_id="r")
    with pytest.raises(RunIsLeased):
        await runner.continue_async("r")
    assert ledger == {"price": 1, "ship": 1}


async def test_run_that_another_task_works_on_is_not_run_twice(backend: StateBackend) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def wait(value: int) -> int:
        started.set()
        await go_on.wait()
        return value + 1

    runner = runner_of(wait, backend)
    first = asyncio.ensure_future(_awaited(runner.run_async(1, run_id="r")))
    await started.wait()
    with pytest.raises(RunIsLeased):
        await runner.run_async(1, run_id="r")
    go_on.set()

    assert (await first).output == 2


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_run_id_of_another_input_or_pipeline_is_refused(backend: StateBackend, ledger: Ledger) -> None:
    runner = await paused(backend, ledger)

    with pytest.raises(RunConflict, match="input"):
        await runner.run_async("chair", run_id="r")
    with pytest.raises(RunConflict, match=r"demo 1\.0\.0"):
        await runner_of(order_pipeline(ledger), backend, name="other").run_async("lamp", run_id="r")
    with pytest.raises(RunConflict, match=r"demo 1\.0\.0"):
        await runner_of(order_pipeline(ledger), backend, version="2.0.0").run_async("lamp", run_id="r")
    with pytest.raises(RunNotFound, match="belongs to the pipeline demo"):
        await runner_of(order_pipeline(ledger), backend, name="other").resume_async("r", "yes")
    assert ledger == {"price": 1}


async def test_run_goes_on_under_the_version_that_started_it(backend: StateBackend, ledger: Ledger) -> None:
    await paused(backend, ledger)

    @step
    async def another(order: str) -> str:
        ledger.add("another")
        return order

    registry = PipelineRegistry()
    registry.register(order_pipeline(ledger), name="demo", version="1.0.0")
    registry.register(another, name="demo", version="2.0.0")
    newest = Flujo(registry=registry, pipeline_name="demo", state_backend=backend)

    assert (await newest.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    assert (await newest.resume_async("r", "yes")).output == "SHIPPED: YES"
    assert (await newest.run_async("lamp", run_id="new")).output == "lamp"


async def test_unknown_pipeline_version_and_run_say_so(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    for name, version in (("unknown", None), ("demo", "9.9.9")):
        other = Flujo(registry=runner.registry, pipeline_name=name, pipeline_version=version, state_backend=backend)
        with pytest.raises(PipelineNotFound):
            await other.run_async("lamp")
    for call in (runner.resume_async("no-such-run", "yes"), runner.retry_async("no-such-run")):
        with pytest.raises(RunNotFound, match="no-such-run"):
            await call
    with pytest.raises(RunNotFound):
        await runner.cancel_async("no-such-run")
    assert await backend.load_state("no-such-run") is None


async def test_invalid_input_starts_nothing(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)

    with pytest.raises(InvalidInput) as refused:
        await runner.run_async(["not", "a", "text"], run_id="r")
    with pytest.raises(InvalidInput, match="NUL"):
        await runner.run_async("a\0b", run_id="r")
    with pytest.raises(InvalidInput, match="colour"):
        await runner.run_async("lamp", run_id="r", initial_context_data={"colour": "red"})

    assert refused.value.details["errors"][0]["type"] == "string_type"
    assert await backend.load_state("r") is None
    assert not ledger


async def test_unknown_policy_starts_nothing(backend: StateBackend, ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="refuse, pin, migrate"):
        await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r", on_change="hope")
    assert await backend.load("r") is None


@pytest.mark.parametrize("name", ["run", "rerun", "fork", "resume", "signal", "retry", "cancel", "unpark"])
def test_blocking_call_takes_the_options_of_its_twin(name: str) -> None:
    (options,) = get_args(get_type_hints(getattr(Flujo, name))["options"])
    twin = inspect.signature(getattr(Flujo, f"{name}_async")).parameters.values()
    hints = get_type_hints(getattr(Flujo, f"{name}_async"))
    assert get_type_hints(options) == {each.name: hints[each.name] for each in twin if each.kind is each.KEYWORD_ONLY}


async def test_saved_index_is_the_next_step(backend: StateBackend) -> None:
    seen: list[tuple[int, str]] = []
    steps = []
    for number in range(4):

        @step(name=f"s{number}", retries=2)
        async def each(value: int, ctx: StepContext) -> int:
            head = await head_of(backend, ctx.run_id)
            seen.append((head.step_index, head.step_name))
            if ctx.attempt < 2:
                raise RuntimeError("once")  # a history that grows with attempts must not move the index
            return value

        each.retry = (RetryPolicy(2, backoff=timedelta(0)),)
        steps.append(each)

    result = await runner_of(steps[0] >> steps[1] >> steps[2] >> steps[3], backend).run_async(7, run_id="r")

    assert result.status is RunStatus.COMPLETED
    assert seen == [(k, f"s{k}") for k in range(4) for _ in range(2)]
    head = await head_of(backend, "r")
    assert (head.step_index, head.step_count, head.step_name) == (4, 4, "")
    state = await backend.load_state("r")
    assert state is not None
    assert state["current_step_index"] == 4


async def test_saved_index_of_a_gate_is_the_gate(backend: StateBackend, ledger: Ledger) -> None:
    runner = await paused(backend, ledger)
    assert (await head_of(backend, "r")).step_index == 1

    await runner.resume_async("r", "yes")

    assert (await head_of(backend, "r")).step_index == 4


async def test_attempt_is_recorded_before_it_runs(backend: StateBackend) -> None:
    recorded: dict[str, list[tuple[int, int]]] = {}

    async def note(ctx: StepContext) -> None:
        document = await document_of(backend, ctx.run_id)
        recorded[ctx.path] = [(a.number, a.fence) for a in document.attempts_of(ctx.path) if a.outcome is None]

    @step
    async def first(value: int, ctx: StepContext) -> int:
        await note(ctx)
        return value

    @step
    async def second(value: int, ctx: StepContext) -> int:
        await note(ctx)
        return value

    await runner_of(first >> second, backend).run_async(1, run_id="r")

    fence = (await head_of(backend, "r")).fence
    assert recorded == {"first": [(1, fence)], "second": [(1, fence)]}


async def test_step_that_kills_its_worker_is_given_up_after_five_losses(backend: StateBackend, ledger: Ledger) -> None:
    for _ in range(5):
        runner = runner_of(order_pipeline(ledger, crash_in="price"), backend)
        with pytest.raises(Crash):
            await runner.run_async("lamp", run_id="r")
        await bury_holder(backend, "r")

    result = await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")

    assert (result.status, ledger["price"]) == (RunStatus.FAILED, 5)
    assert result.error is not None
    assert result.error.startswith("StepLost: Step 'price' was lost 5 times")
    attempts = (await document_of(backend, "r")).attempts_of("price")
    assert [a.outcome for a in attempts] == [AttemptOutcome.LOST] * 5

    mended = await runner_of(order_pipeline(ledger), backend).retry_async("r")
    assert mended.status is RunStatus.PAUSED


async def test_lost_attempt_does_not_use_up_a_retry(backend: StateBackend, ledger: Ledger) -> None:
    @step(retries=1)
    async def fragile(value: int, ctx: StepContext) -> int:
        ledger.add("fragile")
        if ctx.attempt == 1:
            raise Crash
        if ctx.attempt == 2:
            raise RuntimeError("no luck")
        return value

    fragile.retry = (RetryPolicy(1, backoff=timedelta(0)),)
    runner = runner_of(fragile, backend)
    with pytest.raises(Crash):
        await runner.run_async(1, run_id="r")
    await bury_holder(backend, "r")

    assert (await runner.run_async(1, run_id="r")).status is RunStatus.COMPLETED
    assert ledger["fragile"] == 3


async def test_deleted_run_says_so(built_in: Store, ledger: Ledger) -> None:
    runner = await paused(built_in.backend, ledger)
    await runner.cancel_async("r")
    await built_in.backend.delete_state("r")

    with pytest.raises(RunDeleted):
        await runner.resume_async("r", "yes")
    with pytest.raises(RunDeleted):
        await runner.retry_async("r")
