"""Keys that let a repeated call count once: those of steps, of answers and of signals."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flujo import Pipeline, Step, StepContext, step, transitions
from flujo.answers import answer_to
from flujo.errors import InvalidInput
from flujo.state.base import StateBackend
from flujo.status import RunStatus

from tests.engine.making import Crash, bury_holder, document_of, kinds_of, runner_of
from tests.engine.stores import Store


def noting(keys: list[str], faults: list[BaseException]) -> Pipeline:
    """`once >> approve >> again`: the steps note their keys, and each raises the faults that are left first."""

    def note(ctx: StepContext) -> None:
        keys.append(ctx.idempotency_key)
        if faults:
            raise faults.pop(0)

    @step(retries=3, backoff=timedelta(0))
    async def once(value: int, ctx: StepContext) -> int:
        note(ctx)
        return value

    @step
    async def again(value: Any, ctx: StepContext) -> str:
        note(ctx)
        return "done"

    return once >> Step.human_in_the_loop("approve", message_for_user="Go on?") >> again


async def test_key_of_a_step_is_the_same_through_one_life_of_its_run(built_in: Store) -> None:
    keys: list[str] = []
    faults: list[BaseException] = [ConnectionError(), Crash()]
    with pytest.raises(Crash):
        await runner_of(noting(keys, faults), built_in.backend).run_async(1, run_id="r")
    await bury_holder(built_in.backend, "r")

    runner = runner_of(noting(keys, faults), built_in.reopen())
    await runner.run_async(1, run_id="r")
    faults.append(ConnectionError())
    assert (await runner.resume_async("r", "yes")).status is RunStatus.FAILED
    assert (await runner.retry_async("r")).status is RunStatus.COMPLETED

    assert Counter(keys) == {keys[0]: 3, keys[-1]: 2}
    assert keys[0].endswith("/once")
    assert keys[-1].endswith("/again")


async def test_keys_of_a_deleted_run_are_not_used_again(store: Store) -> None:
    keys: list[str] = []
    runner = runner_of(noting(keys, []), store.backend)
    for _ in range(2):
        await runner.run_async(1, run_id="r")
        await runner.resume_async("r", "yes")
        await store.backend.delete_state("r")

    assert len(set(keys)) == 4


@pytest.mark.parametrize("message_id", ["m" * 201, "m\0", "\ud800", 7])
async def test_message_id_that_no_store_can_hold_is_refused(backend: StateBackend, message_id: Any) -> None:
    runner = runner_of(Step.wait_for_signal("paid") >> noting([], []), backend)
    await runner.run_async(1, run_id="r")
    before = await kinds_of(backend, "r")

    with pytest.raises(InvalidInput, match="message_id"):
        await runner.signal_async("r", "paid", 1, message_id=message_id)

    assert await kinds_of(backend, "r") == before
    await runner.signal_async("r", "paid", 1, message_id="m" * 200)
    assert (await document_of(backend, "r")).signal("m" * 200) is not None


@pytest.mark.parametrize("key", ["k" * 101, "k\0", "\ud800", 7])
async def test_key_of_an_answer_that_no_store_can_hold_is_refused(backend: StateBackend, key: Any) -> None:
    runner = runner_of(noting([], []), backend)
    await runner.run_async(1, run_id="r")
    (task,) = (await document_of(backend, "r")).open_human_tasks()
    gate: Any = runner.registry.get("demo").pipeline.find("approve")
    facts: dict[str, Any] = {"path": task.path, "generation": task.generation, "digest": task.digest, "actor": "ana"}

    with pytest.raises(InvalidInput, match="key"):
        answer_to(gate, "yes", key=key, **facts)

    answer = answer_to(gate, "yes", key="k" * 100, **facts)
    await backend.transact("r", transitions.decide(answer, now=runner.clock.now(), claim=None, facts={}))
    decision = (await document_of(backend, "r")).decision("approve", task.generation)
    assert decision is not None
    assert decision.idempotency_key == "k" * 100
