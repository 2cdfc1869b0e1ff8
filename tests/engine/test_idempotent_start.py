"""Starts with an idempotency key: the same run, whoever starts it, whenever, on every backend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flujo import Flujo, PipelineRegistry, Step, step
from flujo.errors import IdempotencyConflict, InvalidInput, RunIsLeased
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from pydantic import BaseModel

from tests.engine.making import Crash, Ledger, bury_holder, head_of, order_pipeline, runner_of
from tests.engine.stores import Store


async def test_the_same_key_gives_the_same_run_and_no_step_runs_again(store: Store, ledger: Ledger) -> None:
    first = await runner_of(order_pipeline(ledger), store.backend).run_async("lamp", idempotency_key="order 7")
    again = await runner_of(order_pipeline(ledger), store.reopen()).run_async("lamp", idempotency_key="order 7")

    assert again == first
    assert ledger == {"price": 1}
    assert (await head_of(store.backend, first.run_id)).idempotency_key == "order 7"


async def test_many_starts_at_once_with_one_key_start_one_run(built_in: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), built_in.backend)
    starts = (runner.run_async("lamp", idempotency_key="order 7") for _ in range(8))
    ends = await asyncio.gather(*(_awaited(start) for start in starts), return_exceptions=True)

    assert {end.run_id for end in ends if not isinstance(end, BaseException)} == set(await built_in.backend.run_ids())
    assert all(isinstance(end, RunIsLeased) for end in ends if isinstance(end, BaseException))
    assert ledger == {"price": 1}


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_the_same_key_on_another_input_is_refused_and_changes_nothing(
    backend: StateBackend, ledger: Ledger
) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    first = await runner.run_async("lamp", idempotency_key="order 7")
    before = await head_of(backend, first.run_id)

    with pytest.raises(IdempotencyConflict, match=f"'order 7' started run {first.run_id} on another input"):
        await runner.run_async("desk", idempotency_key="order 7")

    assert await head_of(backend, first.run_id) == before


async def test_the_same_key_of_another_pipeline_is_another_run(backend: StateBackend, ledger: Ledger) -> None:
    runs = [
        await runner_of(order_pipeline(ledger), backend, name=name).run_async("lamp", idempotency_key="7")
        for name in ("orders", "returns")
    ]
    assert runs[0].run_id != runs[1].run_id


async def test_a_key_whose_worker_died_goes_on_from_its_checkpoint(durable: Store, ledger: Ledger) -> None:
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), durable.backend).run_async("a", idempotency_key="k")
    (run_id,) = await durable.backend.run_ids()
    await bury_holder(durable.backend, run_id)

    result = await runner_of(order_pipeline(ledger), durable.reopen()).run_async("a", idempotency_key="k")
    assert (result.run_id, result.status) == (run_id, RunStatus.PAUSED)


async def test_a_key_that_a_deleted_run_had_starts_a_new_run(store: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), store.backend)
    first = await runner.run_async("lamp", idempotency_key="k")
    await runner.cancel_async(first.run_id)
    await store.backend.delete_state(first.run_id)

    again = await runner.run_async("desk", idempotency_key="k")
    assert (again.status, ledger["price"]) == (RunStatus.PAUSED, 2)


class Small(BaseModel):
    name: str


class Large(Small):
    express: bool = False


@pytest.mark.parametrize("pinned", [None, "2.0.0"])
async def test_a_key_means_its_run_after_a_new_version_whose_input_reads_otherwise(
    backend: StateBackend, pinned: str | None
) -> None:
    @step(name="take")
    async def take_small(order: Small) -> str:
        return order.name

    @step(name="take")
    async def take_large(order: Large) -> str:
        return order.name

    ask = Step.human_in_the_loop("ask", message_for_user="?")
    registry = PipelineRegistry()
    registry.register(take_small >> ask, name="orders", version="1.0.0")
    old = Flujo(registry=registry, pipeline_name="orders", state_backend=backend)
    first = await old.run_async({"name": "lamp"}, idempotency_key="k")

    registry.register(take_large >> ask, name="orders", version="2.0.0")
    new = Flujo(registry=registry, pipeline_name="orders", pipeline_version=pinned, state_backend=backend)
    assert await new.run_async({"name": "lamp"}, idempotency_key="k") == first


@pytest.mark.parametrize("key", ["", "k" * 201, "k\0", "\ud800", 7])
async def test_a_key_that_no_store_can_hold_is_refused(backend: StateBackend, ledger: Ledger, key: Any) -> None:
    with pytest.raises(InvalidInput, match="idempotency"):
        await runner_of(order_pipeline(ledger), backend).run_async("lamp", idempotency_key=key)
    assert ledger == {}


async def test_a_run_id_beside_a_key_is_refused(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    with pytest.raises(InvalidInput, match="not both"):
        await runner.run_async("lamp", run_id="r", idempotency_key="k")
    with pytest.raises(InvalidInput, match="not both"):
        await runner.run_async("lamp", initial_context_data={"run_id": "r"}, idempotency_key="k")
