"""What `run_async` gives: awaited for the result, iterated for the steps as they are saved, or both."""

from __future__ import annotations

import asyncio

import pytest
from flujo import Flujo, Step, step
from flujo.errors import AmbiguousAnswer, HumanTaskNotFound, InvalidInput, RunConflict
from flujo.handle import RunHandle
from flujo.human import HumanStep
from flujo.state.base import StateBackend
from flujo.status import RunStatus

from tests.engine.making import Ledger, head_of, order_pipeline, runner_of


@pytest.fixture
def runner(backend: StateBackend, ledger: Ledger) -> Flujo:
    """A runner of `price >> approve >> ship >> tell`."""
    return runner_of(order_pipeline(ledger), backend)


async def test_nothing_happens_before_the_handle_is_awaited_or_iterated(
    runner: Flujo, backend: StateBackend, ledger: Ledger
) -> None:
    runner.run_async("a", run_id="r")
    await asyncio.sleep(0.01)
    assert (await backend.load("r"), ledger) == (None, {})


async def test_handle_may_be_awaited_after_it_was_iterated_and_again(runner: Flujo, ledger: Ledger) -> None:
    handle = runner.run_async("a", run_id="r")
    names = [finished.name async for finished in handle]
    first, second = await handle, await handle

    assert names == ["price"]
    assert first is second
    assert first.status is RunStatus.PAUSED
    assert ledger == {"price": 1}


async def test_step_is_seen_when_it_is_saved_and_before_the_next_one_ends(backend: StateBackend) -> None:
    may_end = asyncio.Event()

    @step
    async def quick(value: int) -> int:
        return value + 1

    @step
    async def slow(value: int) -> int:
        await may_end.wait()
        return value + 1

    handle = runner_of(quick >> slow, backend).run_async(1, run_id="r")
    seen = []
    async for finished in handle:
        seen.append((finished.name, finished.output))
        assert (await head_of(backend, "r")).step_index == len(seen), "what is shown is saved"
        may_end.set()
    assert seen == [("quick", 2), ("slow", 3)]


async def test_leaving_the_loop_early_leaves_the_run_working(backend: StateBackend, ledger: Ledger) -> None:
    @step
    async def begin(value: int) -> int:
        return value

    @step
    async def end(value: int) -> int:
        await asyncio.sleep(0.01)
        ledger.add("end")
        return value

    handle = runner_of(begin >> end, backend).run_async(1, run_id="r")
    async for finished in handle:
        assert finished.name == "begin"
        break
    result = await handle

    assert (result.status, result.output, ledger) == (RunStatus.COMPLETED, 1, {"end": 1})


async def test_refused_start_is_raised_by_iterating_and_by_awaiting(runner: Flujo, backend: StateBackend) -> None:
    await runner.run_async("a", run_id="r")
    handle = runner.run_async("b", run_id="r")
    with pytest.raises(RunConflict):
        await _names(handle)
    with pytest.raises(RunConflict):
        await handle

    with pytest.raises(InvalidInput):
        await _names(runner.run_async(7, run_id="s"))
    assert await backend.load("s") is None


async def test_failed_step_is_a_result_and_no_error_of_the_handle(backend: StateBackend, ledger: Ledger) -> None:
    pipeline = order_pipeline(ledger, fail_in="price")
    handle = runner_of(pipeline, backend).run_async("a", run_id="r")
    async for finished in handle:
        assert not finished.success
    result = await handle
    assert result.status is RunStatus.FAILED
    assert "price is broken" in str(result.step_history[-1].error)


async def _names(handle: RunHandle) -> list[str]:
    return [finished.name async for finished in handle]


async def test_answer_that_fits_several_questions_must_name_one(backend: StateBackend) -> None:
    def ask(name: str) -> HumanStep:
        return Step.human_in_the_loop(name, message_for_user=f"{name}?")

    runner = runner_of(Step.parallel("both", {"left": ask("one"), "right": ask("two")}), backend)
    paused = await runner.run_async(1, run_id="r")

    for given in (paused, "r"):
        with pytest.raises(AmbiguousAnswer, match=r"both/left, both/right\. Name one of them as the step") as raised:
            await runner.resume_async(given, "yes")
        assert raised.value.code == "ambiguous_answer"
    with pytest.raises(HumanTaskNotFound, match="both/middle"):
        await runner.resume_async("r", "yes", step="both/middle")
    assert (await head_of(backend, "r")).status is RunStatus.PAUSED

    still = await runner.resume_async("r", "yes", step="both/left")
    assert [pause.path for pause in still.pauses] == ["both/right"]
    assert (await runner.resume_async("r", "no")).status is RunStatus.COMPLETED, "one question is not ambiguous"
