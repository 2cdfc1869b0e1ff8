"""max_concurrency: so many runs of a pipeline or key hold a lease at once, as the store counts them; the rest wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineRegistry, Step, step, transitions
from flujo.answers import answer_to
from flujo.batch import Batch, RunView
from flujo.errors import AtMaxConcurrency, BackendCannot, Fenced, InvalidInput, PipelineDefinitionError
from flujo.pipeline import Node
from flujo.records import StepReport
from flujo.start import new_run
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock
from flujo.transitions.reports import Reports, report

from tests.engine.making import bury_holder, document_of, head_of
from tests.engine.stores import Store

LEASE = timedelta(seconds=30)


def bounded(pipeline: Pipeline | Node, backend: StateBackend, *, most: int = 1, **options: Any) -> Flujo:
    registry = PipelineRegistry()
    registry.register(pipeline, name="orders", version="1.0.0", max_concurrency=most, **options.pop("bound", {}))
    return Flujo(registry=registry, pipeline_name="orders", state_backend=backend, **options)


@step
async def double(value: int) -> int:
    return 2 * value


ASK = Step.human_in_the_loop("ask", message_for_user="?", input_schema=int)


async def queue(runner: Flujo, *run_ids: str, value: Any = 1) -> None:
    entry = runner.registry.get("orders")
    for run_id in run_ids:
        new = new_run(entry, value, {"run_id": run_id})
        await runner.backend.transact(run_id, transitions.start(new, now=runner.clock.now(), claim=None, facts={}))


async def claim(runner: Flujo, run_id: str) -> int:
    """The fence of a new lease on the run."""
    terms = runner._scope.terms(runner.registry.get("orders"))
    batch = await runner.backend.transact(run_id, transitions.claim(terms, now=runner.clock.now()))
    return batch.kept.fence


class Crowd(Counter[str]):
    """How many are in a step at once, by name, and how many at most."""

    most: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.most = Counter()
        self.enough = asyncio.Event()

    async def visit(self, name: str, *, until: int = 0) -> None:
        """Stay a moment, and at least until so many have been here at once."""
        self[name] += 1
        self.most[name] = max(self.most[name], self[name])
        if self.most[name] >= until:
            self.enough.set()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(self.enough.wait(), timeout=20)
        self[name] -= 1


async def test_at_most_so_many_runs_go_at_once_and_the_others_wait_in_place(built_in: Store) -> None:
    crowd = Crowd()

    @step
    async def visit(name: str) -> str:
        await crowd.visit("all", until=2)
        return name

    runner = bounded(visit, built_in.backend, most=2)
    ends = await asyncio.gather(*[_awaited(runner.run_async(f"guest {n}")) for n in range(5)])
    assert [end.output for end in ends] == [f"guest {n}" for n in range(5)]
    assert crowd.most["all"] == 2


async def test_each_key_has_places_of_its_own(built_in: Store) -> None:
    crowd = Crowd()

    @step
    async def visit(name: str) -> None:
        await crowd.visit(name)
        await crowd.visit("all")

    runner = bounded(visit, built_in.backend, bound={"concurrency_key": lambda name: name})
    await asyncio.gather(*[_awaited(runner.run_async(name)) for name in ("ana", "ben", "ana", "ben")])
    assert (crowd.most["ana"], crowd.most["ben"]) == (1, 1)
    keys = {(await head_of(built_in.backend, run_id)).concurrency_key for run_id in await built_in.backend.run_ids()}
    assert keys == {"orders/ana", "orders/ben"}


async def _awaited(handle: Any) -> Any:
    return await handle


async def test_run_beyond_the_bound_is_not_claimed_until_one_ends_or_pauses(built_in: Store) -> None:
    runner = bounded(double >> ASK, built_in.backend, most=2)
    await queue(runner, "a", "b", "c")
    fences = [await claim(runner, run_id) for run_id in ("a", "b")]
    with pytest.raises(AtMaxConcurrency, match="2 runs of 'orders' are running"):
        await claim(runner, "c")
    assert (await head_of(built_in.backend, "c")).status is RunStatus.QUEUED

    await built_in.backend.transact("a", transitions.release(fence=fences[0], now=runner.clock.now()))
    assert (await runner.run_async(1, run_id="c")).status is RunStatus.PAUSED  # it took the place and gave it back
    assert await claim(runner, "a") > fences[0]


async def test_a_lease_that_ended_holds_no_place_and_is_not_revived(built_in: Store) -> None:
    clock = FakeClock()
    runner = bounded(double, built_in.backend, clock=clock, lease=LEASE)
    await queue(runner, "frozen", "next")
    fence = await claim(runner, "frozen")
    clock.advance(31)
    await claim(runner, "next")
    with pytest.raises(AtMaxConcurrency):
        await claim(runner, "frozen")
    with pytest.raises(Fenced, match="its place among the runs of 'orders'"):
        await built_in.backend.transact("frozen", transitions.renew(fence=fence, lease=LEASE, now=clock.now()))


async def test_a_report_does_not_revive_a_lease_that_ended(built_in: Store) -> None:
    clock = FakeClock()
    runner = bounded(double, built_in.backend, clock=clock, lease=LEASE)
    await queue(runner, "frozen", "next")
    fence = await claim(runner, "frozen")
    clock.advance(31)
    await claim(runner, "next")
    said = Reports(StepReport("frozen", "double", 1, 1, clock.now(), 10), ())
    with pytest.raises(Fenced, match="its place among the runs of 'orders'"):
        await built_in.backend.transact("frozen", report(said, fence=fence, lease=LEASE, now=clock.now()))


async def test_a_dead_holder_holds_no_place(durable: Store) -> None:
    runner = bounded(double, durable.backend)
    await queue(runner, "dead", "next")
    await claim(runner, "dead")
    await bury_holder(durable.backend, "dead")
    await claim(runner, "next")


async def test_claims_of_two_runs_at_the_same_moment_do_not_both_win(built_in: Store) -> None:
    """Two transactions that each counted before the other wrote would let both in."""
    runner = bounded(double, built_in.backend)
    terms = runner._scope.terms(runner.registry.get("orders"))

    def slowly(view: RunView) -> Batch:
        batch = transitions.claim(terms, now=runner.clock.now())(view)
        time.sleep(0.02)
        return batch

    run_ids = [f"r{number}" for number in range(4)]
    await queue(runner, *run_ids)
    ends = await asyncio.gather(
        *[built_in.backend.transact(run_id, slowly) for run_id in run_ids], return_exceptions=True
    )
    assert sorted(type(end).__name__ for end in ends) == ["AtMaxConcurrency"] * 3 + ["Batch"]


async def test_an_answer_under_a_full_bound_is_kept_and_its_run_waits_for_a_place(built_in: Store) -> None:
    clock = FakeClock()
    runner = bounded(ASK >> double, built_in.backend, clock=clock, lease=LEASE)
    await runner.run_async(1, run_id="r")
    await queue(runner, "other")
    await claim(runner, "other")
    (task,) = (await document_of(built_in.backend, "r")).open_human_tasks()
    answer = answer_to(ASK, 21, path="ask", generation=task.generation, digest=task.digest, actor="ana")
    terms = runner._scope.terms(runner.registry.get("orders"))
    kept = await built_in.backend.transact("r", transitions.decide(answer, now=clock.now(), claim=terms, facts={}))
    assert kept.kept.status is RunStatus.QUEUED
    assert (
        await runner.resume_async("r", 21, actor="ana")
    ).output == 42  # the clock moves on until the other one's lease has ended


async def test_a_raised_bound_lets_the_waiting_in(built_in: Store) -> None:
    narrow, wide = bounded(double, built_in.backend), bounded(double, built_in.backend, most=2)
    await queue(narrow, "a", "b")
    await claim(narrow, "a")
    with pytest.raises(AtMaxConcurrency):
        await claim(narrow, "b")
    await claim(wide, "b")


async def test_ready_leaves_out_runs_of_full_keys(built_in: Store) -> None:
    runner = bounded(double, built_in.backend, bound={"concurrency_key": str})
    for value in (1, 2, 3):
        await queue(runner, f"r{value}", value=value)
    full = ["orders/1", "orders/3"]
    assert [head.run_id for head in await built_in.backend.ready(runner.clock.now(), full_keys=full)] == ["r2"]


@pytest.mark.parametrize("store", ["three_methods"], indirect=True)
async def test_a_bound_on_a_backend_that_cannot_count_is_refused_before_anything_is_stored(store: Store) -> None:
    with pytest.raises(BackendCannot, match="max_concurrency"):
        await bounded(double, store.backend).run_async(1, run_id="r")
    assert await store.backend.load("r") is None


@pytest.mark.parametrize(
    "bound",
    [{"max_concurrency": 0}, {"max_concurrency": True}, {"max_concurrency": 2.0}, {"concurrency_key": str}],
)
def test_a_bound_that_makes_no_sense_is_refused_when_registered(bound: Any) -> None:
    with pytest.raises(PipelineDefinitionError, match="concurrency"):
        PipelineRegistry().register(double, name="orders", version="1.0.0", **bound)


@pytest.mark.parametrize("key", [lambda value: "", lambda value: 7, lambda value: "k" * 201, lambda value: 1 / 0])
async def test_a_concurrency_key_that_is_none_is_refused_at_the_start(backend: StateBackend, key: Any) -> None:
    with pytest.raises(InvalidInput, match="concurrency key"):
        await bounded(double, backend, bound={"concurrency_key": key}).run_async(1, run_id="r")
    assert await backend.load("r") is None
