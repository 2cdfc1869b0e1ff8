"""What a running step says of itself: progress and log lines, stored at most once a second, gone with the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flujo import Step, StepContext, step
from flujo.batch import Batch, Transition
from flujo.copying import exported
from flujo.errors import BackendBusy, Fenced
from flujo.records import LogChunk, RunHead, StepReport
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock, Fault, FaultyBackend
from flujo.transitions import Reports, report

from tests.engine.making import Crash, expire_lease, head_of, kinds_of, runner_of
from tests.engine.reporting import NO_BACKOFF, lines_of, reports_of, until, written
from tests.engine.stores import Store


@pytest.mark.parametrize("sync", [False, True])
async def test_last_progress_is_saved_with_the_step_and_costs_no_write_of_its_own(
    backend: StateBackend, *, sync: bool
) -> None:
    def tell(ctx: StepContext) -> None:
        for done in range(41):
            ctx.progress(done, 200, note=f"page {done}")

    @step(name="import")
    async def in_the_loop(value: int, ctx: StepContext) -> int:
        tell(ctx)
        return value

    @step(name="import")
    def in_a_thread(value: int, ctx: StepContext) -> int:
        tell(ctx)
        return value

    counting = FaultyBackend(backend)
    await runner_of(in_a_thread if sync else in_the_loop, counting).run_async(1, run_id="r")

    [last] = await reports_of(backend, "import")
    assert (last.done, last.total, last.note, last.attempt, last.number) == (40, 200, "page 40", 1, 1)
    assert [kinds[-1] for kinds in counting.writes if kinds != ("save_state",)] == ["run.claimed", "run.completed"]


async def test_progress_is_written_once_a_second_and_extends_the_lease(store: Store) -> None:
    clock, seen = FakeClock(auto=False), list[tuple[float | None, bool]]()
    began = clock.now()

    @step(name="import")
    async def reads(value: int, ctx: StepContext) -> int:
        for number in range(1, 5):
            for part in range(50):
                ctx.progress(number * 50 + part)
            await until(clock, lambda number=number: written(store.backend, number))
            [row] = await reports_of(store.backend, "import")
            head = await head_of(store.backend, "r")
            assert head.lease_expires_at is not None
            seen.append((row.done, head.lease_expires_at >= row.reported_at + timedelta(seconds=30)))
            assert row.number <= (clock.now() - began).total_seconds()
        return value

    await runner_of(reads, store.backend, clock=clock, lease=timedelta(seconds=30)).run_async(1, run_id="r")

    assert seen == [(99, True), (149, True), (199, True), (249, True)]
    assert (await reports_of(store.reopen(), "import"))[0].done == 249


async def test_progress_is_no_fact_of_history(backend: StateBackend) -> None:
    @step
    async def silent(value: int) -> int:
        return value

    @step(name="silent")
    async def talks(value: int, ctx: StepContext) -> int:
        ctx.progress(1, 2)
        ctx.log.info("working")
        return value

    await runner_of(silent, backend).run_async(1, run_id="other")
    await runner_of(talks, backend).run_async(1, run_id="r")

    assert await kinds_of(backend, "r") == await kinds_of(backend, "other")


async def test_each_attempt_has_its_own_progress(backend: StateBackend) -> None:
    @step(retries=1, backoff=NO_BACKOFF)
    async def reads(value: int, ctx: StepContext) -> int:
        ctx.progress(10 * ctx.attempt, 20)
        if ctx.attempt == 1:
            raise ConnectionError
        return value

    await runner_of(reads, backend).run_async(1, run_id="r")

    assert [(row.attempt, row.done) for row in await reports_of(backend, "reads")] == [(1, 10), (2, 20)]


@pytest.mark.parametrize("done", [-1, float("nan"), float("inf"), "much"])
async def test_progress_that_is_no_number_fails_the_step(done: Any) -> None:
    @step
    async def reads(value: int, ctx: StepContext) -> int:
        ctx.progress(done)
        return value

    assert "ValueError" in str((await runner_of(reads, InMemoryBackend()).run_async(1)).error)


async def test_report_of_a_worker_that_lost_its_lease_is_refused(backend: StateBackend) -> None:
    @step
    async def reads(value: int, ctx: StepContext) -> int:
        await expire_lease(backend, "r")
        await runner_of(answer, backend, name="demo").continue_async("r")
        ctx.progress(99)
        return value

    @step(name="reads")
    async def answer(value: int, ctx: StepContext) -> int:
        ctx.progress(1)
        return value + 1

    with pytest.raises(Fenced):
        await runner_of(reads, backend).run_async(1, run_id="r")

    assert [row.done for row in await reports_of(backend, "reads")] == [1]


async def test_report_under_an_old_token_or_of_a_run_that_rests_is_refused(backend: StateBackend) -> None:
    @step
    async def reads(value: int, ctx: StepContext) -> int:
        with pytest.raises(Fenced):
            await backend.transact("r", late(ctx.fencing_token - 1))
        return value

    def late(fence: int) -> Transition:
        said = Reports(StepReport("r", "reads", 1, 1, clock.now(), 10), ())
        return report(said, fence=fence, lease=timedelta(seconds=30), now=clock.now())

    clock = FakeClock()
    ask = Step.human_in_the_loop("ask", message_for_user="?")
    await runner_of(reads >> ask, backend, clock=clock).run_async(1, run_id="r")
    with pytest.raises(Fenced):
        await backend.transact("r", late((await head_of(backend, "r")).fence))

    assert await backend.reports("r") == []
    assert (await head_of(backend, "r")).lease_expires_at is None


async def test_step_that_says_nothing_stores_nothing(backend: StateBackend) -> None:
    @step
    async def silent(value: int, ctx: StepContext) -> int:
        return value if ctx.reporter is None else -1

    assert (await runner_of(silent, backend).run_async(1, run_id="r")).output == 1
    assert await backend.reports("r") == []


async def test_report_that_is_told_of_twice_and_late_changes_nothing(backend: StateBackend) -> None:
    @step
    async def reads(value: int, ctx: StepContext) -> int:
        now, fence = clock.now(), ctx.fencing_token
        chunks = [LogChunk("r", "reads", 1, number, "[]", now) for number in (1, 2)]
        old = Reports(StepReport("r", "reads", 1, 1, now, 10, log_chunks=1), (chunks[0],))
        new = Reports(StepReport("r", "reads", 1, 2, now, 20, log_chunks=2), tuple(chunks))
        for reports in (old, new, new, old):
            await backend.transact("r", report(reports, fence=fence, lease=timedelta(seconds=30), now=now))
        return value

    clock = FakeClock()
    await runner_of(reads, backend, clock=clock).run_async(1, run_id="r")

    assert [row.done for row in await reports_of(backend, "reads")] == [20]
    assert len(await backend.reports("r")) == 3


async def test_store_that_is_away_for_a_moment_loses_no_report() -> None:
    clock, store = FakeClock(), Busy()

    @step
    async def reads(value: int, ctx: StepContext) -> int:
        for number in range(3):
            ctx.log.info("line %d", number)
            ctx.progress(number)
            refused = store.refused
            await until(clock, lambda before=refused: store.has_refused(before))
        store.away = False
        return value

    await runner_of(reads, store, clock=clock).run_async(1, run_id="r")

    assert [line["message"] for line in await lines_of(store, "reads")] == ["line 0", "line 1", "line 2"]
    assert [row.done for row in await reports_of(store, "reads")] == [2]


class Busy(InMemoryBackend):
    """A store that refuses reports while it is `away`."""

    away = True
    refused = 0

    async def transact(self, run_id: str, transition: Transition, *, known: RunHead | None = None) -> Batch:
        if self.away and transition.__qualname__.startswith("report."):
            self.refused += 1
            raise BackendBusy
        return await super().transact(run_id, transition, known=known)

    async def has_refused(self, before: int) -> bool:
        return self.refused > before


async def test_crash_loses_at_most_what_was_said_since_the_last_write(store: Store) -> None:
    clock = FakeClock()

    @step(name="import")
    async def dies(value: int, ctx: StepContext) -> int:
        ctx.log.info("written")
        await until(clock, lambda: written(store.backend, 1))
        ctx.log.info("lost")
        raise Crash

    with pytest.raises(Crash):
        await runner_of(dies, store.backend, clock=clock).run_async(1, run_id="r")

    assert [line["message"] for line in await lines_of(store.reopen(), "import")] == ["written"]


async def test_reports_travel_with_the_run_and_go_with_it(built_in: Store) -> None:
    @step
    async def logs(value: int, ctx: StepContext) -> int:
        ctx.log.info("here")
        ctx.progress(1, 1)
        return value

    backend = built_in.backend
    await runner_of(logs, backend).run_async(1, run_id="r")
    state = await backend.load_state("r")
    assert state is not None

    elsewhere = InMemoryBackend()
    await elsewhere.save_state("r", state)
    assert sorted(await elsewhere.reports("r"), key=str) == sorted(await backend.reports("r"), key=str)
    assert await exported(backend, "r") == state
    await backend.save_state("r", state)  # the store has it already
    await backend.delete_state("r")
    assert await backend.reports("r") == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_write_of_a_report_that_fails_leaves_the_run_working(when: Any) -> None:
    clock = FakeClock()
    faulty = FaultyBackend(InMemoryBackend(), Fault(2, when, BackendBusy()))

    @step(name="import")
    async def reads(value: int, ctx: StepContext) -> int:
        ctx.log.info("one")
        await until(clock, lambda: _length_is(faulty, 2))
        ctx.log.info("two")
        return value

    done = await runner_of(reads, faulty, clock=clock).run_async(1, run_id="r")

    assert done.status is RunStatus.COMPLETED
    assert [line["message"] for line in await lines_of(faulty, "import")] == ["one", "two"]


async def _length_is(faulty: FaultyBackend, writes: int) -> bool:
    return len(faulty.writes) >= writes
