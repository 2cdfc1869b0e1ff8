"""Starts with an idempotency key: the same run, whoever starts it, whenever, on every backend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flujo import Flujo, PipelineContext, PipelineRegistry, Step, step
from flujo.admission import run_id_for
from flujo.errors import (
    IdempotencyConflict,
    InvalidInput,
    PipelineChanged,
    RunConflict,
    RunFailed,
    RunIsLeased,
)
from flujo.pipeline import Node
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from pydantic import BaseModel

from tests.engine.making import Crash, Ledger, bury_holder, head_of, kinds_of, order_pipeline, runner_of
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


async def begun_by_a_version_that_is_gone(backend: StateBackend, last: Node, **start: Any) -> Flujo:
    """A runner of the newest version, after an older one, that is not registered any more, ran on an order."""

    @step(name="take")
    async def take_small(order: Small, context: Counted) -> Small:
        context.count += 1
        return order

    @step(name="take")
    async def take_large(order: Large) -> int:
        return 1

    old = runner_of(take_small >> last, backend, name="orders", version="1.0.0")
    await old.run_async({"name": "lamp"}, **start)
    return runner_of(take_large, backend, name="orders", version="2.0.0")


class Counted(PipelineContext):
    count: int = 0


@step
async def wrap(order: Small) -> Small:
    return Small(name=f"{order.name}, wrapped")


@step
async def broken(order: Small) -> Small:
    raise ValueError("no paper")


@pytest.mark.parametrize("again", [{"name": "lamp"}, Small(name="lamp"), Large(name="lamp")])
async def test_a_key_whose_run_completed_under_a_version_that_is_gone_gives_its_stored_values(
    backend: StateBackend, again: Any
) -> None:
    new = await begun_by_a_version_that_is_gone(backend, wrap, idempotency_key="k")
    before = await kinds_of(backend, run_id_for("orders", "k", None, new.clock))
    result = await new.run_async(again, idempotency_key="k")

    assert (result.status, result.output) == (RunStatus.COMPLETED, {"name": "lamp, wrapped"})
    assert (result.step_history[0].path, result.step_history[0].output) == ("take", {"name": "lamp"})
    assert result.final_pipeline_context.model_dump() == {"run_id": result.run_id, "count": 1}
    assert await kinds_of(backend, result.run_id) == before


async def test_a_key_of_a_version_that_is_gone_is_refused_on_another_input(backend: StateBackend) -> None:
    new = await begun_by_a_version_that_is_gone(backend, wrap, idempotency_key="k")
    for other in ({"name": "desk"}, {"name": "lamp", "express": True}, 7):
        with pytest.raises(IdempotencyConflict, match="on another input"):
            await new.run_async(other, idempotency_key="k")


async def test_a_key_whose_run_ended_otherwise_under_a_version_that_is_gone_says_how(backend: StateBackend) -> None:
    new = await begun_by_a_version_that_is_gone(backend, broken, idempotency_key="k")
    with pytest.raises(RunFailed, match="has failed: no paper"):
        await new.run_async({"name": "lamp"}, idempotency_key="k")
    with pytest.raises(PipelineChanged, match=r"stays failed: register orders 1\.0\.0 as it was, then retry it"):
        await new.retry_async(run_id_for("orders", "k", None, new.clock))


async def test_a_run_id_whose_run_completed_under_a_version_that_is_gone_gives_its_stored_values(
    backend: StateBackend,
) -> None:
    new = await begun_by_a_version_that_is_gone(backend, wrap, run_id="r")
    new.pipeline_version = None
    assert (await new.run_async({"name": "lamp"}, run_id="r")).output == {"name": "lamp, wrapped"}
    with pytest.raises(RunConflict, match="Run r exists with another input"):
        await new.run_async({"name": "desk"}, run_id="r")
    nothing = Flujo(registry=PipelineRegistry(), pipeline_name="orders", state_backend=backend)
    assert (await nothing.run_async({"name": "lamp"}, run_id="r")).output == {"name": "lamp, wrapped"}


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
