"""A run moves between any two stores, a waiting one too, and wherever the move is interrupted it can be finished."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineContext, PipelineRegistry, Reject, Step, step, transitions
from flujo.batch import Batch, Transition
from flujo.clock import SystemClock
from flujo.copying import exported, first_line, last_line, line_of, read
from flujo.errors import Fenced, FlujoError, IllegalTransition, PipelineChanged, RunDeleted, RunIsLeased, StaleState
from flujo.moving import Place, move
from flujo.records import Record, RunHead
from flujo.state.artefacts import ARTEFACT_BYTES
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import Outcome, RunStatus, Wait
from flujo.transitions.moving import is_moving, leave
from flujo.verify import verify_run

from tests.engine.making import Crash, Ledger, bury_holder, head_of, hold_elsewhere, kinds_of, order_pipeline, runner_of
from tests.engine.stores import Store, make_store

KINDS = ["memory", "file", "sqlite", "django", "three_methods"]
PAIRS = [
    pytest.param(*pair, marks=[pytest.mark.django_db(transaction=True)] if "django" in pair else [])
    for pair in itertools.permutations(KINDS, 2)
]
AND_SEALED = [*PAIRS, ("sealed", "file"), ("file", "sealed")]


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    kinds = [request.getfixturevalue(name) for name in ("source_kind", "target_kind")]
    made = [make_store(kind, tmp_path / kind) for kind in kinds if (tmp_path / kind).mkdir() is None]
    yield (made[0], made[1])
    for store in made:
        asyncio.run(store.close())
    if "django" in kinds:
        from runs.state_backend import close_store_threads

        close_store_threads()


async def carry(source: StateBackend, target: StateBackend, run_id: str = "r", *, back: bool = False) -> RunHead:
    names = ("there", "here") if back else ("here", "there")
    now = SystemClock().now()
    return await move(run_id, Place(source, names[0]), Place(target, names[1]), actor="ana", now=now, facts={})


@pytest.mark.parametrize(("source_kind", "target_kind"), PAIRS)
async def test_waiting_run_moves_between_every_pair_of_stores_and_goes_on(
    stores: tuple[Store, Store], source_kind: str, target_kind: str, ledger: Ledger
) -> None:
    source, target = (store.backend for store in stores)
    pipeline = order_pipeline(ledger)
    await runner_of(pipeline, source).run_async("lamp", run_id="r", title="Lamp")
    before = await head_of(source, "r")

    moved = await carry(source, target)

    assert (moved.status, moved.wait, moved.title) == (RunStatus.PAUSED, Wait.HUMAN_TASK, "Lamp")
    assert moved.fence > before.fence
    assert moved.generation > before.generation
    assert (await kinds_of(target, "r"))[-2:] == ["run.moved", "run.imported"]
    await verify_run(target, "r")
    result = await runner_of(pipeline, target).resume_async("r", "yes")
    assert result.output == "SHIPPED: YES"
    assert ledger == {"price": 1, "ship": 1, "tell": 1}
    left = await source.load("r")
    assert left is not None
    assert left.head is None
    assert left.tombstone is not None
    assert left.tombstone.reason == "moved to there"
    with pytest.raises(FlujoError):
        await runner_of(pipeline, source).resume_async("r", "yes")


LARGE = "ä" * (ARTEFACT_BYTES // 2 + 1)


class Papers(PipelineContext):
    scan: str = ""


@step
async def scan(value: str, context: Papers) -> str:
    context.scan = f"{value} of the scan"
    return f"{value} of the output"


async def start_large(backend: StateBackend) -> Flujo:
    """A run whose every value is larger than a row takes: it waits at a gate, its signal came before."""
    gate = Step.human_in_the_loop("ask", message_for_user="?", quorum=2)
    runner = runner_of(scan >> gate >> Step.wait_for_signal("go", str), backend)
    await runner.run_async(LARGE, run_id="r")
    await runner.resume_async("r", f"{LARGE} of the answer", actor="ana")
    await runner.signal_async("r", "go", f"{LARGE} of the signal", actor="ben")
    return runner


async def check_large(backend: StateBackend, rows: set[Record]) -> None:
    """Every row arrived with its values whole, and the run goes on with them."""
    arrived = await backend.whole("r")
    assert arrived is not None
    assert rows <= set(arrived.records())
    runner = runner_of((await start_large(InMemoryBackend())).registry.get("demo").pipeline, backend)
    result = await runner.resume_async("r", f"{LARGE} of the answer", actor="ben")
    assert (result.status, result.output) == (RunStatus.COMPLETED, f"{LARGE} of the signal")
    assert result.final_pipeline_context.scan == f"{LARGE} of the scan"  # type: ignore[attr-defined]  # its own field


async def rows_of(backend: StateBackend) -> set[Record]:
    stored = await backend.whole("r")
    assert stored is not None
    return {row for row in stored.records() if not isinstance(row, RunHead)}


@pytest.mark.slow
@pytest.mark.parametrize(("source_kind", "target_kind"), AND_SEALED)
async def test_large_values_move_between_every_pair_of_stores(
    stores: tuple[Store, Store], source_kind: str, target_kind: str
) -> None:
    source, target = (store.backend for store in stores)
    await start_large(source)
    rows = await rows_of(source)
    await carry(source, target)
    await check_large(target, rows)


@pytest.mark.slow
@pytest.mark.parametrize(("source_kind", "target_kind"), AND_SEALED)
async def test_large_values_are_exported_and_imported_between_every_pair_of_stores(
    stores: tuple[Store, Store], source_kind: str, target_kind: str
) -> None:
    source, target = (store.backend for store in stores)
    await start_large(source)
    rows = await rows_of(source)
    for state in read([first_line(), line_of(await exported(source, "r")), last_line(1)]):
        await target.save_state("r", state)
    await check_large(target, rows)


async def test_run_that_moved_away_can_come_back_and_its_old_worker_stays_refused(ledger: Ledger) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), here).run_async("lamp", run_id="r")
    old = await head_of(here, "r")
    await bury_holder(here, "r")
    await carry(here, there)
    back = await carry(there, here, back=True)
    assert back.status is RunStatus.QUEUED
    assert back.fence > old.fence + 1
    with pytest.raises(Fenced):
        await here.transact("r", transitions.release(fence=old.fence, now=SystemClock().now()))
    assert "lease.lost" in await kinds_of(here, "r")
    assert (await runner_of(order_pipeline(ledger), here).run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    await verify_run(here, "r")


async def test_run_that_moved_away_is_not_begun_anew_in_its_old_store(built_in: Store, ledger: Ledger) -> None:
    here, there = built_in.backend, InMemoryBackend()
    runner = runner_of(order_pipeline(ledger), here)
    first = await runner.run_async("lamp", run_id="r")
    second = await runner.run_async("lamp", idempotency_key="lamp")
    for paused in (first, second):
        await carry(here, there, paused.run_id)

    with pytest.raises(RunDeleted, match="was moved to there and goes on there"):
        await runner.run_async("lamp", run_id="r")
    with pytest.raises(RunDeleted, match="was moved to there"):
        await runner.run_async("lamp", idempotency_key="lamp")
    assert ledger == {"price": 2}


async def test_a_no_that_is_said_while_a_run_is_held_for_a_move_names_its_end() -> None:
    @step
    async def undo(order: str) -> str:
        return f"{order} put back"

    here, there = InMemoryBackend(), InMemoryBackend()
    pipeline = Pipeline([Step.human_in_the_loop("approve", on_reject=undo)])
    await runner_of(pipeline, here).run_async("lamp", run_id="r")
    await here.transact("r", leave("there", actor="ana", now=SystemClock().now(), facts={}))
    await runner_of(pipeline, here).resume_async("r", Reject("no"), actor="ana")
    await carry(here, there)
    done = await runner_of(pipeline, there).run_async("lamp", run_id="r")
    assert (done.status, done.outcome) == (RunStatus.COMPLETED, Outcome.REJECTED)


async def test_move_of_a_failed_run_tells_its_history_no_value() -> None:
    @step
    async def fails(value: str) -> str:
        raise ValueError(f"{value} is wrong")

    here, there = InMemoryBackend(), InMemoryBackend()
    await runner_of(fails, here).run_async("the-canary", run_id="r")
    moved = await carry(here, there)
    assert "the-canary" in moved.error_message
    assert not any("the-canary" in event.body for event in await there.events("r"))


async def test_run_that_is_being_moved_is_not_migrated_on_the_way(ledger: Ledger) -> None:
    here = InMemoryBackend()
    pipeline = order_pipeline(ledger)
    await runner_of(pipeline, here).run_async("lamp", run_id="r")
    await here.transact("r", leave("there", actor="ana", now=SystemClock().now(), facts={}))
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version="2.0.0", on_change="migrate")
    registry.migration("demo", "1.0.0", "2.0.0")(lambda run: None)
    after = Flujo(registry=registry, pipeline_name="demo", state_backend=here)
    for going_on in (after.resume_async("r", "yes"), after.unpark_async("r"), after.retry_async("r")):
        with pytest.raises(PipelineChanged, match="is being moved"):
            await going_on
    assert is_moving(await head_of(here, "r"))


async def test_leased_run_is_not_moved(built_in: Store, ledger: Ledger) -> None:
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), built_in.backend).run_async("lamp", run_id="r")
    await hold_elsewhere(built_in.backend, "r")
    before, target = await kinds_of(built_in.backend, "r"), InMemoryBackend()
    with pytest.raises(RunIsLeased):
        await carry(built_in.backend, target)
    assert await kinds_of(built_in.backend, "r") == before
    assert await target.load("r") is None


async def test_timers_failures_and_ended_runs_arrive_as_they_were() -> None:
    @step
    async def fails(value: str) -> str:
        raise ValueError("no")

    here, there = InMemoryBackend(), InMemoryBackend()
    sleeping = Pipeline([Step.sleep("night", timedelta(hours=8))])
    await runner_of(sleeping, here).run_async("x", run_id="sleeps")
    await runner_of(fails, here).run_async("x", run_id="failed")
    for run_id in ("sleeps", "failed"):
        before = await head_of(here, run_id)
        after = await carry(here, there, run_id)
        for name in ("status", "wait", "wake_at", "outcome", "error_type", "error_message", "step_index"):
            assert getattr(after, name) == getattr(before, name)


async def test_parked_run_arrives_parked(ledger: Ledger) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    await runner_of(order_pipeline(ledger), here).run_async("lamp", run_id="r")
    head = await head_of(here, "r")
    now = SystemClock().now()
    await here.transact("r", transitions.park(head, "Because.", registered="", now=now, error_type="PipelineChanged"))
    moved = await carry(here, there)
    assert (moved.wait, moved.outcome, moved.error_message) == (Wait.OPERATOR, Outcome.NEEDS_ATTENTION, "Because.")
    assert (await runner_of(order_pipeline(ledger), there).unpark_async("r")).pause is not None


class DiesAt(InMemoryBackend):
    """A store whose process dies before or after its nth write."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes = writes

    def _dies(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise Crash("here")

    async def transact(self, run_id: str, transition: Transition) -> Batch:
        self._dies()
        batch = await super().transact(run_id, transition)
        self._dies()
        return batch

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        self._dies()
        await super().save_state(run_id, state)
        self._dies()


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("writes", range(5))
async def test_move_that_was_interrupted_anywhere_is_finished_by_repeating_it(
    side: str, writes: int, ledger: Ledger
) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    await runner_of(order_pipeline(ledger), here).run_async("lamp", run_id="r")
    dying = DiesAt(writes)
    dying._runs = (here if side == "source" else there)._runs
    try:
        await carry(dying if side == "source" else here, dying if side == "target" else there)
    except Crash:
        where = [place for place in (here, there) if await _is_live(place)]
        assert len(where) <= 1
        for store in (here, there):
            if await store.load("r") is not None:
                await verify_run(store, "r")
        with pytest.raises((IllegalTransition, FlujoError)):
            await here.transact("r", transitions.unpark(actor="", reason="", now=SystemClock().now(), facts={}))
        await carry(here, there)
    assert await _is_live(there)
    assert not await _is_live(here)
    assert (await kinds_of(there, "r")).count("run.imported") == 1
    assert (await runner_of(order_pipeline(ledger), there).resume_async("r", "yes")).status is RunStatus.COMPLETED


async def _is_live(store: StateBackend) -> bool:
    document = await store.load("r")
    return document is not None and document.head is not None and not transitions.is_moving(document.head)


async def test_target_with_another_history_of_the_id_refuses_before_anything_is_held(ledger: Ledger) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    for store in (here, there):
        await runner_of(order_pipeline(ledger), store).run_async("lamp", run_id="r")
    before = await kinds_of(here, "r")
    with pytest.raises(StaleState):
        await carry(here, there)
    assert await kinds_of(here, "r") == before


async def test_run_that_was_deleted_is_not_moved(ledger: Ledger) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    runner = runner_of(order_pipeline(ledger), here)
    await runner.run_async("lamp", run_id="r")
    await runner.cancel_async("r")
    await here.delete_state("r")
    with pytest.raises(RunDeleted):
        await carry(here, there)


async def test_answer_that_came_while_the_run_was_held_is_not_lost(ledger: Ledger) -> None:
    here, there = InMemoryBackend(), InMemoryBackend()
    runner = runner_of(order_pipeline(ledger), here)
    await runner.run_async("lamp", run_id="r")
    await here.transact("r", transitions.leave("there", actor="", now=SystemClock().now(), facts={}))
    await runner.resume_async("r", "yes")
    await carry(here, there)
    assert "decision.recorded" in await kinds_of(there, "r")
    assert (await runner_of(order_pipeline(ledger), there).run_async("lamp", run_id="r")).output == "SHIPPED: YES"


async def test_everything_of_a_run_arrives(tmp_path: Path, ledger: Ledger) -> None:
    source, target = FileBackend(tmp_path / "a"), SQLiteBackend(tmp_path / "b.db")
    runner: Flujo = runner_of(order_pipeline(ledger), source)
    await runner.run_async("lamp", run_id="r")
    await runner.resume_async("r", "yes")
    before = await source.whole("r")
    await carry(source, target)
    after = await target.whole("r")
    assert before is not None
    assert after is not None
    assert {row for row in before.records() if not isinstance(row, RunHead)} <= set(after.records())
    await target.close()


async def test_run_that_changed_after_it_was_copied_is_not_deleted(ledger: Ledger) -> None:
    here = InMemoryBackend()
    runner = runner_of(order_pipeline(ledger), here)
    await runner.run_async("lamp", run_id="r")

    class AnsweredMeanwhile(InMemoryBackend):
        """A store during whose writing a person answers in the other one."""

        async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
            await super().save_state(run_id, state)
            await runner.resume_async("r", "yes")

    there = AnsweredMeanwhile()
    with pytest.raises(Fenced):
        await carry(here, there)
    assert (await head_of(here, "r")).active
    await carry(here, there)
    assert "decision.recorded" in await kinds_of(there, "r")
    assert (await runner_of(order_pipeline(ledger), there).run_async("lamp", run_id="r")).output == "SHIPPED: YES"
